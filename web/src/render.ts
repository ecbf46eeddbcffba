/**
  * Walks a user through a survey. This module knows no server: it reports every
  * step to its caller (the widget, the survey page, a preview).
 */
import { el } from './dom';
import { setAccentText, frame, type Place } from './frame';
import { isValidValue, isMissing, next, walk, type Answers } from './path';
import { control, type Control } from './question';
import type { Answer, CloseReason, Survey, Value } from './types';

export { debug } from './debug';

/** On the survey page the questions are headings of the page; see `Place.page`. */
export interface Mount extends Place {
  /** Answers to start with. Each is reported only when the user leaves its question. */
  answers?: Answers;
  /** The first question is at least half visible. */
  displayed(): void;
  /** New or changed answers. With `completed`, all answers on the path. */
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
/** The value that stands for "no answer", for types that have one. */
const EMPTY: Record<string, Value> = { text: '', multi_choice: [] };
const UNITS: Record<string, number> = { ms: 1, s: 1e3, m: 6e4, h: 36e5 };

/** What is said beside the questions of an anonymous survey. */
const ANONYMOUS = 'Your answers are passed on without your name. Only the server’s log holds it, until that is trimmed.';

/** Milliseconds of `3s` or `1m30s`; 0 if the text is no duration. */
const duration = (text: string): number =>
  [...text.matchAll(/(\d+)(ms|[smh])/g)].reduce((sum, [, n, unit]) => sum + +n! * UNITS[unit!]!, 0);

/** This is one closure because its small functions share the state of one survey. */
export function mount(survey: Survey, on: Mount): View {
  const ui = survey.ui ?? {};
  const labels = ui.labels ?? {};
  const { questions } = survey;
  for (const { type } of questions) if (!KNOWN.test(type)) throw new Error('askwhen: no question type ' + type);
  if (ui.layout === 'inline' && !on.target)
    on.failed('a survey with layout inline needs a container; it is shown as a popover');
  const heading = on.page ? 'h1' : 'h2';
  const box = frame(
    survey,
    on,
    () => close('dismissed', true),
    () => body.querySelector<HTMLElement>('.next')?.click(),
  );
  const { host, root, card, body, layout } = box;
  const bar = el('progress', { max: questions.length, 'aria-label': labels.progress ?? 'Progress' });
  if (ui.progress && questions.length > 1) card.prepend(bar);

  const answers: Answers = { ...on.answers };
  const sent: Record<string, Answer> = {};
  const history: number[] = [];
  let at = 0;
  let shown: Control;
  let since = 0;
  let displayed = false;
  let completed = false;
  let closed = false;
  let timer: ReturnType<typeof setTimeout>;

  function renderQuestion(moved: boolean): void {
    const question = questions[at]!;
    since = performance.now();
    bar.value = at + 1;
    const problem = el('p', { class: 'problem', role: 'alert', id: 'problem' });
    const step = el('button', { type: 'button', class: 'next', part: 'button', click: () => goForward(problem) });
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
        history.length > 0 &&
          el('button', { type: 'button', class: 'back', part: 'button', click: goBack }, labels.back ?? 'Back'),
        step,
      ),
      ...(survey.anonymous ? [el('p', { class: 'note', part: 'note' }, labels.anonymous ?? ANONYMOUS)] : []),
    );
    setAccentText(card, step);
    if (moved) focusQuestion();
  }

  function focusQuestion(): void {
    body.querySelector('h1,h2')!.scrollIntoView?.({ block: 'nearest' });
    if (questions[at]!.type === 'info') root.getElementById('q')!.focus();
    else shown.focus();
  }

  /** Records the current answer; returns it if it is new or changed. */
  function recordAnswer(): Answer | undefined {
    const { question_id } = questions[at]!;
    const value = shown.value();
    const previous = sent[question_id];
    // The API cannot delete a reported answer, so the widget replaces it with an empty one.
    const now = value ?? (previous && (EMPTY[questions[at]!.type] ?? previous.value));
    answers[question_id] = now;
    if (now === undefined || (previous && JSON.stringify(previous.value) === JSON.stringify(now))) return;
    return (sent[question_id] = {
      question_id,
      value: now,
      answered_at: new Date().toISOString(),
      duration_ms: Math.round(performance.now() - since),
    });
  }

  function goForward(problem: HTMLElement): void {
    const question = questions[at]!;
    const value = shown.value();
    const wrong = isMissing(question, value)
      ? (labels.required ?? 'Please answer this question')
      : value !== undefined && !isValidValue(question, value)
        ? (labels.too_long ?? 'This answer is too long')
        : '';
    problem.textContent = wrong;
    if (wrong) {
      shown.field.setAttribute('aria-describedby', 'problem');
      return shown.focus();
    }
    const fresh = recordAnswer();
    markDisplayed();
    const to = next(questions, at, answers[question.question_id]);
    if (typeof to === 'number') {
      if (fresh) on.answered([fresh], false);
      history.push(at);
      at = to;
      return renderQuestion(true);
    }
    const path = walk(questions, answers).path.map((i) => sent[questions[i]!.question_id]);
    completed = true;
    on.answered(path.filter((answer) => answer !== undefined), true);
    showThankYou(to);
  }

  function goBack(): void {
    answers[questions[at]!.question_id] = shown.value();
    at = history.pop()!;
    renderQuestion(true);
  }

  function showThankYou(end: string): void {
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

  function markDisplayed(): void {
    if (displayed) return;
    displayed = true;
    // From here on the observer only notices that the page has removed the card.
    watch.disconnect();
    watch.observe(card);
    on.displayed();
  }

  /** `user`: the user closed it by button or Escape, so the user has seen it. */
  function close(reason: CloseReason, user?: boolean): void {
    if (closed) return;
    closed = true;
    clearTimeout(timer);
    box.detach();
    if (completed && reason === 'dismissed') reason = 'completed';
    if (user && !completed) markDisplayed();
    watch.disconnect();
    if (reason === 'dismissed' && displayed) on.dismissed();
    on.closed(reason);
  }

  const watch = new IntersectionObserver(
    (entries) => {
      const { intersectionRatio, intersectionRect, rootBounds } = entries.at(-1)!;
      if (!host.isConnected) return close('unmounted');
      const fills = rootBounds && intersectionRect.height >= rootBounds.height / 2;
      if (intersectionRatio >= 0.5 || fills) markDisplayed();
    },
    { threshold: [0, 0.25, 0.5, 0.75, 1] },
  );

  try {
    box.attach();
    renderQuestion(layout === 'modal');
  } catch (error) {
    box.detach();
    throw error;
  }
  // A popover takes no focus, so the widget announces it where the browser can.
  if (layout === 'popover') (host as { ariaNotify?(text: string): void }).ariaNotify?.(questions[0]!.text);
  watch.observe(body.firstElementChild!);
  return { host, close };
}
