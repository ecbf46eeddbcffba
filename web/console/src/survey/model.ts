/**
 * A survey's definition as the form edits it: one plain object, changed member
 * by member, so that whatever the form does not show stays as it was.
 */
import { isRaw, parseJson, type Json, type JsonObject } from '../api';

export type Path = (string | number)[];

export const isObject = (value: unknown): value is JsonObject => typeof value === 'object' && value !== null && !Array.isArray(value) && !isRaw(value);

export function getAt(root: Json | undefined, path: Path): Json | undefined {
  let at: Json | undefined = root;
  for (const part of path) {
    if (typeof part === 'number' ? !Array.isArray(at) : !isObject(at)) return undefined;
    at = (at as Record<string | number, Json>)[part];
  }
  return at;
}

/**
 * The same definition with another value at the path. `undefined` takes the
 * member away, and with it an object that has nothing else in it, unless that
 * is a row of a list: a row goes only when the user removes it.
 */
export function setAt(root: Json | undefined, path: Path, value: Json | undefined, isRow = false): Json | undefined {
  const [part, ...rest] = path;
  if (part === undefined) return value;
  if (typeof part === 'number') {
    const list = Array.isArray(root) ? [...root] : [];
    const next = setAt(list[part], rest, value, true);
    if (next === undefined) list.splice(part, 1);
    else list[part] = next;
    return list;
  }
  const object: JsonObject = isObject(root) ? { ...root } : {};
  const next = setAt(object[part], rest, value);
  if (next === undefined) delete object[part];
  else object[part] = next;
  return Object.keys(object).length || isRow ? object : undefined;
}

/** RFC 6901. */
export const pointer = (path: Path): string => path.map((part) => '/' + String(part).replaceAll('~', '~0').replaceAll('/', '~1')).join('');

/** `list` with the member at `from` moved to `to`. */
export function move<T>(list: T[], from: number, to: number): T[] {
  const next = [...list];
  next.splice(to, 0, ...next.splice(from, 1));
  return next;
}

export function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((one, i) => same(one, b[i]));
  if (isRaw(a) && isRaw(b)) return JSON.stringify(a) === JSON.stringify(b);
  if (!isObject(a) || !isObject(b)) return false;
  const names = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...names].every((name) => same(a[name], b[name]));
}

export interface Difference {
  path: string[];
  before?: Json | undefined;
  after?: Json | undefined;
}

/** What names a member of a list, so that a moved question is not a changed one. */
const idOf = (value: Json): string | undefined => {
  if (!isObject(value)) return undefined;
  const id = value.question_id ?? value.ending_id ?? value.trigger;
  return typeof id === 'string' ? id : undefined;
};

export function differences(before: Json | undefined, after: Json | undefined, path: string[] = []): Difference[] {
  if (same(before, after)) return [];
  if (isObject(before) && isObject(after)) {
    const names = [...new Set([...Object.keys(before), ...Object.keys(after)])];
    return names.flatMap((name) => differences(before[name], after[name], [...path, name]));
  }
  if (Array.isArray(before) && Array.isArray(after)) {
    const ids = [before.map(idOf), after.map(idOf)] as const;
    const named = ids.every((list) => list.every(Boolean) && new Set(list).size === list.length);
    if (named) {
      const kept = ids[0].filter((id) => ids[1].includes(id));
      const order = ids[1].filter((id) => ids[0].includes(id));
      return [
        ...(same(kept, order) ? [] : [{ path: [...path, 'order'], before: ids[0] as Json, after: ids[1] as Json }]),
        ...[...new Set([...ids[0], ...ids[1]])].flatMap((id) => differences(before[ids[0].indexOf(id)], after[ids[1].indexOf(id)], [...path, id!])),
      ];
    }
    if (before.some(isObject) || after.some(isObject))
      return Array.from({ length: Math.max(before.length, after.length) }, (_, i) => i).flatMap((i) => differences(before[i], after[i], [...path, String(i + 1)]));
  }
  return [{ path, before, after }];
}

/** Both changes in one definition. Where both have changed the same member, `mine` holds. */
export function merge(base: Json | undefined, theirs: Json | undefined, mine: Json | undefined): Json | undefined {
  if (same(mine, base)) return theirs;
  if (same(theirs, base) || !isObject(theirs) || !isObject(mine)) return mine;
  const from = isObject(base) ? base : {};
  const joint: JsonObject = {};
  for (const name of new Set([...Object.keys(theirs), ...Object.keys(mine)])) {
    const value = merge(from[name], theirs[name], mine[name]);
    if (value !== undefined) joint[name] = value;
  }
  return joint;
}

const LISTS = ['in', 'not_in', 'between'];

/** A condition's value as it is typed: texts bare, lists of simple values with commas, all else as JSON. */
export function valueText(value: Json | undefined, op?: Json): string {
  if (value === undefined) return '';
  if (Array.isArray(value) && LISTS.includes(String(op))) {
    const text = value.map((one) => valueText(one)).join(', ');
    if (same(parseValue(text, op), value)) return text;
  }
  if (typeof value === 'string' && same(parseValue(value, op), value)) return value;
  return JSON.stringify(value);
}

export function parseValue(text: string, op?: Json): Json | undefined {
  if (text === '') return undefined;
  try {
    return parseJson(text);
  } catch {
    if (!LISTS.includes(String(op))) return text;
    return text.split(',').map((part) => part.trim()).filter(Boolean).map((part) => parseValue(part) as Json);
  }
}

const UNITS: [RegExp, string][] = [[/^(s|sec|secs|seconds?)$/, 's'], [/^(m|min|mins|minutes?)$/, 'm'], [/^(h|hrs?|hours?)$/, 'h'], [/^(d|days?)$/, 'd'], [/^(w|weeks?)$/, 'w']];

/** `2 hours` as `2h`; what is no duration stays as it is, and the server says so. */
export function duration(text: string): string {
  const parts = [...text.trim().toLowerCase().matchAll(/(\d+)\s*([a-z]+)/g)];
  if (!parts.length || text.trim().toLowerCase().replace(/(\d+)\s*([a-z]+)[\s,]*/g, '')) return text.trim();
  const units = parts.map(([, n, unit]) => [Number(n), UNITS.find(([pattern]) => pattern.test(unit!))?.[1]] as const);
  if (units.some(([, unit]) => !unit)) return text.trim();
  return units.map(([n, unit]) => (unit === 'w' ? `${n * 7}d` : `${n}${unit}`)).join('');
}

/** Another id for a question, wherever the definition names it. */
export function renameQuestion(def: JsonObject, index: number, to: string): JsonObject {
  const from = getAt(def, ['questions', index, 'question_id']);
  let next = setAt(def, ['questions', index, 'question_id'], to) as JsonObject;
  for (const [i, question] of ((next.questions as JsonObject[]) ?? []).entries())
    for (const [j, rule] of ((question.next as JsonObject[] | undefined) ?? []).entries())
      if (rule.goto === from) next = setAt(next, ['questions', i, 'next', j, 'goto'], to) as JsonObject;
  for (const locale of Object.keys(isObject(next.translations) ? next.translations : {})) {
    const path = ['translations', locale, 'questions'];
    const texts = getAt(next, [...path, String(from)]);
    if (texts === undefined || from === to) continue;
    next = setAt(setAt(next, [...path, to], texts), [...path, String(from)], undefined) as JsonObject;
  }
  return next;
}
