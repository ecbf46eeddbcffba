/**
  * The box around a survey: element, card, style sheet, theme, position and
  * keyboard handling. This module knows no questions.
 */
import { el, icon } from './dom';
import css from './style.css';
import type { Survey, Theme } from './types';

const CLOSE = 'M6 6l12 12M18 6L6 18';

export interface Place {
  /** The survey appears inline in this element; without one it appears over the page. */
  target?: Element | null;
  theme?: Theme | undefined;
  /** The survey page sets this: the survey cannot be closed. */
  page?: boolean;
}

export interface Frame {
  host: HTMLElement;
  root: ShadowRoot;
  card: HTMLElement;
  /** The content of the card; the caller fills it. */
  body: HTMLElement;
  layout: 'inline' | 'modal' | 'popover';
  /** Adds the host to the page. */
  attach(): void;
  /** Removes the host and restores the focus. */
  detach(): void;
}

/** Returns the focused element, also inside open shadow roots. */
function focused(): Element | null {
  let at = document.activeElement;
  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
  return at;
}

/** All surveys of a page share one parsed sheet. */
let baseSheet: CSSStyleSheet | undefined;

function sheet(text: string): CSSStyleSheet {
  const made = new CSSStyleSheet();
  made.replaceSync(text);
  return made;
}

/** Sets the theme as property values, because a value cannot become a rule of its own. */
function themeSheet(theme: Theme): CSSStyleSheet {
  const made = sheet(':host{}');
  const { style } = made.cssRules[0] as CSSStyleRule;
  for (const name of ['accent', 'background', 'text', 'radius', 'font'] as const)
    if (theme[name]) style.setProperty('--theme-' + name, theme[name]!);
  return made;
}

/**
 * Chooses black or white text on the accent, by contrast. The border of `sample`
 * has the accent colour.
 */
export function setAccentText(card: Element, sample: Element): void {
  const color = getComputedStyle(sample).borderTopColor;
  const parts = (color.match(/[\d.]+/g) ?? []).map(Number);
  const [r = 0, g = 0, b = 0] = parts.map((part) => {
    const c = color.startsWith('rgb') ? part / 255 : part;
    return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  // The first part of `oklab` and `oklch` is about the cube root of the luminance.
  const luminance = color.startsWith('ok') ? parts[0]! ** 3 : 0.2126 * r + 0.7152 * g + 0.0722 * b;
  card.classList.toggle('bright', luminance > 0.18);
}

/**
  * `onClose` runs when the user closes the survey, `onEnter` when the user presses Enter in a field.
  * This function is long because its parts share one card and its listeners.
 */
export function frame(survey: Survey, place: Place, onClose: () => void, onEnter: () => void): Frame {
  const ui = survey.ui ?? {};
  const theme = { ...ui.theme, ...place.theme };
  const layout = place.target ? 'inline' : ui.layout === 'modal' ? 'modal' : 'popover';
  const isPopover = layout === 'popover';
  const host = document.createElement('askwhen-survey');
  const root = host.attachShadow({ mode: 'open' });
  root.adoptedStyleSheets = [(baseSheet ??= sheet(css)), themeSheet(theme)];
  const detached = new AbortController();
  const { signal } = detached;
  let before: HTMLElement | null = null;

  const body = el('div', { class: 'body' });
  const closer = el(
    'button',
    { type: 'button', class: 'close', part: 'button close', 'aria-label': ui.labels?.close ?? 'Close', click: onClose },
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
    // Escape outside of an inline survey, or in a field of the page, belongs to the page.
    if (!inside && (!isPopover || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) || target.isContentEditable)) return;
    event.preventDefault();
    onClose();
  }

  /** Keeps key events away from the page, whose shortcuts cannot see that they come from a field. */
  function typed(event: KeyboardEvent): void {
    event.stopPropagation();
    if (event.type !== 'keydown') return;
    escape(event);
    const { tagName } = event.composedPath()[0] as HTMLElement;
    const sends = tagName === 'INPUT' || (tagName === 'TEXTAREA' && (event.ctrlKey || event.metaKey));
    if (event.key !== 'Enter' || event.isComposing || !sends) return;
    event.preventDefault();
    onEnter();
  }

  function attach(): void {
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
    if (isPopover && 'popover' in host) {
      // The top layer is above transforms, clips and z-indices of the page.
      host.popover = 'manual';
      host.showPopover();
    }
    if (layout === 'modal') {
      before = focused() as HTMLElement;
      (card as HTMLDialogElement).showModal();
      card.addEventListener('cancel', (event) => {
        event.preventDefault();
        onClose();
      });
    }
  }

  function detach(): void {
    const held = root.activeElement;
    detached.abort();
    if (layout === 'modal') (card as HTMLDialogElement).close();
    host.remove();
    if (held && before?.isConnected) before.focus();
  }

  return { host, root, card, body, layout, attach, detach };
}
