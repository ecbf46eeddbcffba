/**
 * What a survey is shown in: its element, card, style sheet and theme, where
 * it stands, and what the keyboard does around it. Knows nothing of questions.
 */
import { el, icon } from './dom';
import css from './style.css';
import type { Survey, Theme } from './types';

const CLOSE = 'M6 6l12 12M18 6L6 18';

export interface Place {
  /** Shown in here, inline; otherwise over the page. */
  target?: Element | null;
  theme?: Theme | undefined;
  /** The survey page's: it cannot be closed. */
  page?: boolean;
}

export interface Frame {
  host: HTMLElement;
  root: ShadowRoot;
  card: HTMLElement;
  /** What is in the card, to be filled. */
  body: HTMLElement;
  layout: 'inline' | 'modal' | 'popover';
  /** Puts it on the page. */
  enter(): void;
  /** Takes it away, and gives the focus back. */
  leave(): void;
}

/** The element that has the focus, also inside open shadow roots. */
function focused(): Element | null {
  let at = document.activeElement;
  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
  return at;
}

/** Read once for all surveys of a page. */
let looks: CSSStyleSheet | undefined;

function sheet(text: string): CSSStyleSheet {
  const made = new CSSStyleSheet();
  made.replaceSync(text);
  return made;
}

/** The theme as values of properties: as such, none can become a rule of its own. */
function themed(theme: Theme): CSSStyleSheet {
  const made = sheet(':host{}');
  const { style } = made.cssRules[0] as CSSStyleRule;
  for (const name of ['accent', 'background', 'text', 'radius', 'font'] as const)
    if (theme[name]) style.setProperty('--theme-' + name, theme[name]!);
  return made;
}

/** Text on the accent is black or white, whichever is easier to read there; `sample` has the accent as its border. */
export function contrast(card: Element, sample: Element): void {
  const color = getComputedStyle(sample).borderTopColor;
  const parts = (color.match(/[\d.]+/g) ?? []).map(Number);
  const [r = 0, g = 0, b = 0] = parts.map((part) => {
    const c = color.startsWith('rgb') ? part / 255 : part;
    return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  // Of `oklab` and `oklch` the first part is the cube root of the luminance, nearly.
  const luminance = color.startsWith('ok') ? parts[0]! ** 3 : 0.2126 * r + 0.7152 * g + 0.0722 * b;
  card.classList.toggle('bright', luminance > 0.18);
}

/**
 * `closed`: the user wants it closed. `entered`: Enter in a field.
 * Longer than most functions, because its parts share one card and its listeners.
 */
export function frame(survey: Survey, place: Place, closed: () => void, entered: () => void): Frame {
  const ui = survey.ui ?? {};
  const theme = { ...ui.theme, ...place.theme };
  const layout = place.target ? 'inline' : ui.layout === 'modal' ? 'modal' : 'popover';
  const over = layout === 'popover';
  const host = document.createElement('askwhen-survey');
  const root = host.attachShadow({ mode: 'open' });
  root.adoptedStyleSheets = [(looks ??= sheet(css)), themed(theme)];
  const left = new AbortController();
  const { signal } = left;
  let before: HTMLElement | null = null;

  const body = el('div', { class: 'body' });
  const closer = el(
    'button',
    { type: 'button', class: 'close', part: 'button close', 'aria-label': ui.labels?.close ?? 'Close', click: closed },
    icon(CLOSE),
  );
  const card = el(
    layout === 'modal' ? 'dialog' : 'div',
    {
      role: place.page ? 'form' : 'dialog',
      'aria-labelledby': 'q',
      'aria-modal': layout === 'modal' ? 'true' : null,
      part: 'card',
      class: `card ${layout} ${ui.position ?? ''}`,
      lang: survey.locale,
      dir: survey.dir ?? 'ltr',
    },
    body,
    !place.page && closer,
  );

  function escape(event: KeyboardEvent): void {
    if (event.key !== 'Escape' || event.defaultPrevented || event.isComposing || place.page) return;
    const target = event.composedPath()[0] as HTMLElement;
    const inside = root.contains(target);
    // An inline survey closes only from within; what Escape means in the page's own fields is the page's.
    if (!inside && (!over || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) || target.isContentEditable)) return;
    event.preventDefault();
    closed();
  }

  /** What is typed in here is none of the page's: its shortcuts would not know that it comes from a field. */
  function typed(event: KeyboardEvent): void {
    event.stopPropagation();
    if (event.type !== 'keydown') return;
    escape(event);
    const { tagName } = event.composedPath()[0] as HTMLElement;
    const sends = tagName === 'INPUT' || (tagName === 'TEXTAREA' && (event.ctrlKey || event.metaKey));
    if (event.key !== 'Enter' || event.isComposing || !sends) return;
    event.preventDefault();
    entered();
  }

  function enter(): void {
    const scheme = matchMedia('(prefers-color-scheme: dark)');
    const shade = () =>
      card.classList.toggle('dark', theme.scheme === 'dark' || (theme.scheme !== 'light' && scheme.matches));
    shade();
    scheme.addEventListener('change', shade, { signal });
    document.addEventListener('keydown', escape, { signal });
    for (const name of ['keydown', 'keyup', 'keypress'] as const) host.addEventListener(name, typed);
    root.addEventListener('focusin', (event) => {
      const from = (event as FocusEvent).relatedTarget as HTMLElement | null;
      if (from && !root.contains(from)) before = from;
    });
    root.append(card);
    host.className = layout;
    (place.target ?? document.documentElement).append(host);
    if (over && 'popover' in host) {
      // The top layer: above all, whatever the page does with transforms, clips and z-indices.
      host.popover = 'manual';
      host.showPopover();
    }
    if (layout === 'modal') {
      before = focused() as HTMLElement;
      (card as HTMLDialogElement).showModal();
      card.addEventListener('cancel', (event) => {
        event.preventDefault();
        closed();
      });
    }
  }

  function leave(): void {
    const held = root.activeElement;
    left.abort();
    if (layout === 'modal') (card as HTMLDialogElement).close();
    host.remove();
    if (held && before?.isConnected) before.focus();
  }

  return { host, root, card, body, layout, enter, leave };
}
