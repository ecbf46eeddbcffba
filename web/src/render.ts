/**
 * Draws a survey and walks through it. Knows nothing of servers: what happens
 * is told to whoever mounts it (the widget, the survey page, a preview).
 */
import { el, icon } from './dom';
import { fits, lacks, next, walk, type Answers } from './path';
import { control, type Control } from './question';
import css from './style.css';
import type { Answer, CloseReason, Survey, Theme, Value } from './types';

export { debug } from './debug';

export interface Mount {
  theme?: Theme | undefined;
  /** Shown in here, inline; otherwise over the page. */
  target?: Element | null;
  /** The survey page's: no way to close, its questions are the page's headings. */
  page?: boolean;
  /** Answers to begin with; they are told only when their question is left. */
  answers?: Answers;
  /** The first question is at least half visible. */
  displayed(): void;
  /** Answers that are new or changed; with `completed`, all that the path leads through. */
  answered(answers: Answer[], completed: boolean): void;
  dismissed(): void;
  closed(reason: CloseReason): void;
  failed(error: unknown): void;
}

export interface View {
  host: HTMLElement;
  close(reason: CloseReason): void;
}

export interface Renderer {
  mount(survey: Survey, mount: Mount): View;
  debug(decision: unknown): void;
}

const CLOSE = 'M6 6l12 12M18 6L6 18';
const KNOWN = /^(text|nps|info|(single|multi)_choice|rating_(number|star|emoji))$/;
const UNITS: Record<string, number> = { ms: 1, s: 1e3, m: 6e4, h: 36e5 };

/** `3s`, `1m30s`; 0 for what is no duration. */
const duration = (text: string): number =>
  [...text.matchAll(/(\d+)(ms|[smh])/g)].reduce((sum, [, n, unit]) => sum + +n! * UNITS[unit!]!, 0);

/** The element that has the focus, also inside open shadow roots. */
function focused(): Element | null {
  let at = document.activeElement;
  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
  return at;
}

export function mount(survey: Survey, on: Mount): View {
  const ui = survey.ui ?? {};
  const labels = ui.labels ?? {};
  const { questions } = survey;
  for (const { type } of questions) if (!KNOWN.test(type)) throw new Error('askwhen: no question type ' + type);
  const theme = { ...ui.theme, ...on.theme };
  if (ui.layout === 'inline' && !on.target) on.failed('a survey with layout inline needs a container; it is shown as a popover');
  const layout = on.target ? 'inline' : ui.layout === 'modal' ? 'modal' : 'popover';
  const over = layout === 'popover';
  const host = document.createElement('askwhen-survey');
  const root = host.attachShadow({ mode: 'open' });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css + ':host{}');
  root.adoptedStyleSheets = [sheet];
  const own = (sheet.cssRules[sheet.cssRules.length - 1] as CSSStyleRule).style;
  // As a property, a value cannot become a rule of its own.
  for (const name of ['accent', 'background', 'text', 'radius', 'font'] as const)
    if (theme[name]) own.setProperty('--theme-' + name, theme[name]!);

  const stopped = new AbortController();
  const { signal } = stopped;
  const answers: Answers = { ...on.answers };
  const given: Record<string, Answer> = {};
  let steps: number[] = [];
  let at = 0;
  let shown: Control;
  let since = 0;
  let displayed = false;
  let completed = false;
  let before: HTMLElement | null = null;
  let timer: ReturnType<typeof setTimeout>;

  const body = el('div', { class: 'body' });
  const bar = el('progress', { max: questions.length, 'aria-label': labels.progress ?? 'Progress' });
  const closer = el(
    'button',
    { type: 'button', class: 'close', part: 'button close', 'aria-label': labels.close ?? 'Close', click: () => close('dismissed', true) },
    icon(CLOSE),
  );
  const card = el(
    layout === 'modal' ? 'dialog' : 'div',
    {
      role: on.page ? 'form' : 'dialog',
      'aria-labelledby': 'q',
      'aria-modal': layout === 'modal' ? 'true' : null,
      part: 'card',
      class: `card ${layout} ${ui.position ?? ''}`,
      lang: survey.locale,
      dir: survey.dir ?? 'ltr',
    },
    ui.progress && questions.length > 1 && bar,
    body,
    !on.page && closer,
  );

  function draw(moved: boolean): void {
    const question = questions[at]!;
    since = performance.now();
    bar.value = at + 1;
    const problem = el('p', { class: 'problem', role: 'alert', id: 'problem' });
    const step = el('button', { type: 'button', class: 'next', part: 'button', click: () => advance(problem) });
    const settle = () => {
      problem.textContent = '';
      shown.field.removeAttribute('aria-describedby');
      step.textContent = typeof next(questions, at, shown.value()) === 'string' ? (labels.submit ?? 'Send') : (labels.next ?? 'Next');
    };
    shown = control(question, answers[question.question_id], survey.offer_id + question.question_id, settle);
    settle();
    body.replaceChildren(
      el(
        'div',
        { class: 'question ' + question.type, part: 'question' },
        el(on.page ? 'h1' : 'h2', { id: 'q', tabindex: -1 }, question.text),
        shown.element,
      ),
      problem,
      el(
        'div',
        { class: 'steps' },
        steps.length > 0 &&
          el('button', { type: 'button', class: 'back', part: 'button', click: back }, labels.back ?? 'Back'),
        step,
      ),
    );
    paint(step);
    if (moved) focusOn();
  }

  function focusOn(): void {
    body.querySelector('h1,h2')!.scrollIntoView?.({ block: 'nearest' });
    if (questions[at]!.type === 'info') root.getElementById('q')!.focus();
    else shown.focus();
  }

  /** Text on the accent is black or white, whichever is easier to read there. */
  function paint(button: Element): void {
    const color = getComputedStyle(button).borderTopColor;
    const parts = (color.match(/[\d.]+/g) ?? []).map(Number);
    const [r = 0, g = 0, b = 0] = parts.map((part) => {
      const c = color.startsWith('rgb') ? part / 255 : part;
      return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    // Of `oklab` and `oklch` the first part is the cube root of the luminance, nearly.
    const luminance = color.startsWith('ok') ? parts[0]! ** 3 : 0.2126 * r + 0.7152 * g + 0.0722 * b;
    card.classList.toggle('bright', luminance > 0.18);
  }

  /** Keeps what is given now, and what of it is new. */
  function keep(): Answer | undefined {
    const { question_id } = questions[at]!;
    const value = shown.value();
    const told = given[question_id];
    // What was told cannot be taken back, only said to be empty, where a type has that.
    const empty: Record<string, Value> = { text: '', multi_choice: [] };
    const now = value ?? (told && (empty[questions[at]!.type] ?? told.value));
    answers[question_id] = now;
    if (now === undefined || (told && JSON.stringify(told.value) === JSON.stringify(now))) return;
    return (given[question_id] = {
      question_id,
      value: now,
      answered_at: new Date().toISOString(),
      duration_ms: Math.round(performance.now() - since),
    });
  }

  function advance(problem: HTMLElement): void {
    const question = questions[at]!;
    const value = shown.value();
    const wrong = lacks(question, value)
      ? (labels.required ?? 'Please answer this question')
      : value !== undefined && !fits(question, value)
        ? (labels.too_long ?? 'This answer is too long')
        : '';
    problem.textContent = wrong;
    if (wrong) {
      shown.field.setAttribute('aria-describedby', 'problem');
      return shown.focus();
    }
    const fresh = keep();
    see();
    const to = next(questions, at, answers[question.question_id]);
    if (typeof to === 'number') {
      if (fresh) on.answered([fresh], false);
      steps.push(at);
      at = to;
      return draw(true);
    }
    const path = walk(questions, answers).path.map((i) => given[questions[i]!.question_id]);
    completed = true;
    on.answered(path.filter((answer) => answer !== undefined), true);
    thank(to);
  }

  function back(): void {
    answers[questions[at]!.question_id] = shown.value();
    at = steps.pop()!;
    draw(true);
  }

  function thank(end: string): void {
    const ending = survey.endings?.find((e) => e.ending_id === end);
    const link = ending?.link && /^https?:/.test(ending.link) ? ending.link : null;
    const said = el(on.page ? 'h1' : 'h2', { id: 'q', tabindex: -1, class: 'thanks' }, ending?.text ?? ui.thank_you?.text ?? 'Thank you');
    const wait = ui.thank_you?.close_after;
    const held = card.contains(root.activeElement);
    bar.remove();
    body.replaceChildren(el('div', { role: 'status' }, said, link && el('a', { href: link, rel: 'noopener' }, link)));
    if (held) said.focus();
    const after = link || on.page ? 0 : duration(wait === undefined ? '3s' : (wait ?? ''));
    if (after) timer = setTimeout(() => close('completed'), after);
  }

  function see(): void {
    if (displayed) return;
    displayed = true;
    // From now on only to notice that the page has taken it away.
    watch.disconnect();
    watch.observe(card);
    on.displayed();
  }

  /** `user`: by the close button or Escape; then it has been seen, too. */
  function close(reason: CloseReason, user?: boolean): void {
    if (signal.aborted) return;
    const held = root.activeElement;
    stopped.abort();
    watch.disconnect();
    clearTimeout(timer);
    if (layout === 'modal') (card as HTMLDialogElement).close();
    host.remove();
    if (held && before?.isConnected) before.focus();
    if (completed && reason === 'dismissed') reason = 'completed';
    if (user && !completed) see();
    if (reason === 'dismissed' && displayed) on.dismissed();
    on.closed(reason);
  }

  const watch = new IntersectionObserver(
    (entries) => {
      const { intersectionRatio, intersectionRect, rootBounds } = entries.at(-1)!;
      if (!host.isConnected) return close('unmounted');
      const fills = rootBounds && intersectionRect.height >= rootBounds.height / 2;
      if (intersectionRatio >= 0.5 || fills) see();
    },
    { threshold: [0, 0.25, 0.5, 0.75, 1] },
  );

  function escape(event: KeyboardEvent): void {
    if (event.key !== 'Escape' || event.defaultPrevented || event.isComposing || on.page) return;
    const target = event.composedPath()[0] as HTMLElement;
    const inside = root.contains(target);
    // An inline survey closes only from within; what Escape means in the page's own fields is the page's.
    if (!inside && (!over || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) || target.isContentEditable)) return;
    event.preventDefault();
    close('dismissed', true);
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
    body.querySelector<HTMLElement>('.next')!.click();
  }

  const scheme = matchMedia('(prefers-color-scheme: dark)');
  const shade = () =>
    card.classList.toggle('dark', theme.scheme === 'dark' || (theme.scheme !== 'light' && scheme.matches));
  shade();
  scheme.addEventListener('change', shade, { signal });
  document.addEventListener('keydown', escape, { signal });
  for (const name of ['keydown', 'keyup', 'keypress'] as const) host.addEventListener(name, typed);
  root.addEventListener('focusin', ((event: FocusEvent) => {
    const from = event.relatedTarget as HTMLElement | null;
    if (from && !root.contains(from)) before = from;
  }) as EventListener, { signal });

  function enter(): void {
    root.append(card);
    host.className = layout;
    (on.target ?? document.documentElement).append(host);
    if (over && 'popover' in host) {
      host.popover = 'manual';
      host.showPopover();
    }
    if (layout === 'modal') {
      before = focused() as HTMLElement;
      (card as HTMLDialogElement).showModal();
      card.addEventListener('cancel', (event) => {
        event.preventDefault();
        close('dismissed', true);
      });
    }
    draw(layout === 'modal');
  }
  try {
    enter();
  } catch (error) {
    stopped.abort();
    host.remove();
    throw error;
  }
  // A popover takes no focus, so a screen reader is told of it, where it can be.
  if (over) (host as { ariaNotify?(text: string): void }).ariaNotify?.(questions[0]!.text);
  watch.observe(body.firstElementChild!);
  return { host, close };
}
