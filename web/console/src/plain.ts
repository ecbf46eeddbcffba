/**
 * Marks of writing direction in texts that others have written. One that reverses letters,
 * or that the text does not end itself, would turn around what stands beside the text, or
 * show one name as another; such texts show the codes of their marks instead.
 */
import { options } from 'preact';

const MARKS = /[\u202a-\u202e\u2066-\u2069]/g;
const REVERSES = /[\u202d\u202e]/;
/** What ends each kind of mark. */
const ENDS: Record<string, string> = { '\u202a': '\u202c', '\u202b': '\u202c', '\u2066': '\u2069', '\u2067': '\u2069', '\u2068': '\u2069' };

/** Whether every mark of the text ends within it, and none reverses letters. */
function isContained(marks: string[]): boolean {
  const open: string[] = [];
  for (const mark of marks) {
    if (REVERSES.test(mark)) return false;
    const end = ENDS[mark];
    if (end) open.push(end);
    else if (open.pop() !== mark) return false;
  }
  return !open.length;
}

/** The text as it can be shown beside others. */
export function plain(text: string): string {
  const marks = text.match(MARKS);
  if (!marks || isContained(marks)) return text;
  return text.replace(MARKS, (mark) => `⟨U+${mark.charCodeAt(0).toString(16).toUpperCase()}⟩`);
}

/** Holds for every text of every page; fields, and what is copied or exported, have texts as they are. */
export function showPlainly(): void {
  const before = options.vnode;
  options.vnode = (vnode) => {
    const text = vnode as unknown as { type: unknown; props: unknown };
    if (text.type === null && typeof text.props === 'string') text.props = plain(text.props);
    before?.(vnode);
  };
}
