/** The controls of the eight question types. */
import { el, icon, set } from './dom';
import type { Option, Question, Value } from './types';

export interface Control {
  element: HTMLElement;
  /** The group or text field that an error describes. */
  field: HTMLElement;
  /** Focuses the control; does nothing for `info`. */
  focus(): void;
  value(): Value | undefined;
}

const STAR = 'M12 2.6l2.9 5.9 6.5.9-4.7 4.6 1.1 6.5-5.8-3.1-5.8 3.1 1.1-6.5L2.6 9.4l6.5-.9z';
const face = (mouth: number) =>
  `M12 2.5a9.5 9.5 0 1 1 0 19a9.5 9.5 0 1 1 0-19M8.6 8.7v1.6M15.4 8.7v1.6M7.6 ${15.4 - mouth / 3}q4.4 ${mouth} 8.8 0`;

/** Returns the options in random order; the order is stable for a seed. */
export function shuffled<T>(list: T[], seed: string): T[] {
  let state = 2166136261;
  for (const character of seed) state = Math.imul(state ^ character.codePointAt(0)!, 16777619);
  const order = [...list];
  for (let i = order.length - 1; i > 0; i--) {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
    const other = ((mixed ^ (mixed >>> 14)) >>> 0) % (i + 1);
    [order[i], order[other]] = [order[other]!, order[i]!];
  }
  return order;
}

/** Builds the control of a question. `changed` runs whenever the value may have changed. */
export function control(question: Question, before: Value | undefined, seed: string, changed: () => void): Control {
  const { type } = question;
  const required = question.required !== false;
  if (type === 'info') {
    const none = el('div');
    return { element: none, field: none, focus() {}, value: () => undefined };
  }
  if (type === 'text') {
    const area = el('textarea', {
      'aria-labelledby': 'q',
      'aria-required': required + '',
      part: 'option',
      rows: 3,
      input: changed,
    });
    area.value = typeof before === 'string' ? before : '';
    return { element: area, field: area, focus: () => area.focus(), value: () => textOf(area) };
  }
  if (type === 'single_choice' || type === 'multi_choice') return choiceControl(question, before, seed, changed);
  const [low, high] = type === 'nps' ? [0, 10] : [1, type === 'rating_number' ? (question.scale ?? 5) : 5];
  const values = Array.from({ length: high - low + 1 }, (_, i) => low + i);
  const buttons = values.map((value) => {
    const drawn =
      type === 'rating_star' ? icon(STAR) : type === 'rating_emoji' ? icon(face((value - 3) * 3)) : value + '';
    return el('button', { type: 'button', role: 'radio', part: 'option', 'aria-label': value }, drawn);
  });
  const group = rovingGroup(buttons, question, [values.indexOf(before as number)], changed);
  set(group.element, { class: `scale ${type} n${values.length}` });
  const { low: least, high: most } = question.labels ?? {};
  const ends = (least || most) && el('div', { class: 'ends' }, el('span', { id: 'low' }, least), el('span', { id: 'high' }, most));
  if (least) set(buttons[0]!, { 'aria-describedby': 'low' });
  if (most) set(buttons.at(-1)!, { 'aria-describedby': 'high' });
  return {
    element: el('div', {}, group.element, ends),
    field: group.element,
    focus: group.focus,
    value: () => values[group.chosen()[0]!],
  };
}

/** Returns the trimmed text, or undefined if it is blank. Lone surrogates are replaced, because JSON forbids them. */
function textOf(field: HTMLTextAreaElement | HTMLInputElement): string | undefined {
  const text = field.value.trim();
  return ((text as any).toWellFormed?.() ?? text) || undefined;
}

function choiceControl(question: Question, before: Value | undefined, seed: string, changed: () => void): Control {
  const several = question.type === 'multi_choice';
  const options = (question.options ?? []).map((o): Option => (typeof o === 'string' ? { value: o } : o));
  const order = question.shuffle ? shuffled(options, seed) : options;
  const chosen = before == null ? [] : Array.isArray(before) ? before : [before];
  const { other } = question;
  const texts = order.map((o) => o.text ?? o.value).concat(other ? [other.text ?? ''] : []);
  const buttons = texts.map((text) =>
    el('button', { type: 'button', role: several ? 'checkbox' : 'radio', part: 'option' }, el('i'), el('span', {}, text)),
  );
  const free = chosen.find((v) => typeof v === 'object');
  const field = el('input', { autocomplete: 'off', 'aria-label': other?.text, part: 'option', input: changed });
  field.value = free?.other ?? '';
  const initial = chosen.map((v) => (typeof v === 'object' ? order.length : order.findIndex((o) => o.value === v)));
  const toggled = () => {
    field.hidden = !group.chosen().includes(order.length);
    changed();
  };
  const group = rovingGroup(buttons, question, initial, toggled, (index) => index === order.length && field.focus());
  field.hidden = !initial.includes(order.length);
  const given = (index: number) => {
    if (index < order.length) return order[index]!.value;
    const text = textOf(field);
    return text && { other: text };
  };
  return {
    element: el('div', { class: 'list' }, group.element, other && field),
    field: group.element,
    focus: group.focus,
    value() {
      // `other` counts only with its text.
      const values = group.chosen().map(given).filter((v) => v !== undefined && v !== '');
      return several && values.length ? (values as Value) : (values[0] as Value | undefined);
    },
  };
}

/**
  * A group with one tab stop: arrows move the focus, Space or a click selects.
  * Moving never selects, so nobody answers by accident.
 */
function rovingGroup(
  buttons: HTMLButtonElement[],
  question: Question,
  initial: number[],
  changed: () => void,
  after: (index: number) => unknown = () => 0,
) {
  const several = question.type === 'multi_choice';
  const chosen = new Set(initial.filter((index) => index >= 0));
  let tabStop = Math.max(0, initial[0] ?? 0);
  const update = () =>
    buttons.forEach((button, i) =>
      set(button, {
        'aria-checked': chosen.has(i) + '',
        tabindex: i === tabStop ? 0 : -1,
        // CSS fills the stars up to the selected one.
        class: !several && chosen.size && i <= Math.max(...chosen) ? 'upto' : null,
      }),
    );
  buttons.forEach((button, i) =>
    button.addEventListener('click', () => {
      if (!several) chosen.clear();
      if (!chosen.delete(i)) chosen.add(i);
      tabStop = i;
      update();
      changed();
      if (chosen.has(i)) after(i);
    }),
  );
  const element = el(
    'div',
    {
      role: several ? 'group' : 'radiogroup',
      'aria-labelledby': 'q',
      'aria-required': several ? null : (question.required !== false) + '',
      keydown(event: KeyboardEvent) {
        const ahead = getComputedStyle(element).direction === 'rtl' ? 'ArrowLeft' : 'ArrowRight';
        const back = ahead === 'ArrowLeft' ? 'ArrowRight' : 'ArrowLeft';
        const { key } = event;
        const last = buttons.length - 1;
        const at =
          key === ahead || key === 'ArrowDown' ? (tabStop === last ? 0 : tabStop + 1)
          : key === back || key === 'ArrowUp' ? (tabStop || last + 1) - 1
          : key === 'Home' ? 0
          : key === 'End' ? last
          : -1;
        if (at < 0) return;
        event.preventDefault();
        tabStop = at;
        update();
        buttons[tabStop]!.focus();
      },
    },
    ...buttons,
  );
  update();
  return { element, focus: () => buttons[tabStop]!.focus(), chosen: () => [...chosen].sort((a, b) => a - b) };
}
