/**
 * Walks a user through a survey. Knows nothing of servers: what happens is told
 * to whoever mounts it (the widget, the survey page, a preview).
 */
import { el } from './dom';
import { contrast, frame, type Place } from './frame';
import { fits, lacks, next, walk, type Answers } from './path';
import { control, type Control } from './question';
import type { Answer, CloseReason, Survey, Value } from './types';

export { debug } from './debug';

/** The survey page's questions are the page's headings; see `Place`. */
export interface Mount extends Place {
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

const KNOWN = /^(text|nps|info|(single|multi)_choice|rating_(number|star|emoji))$/;
/** What stands for no answer, where a type has that. */
const EMPTY: Record<string, Value> = { text: '', multi_choice: [] };
const UNITS: Record<string, number> = { ms: 1, s: 1e3, m: 6e4, h: 36e5 };

/** `3s`, `1m30s`; 0 for what is no duration. */
const duration = (text: string): number =>
  [...text.matchAll(/(\d+)(ms|[smh])/g)].reduce((sum, [, n, unit]) => sum + +n! * UNITS[unit!]!, 0);

/** One closure, because the small functions in it share the state of one survey. */
export function mount(survey: Survey, on: Mount): View {
  const ui = survey.ui ?? {};
  const labels = ui.labels ?? {};
  const { questions } = survey;
  for (const { type } of questions) if (!KNOWN.test(type)) throw new Error('askwhen: no question type ' + type);
  if (ui.layout === 'inline' && !on.target)
    on.failed('a survey with layout inline needs a container; it is shown as a popover');
  const heading = on.page ? 'h1' : 'h2';
  const shell = frame(
    survey,
    on,
    () => close('dismissed', true),
    () => body.querySelector<HTMLElement>('.next')?.click(),
  );
  const { host, root, card, body, layout } = shell;
  const bar = el('progress', { max: questions.length, 'aria-label': labels.progress ?? 'Progress' });
  if (ui.progress && questions.length > 1) card.prepend(bar);

  const answers: Answers = { ...on.answers };
  const given: Record<string, Answer> = {};
  const steps: number[] = [];
  let at = 0;
  let shown: Control;
  let since = 0;
  let displayed = false;
  let completed = false;
  let over = false;
  let timer: ReturnType<typeof setTimeout>;

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
        { class: question.type === 'info' ? 'question info' : 'question', part: 'question' },
        el(heading, { id: 'q', tabindex: -1 }, question.text),
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
    contrast(card, step);
    if (moved) focusOn();
  }

  function focusOn(): void {
    body.querySelector('h1,h2')!.scrollIntoView?.({ block: 'nearest' });
    if (questions[at]!.type === 'info') root.getElementById('q')!.focus();
    else shown.focus();
  }

  /** Keeps what is given now, and what of it is new. */
  function keep(): Answer | undefined {
    const { question_id } = questions[at]!;
    const value = shown.value();
    const told = given[question_id];
    // What was told cannot be taken back, only said to be empty.
    const now = value ?? (told && (EMPTY[questions[at]!.type] ?? told.value));
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
    const said = el(heading, { id: 'q', tabindex: -1, class: 'thanks' }, ending?.text ?? ui.thank_you?.text ?? 'Thank you');
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
    if (over) return;
    over = true;
    clearTimeout(timer);
    shell.leave();
    if (completed && reason === 'dismissed') reason = 'completed';
    if (user && !completed) see();
    watch.disconnect();
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

  try {
    shell.enter();
    draw(layout === 'modal');
  } catch (error) {
    shell.leave();
    throw error;
  }
  // A popover takes no focus, so a screen reader is told of it, where it can be.
  if (layout === 'popover') (host as { ariaNotify?(text: string): void }).ariaNotify?.(questions[0]!.text);
  watch.observe(body.firstElementChild!);
  return { host, close };
}
