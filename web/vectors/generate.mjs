// Makes path.json and values.json from a seed. `--check` compares instead.
// Their form is described in README.md beside this file.
import { readFileSync, writeFileSync } from 'node:fs';
import { fits, follow } from './reference.mjs';

const SEED = 20261129;
const SURVEYS = 1000;
const ANSWERS_EACH = 10;

let state = SEED;
/** mulberry32: the same numbers on every machine. */
const random = () => {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};
const upTo = (n) => Math.floor(random() * n);
const pick = (list) => list[upTo(list.length)];
const chance = (share) => random() < share;

const TYPES = ['text', 'nps', 'single_choice', 'multi_choice', 'rating_number', 'rating_star', 'rating_emoji', 'info'];
const TEXTS = ['', 'a', 'Ab', 'abc', 'price', 'zz', 'ä', '\u{1f600}', '\ufb01', 'The light'];
const OPTIONS = ['price', 'bugs', 'light', 'noise', 'a', 'Ä'];

function question(index) {
  const type = pick(TYPES);
  const made = { question_id: 'q' + index, type, text: 'T' };
  if (chance(0.4)) made.required = false;
  if (type === 'rating_number' && chance(0.8)) made.scale = pick([3, 5, 7, 10]);
  if (type === 'single_choice' || type === 'multi_choice') {
    made.options = OPTIONS.slice(0, 2 + upTo(4)).map((value) => (chance(0.3) ? { value, text: value + '!' } : value));
    if (chance(0.4)) made.other = { text: 'Other' };
  }
  return made;
}

/** A condition that can apply to the question's type. */
function condition(question) {
  const { type } = question;
  if (type === 'info') return { op: 'not_exists' };
  if (chance(0.12)) return { op: pick(['exists', 'not_exists']) };
  if (type === 'single_choice' || type === 'multi_choice') {
    const values = question.options.map((o) => o.value ?? o);
    if (type === 'multi_choice') return { op: pick(['contains', 'not_contains', 'contains_ci']), value: pick(values) };
    return chance(0.5)
      ? { op: pick(['eq', 'neq', 'starts_with', 'eq_ci']), value: pick(values) }
      : { op: pick(['in', 'not_in']), value: values.slice(0, 1 + upTo(values.length)) };
  }
  if (type === 'text') {
    const op = pick(['eq', 'neq', 'gt', 'gte', 'lt', 'lte', 'contains', 'not_contains', 'starts_with', 'ends_with', 'contains_ci', 'ends_with_ci', 'between', 'in']);
    if (op === 'between') return { op, value: ['a', 'zz'] };
    return { op, value: op === 'in' ? [pick(TEXTS), 'q'] : pick(TEXTS.slice(1)) };
  }
  const op = pick(['eq', 'neq', 'gt', 'gte', 'lt', 'lte', 'between', 'in', 'not_in']);
  const number = () => upTo(11);
  if (op === 'between') {
    const low = number();
    return { op, value: [low, low + upTo(4)] };
  }
  return { op, value: op.endsWith('in') ? [number(), number()] : number() };
}

function survey() {
  const questions = Array.from({ length: 1 + upTo(7) }, (_, i) => question(i));
  questions.forEach((asked, i) => {
    if (!chance(0.5)) return;
    asked.next = Array.from({ length: 1 + upTo(2) }, () => {
      const later = questions.slice(i + 1).map((q) => q.question_id);
      const goto = chance(0.2) ? 'end' : chance(0.05) ? 'sorry' : (pick(later) ?? 'end');
      return chance(0.85) ? { when: condition(asked), goto } : { goto };
    });
  });
  return questions;
}

function value(question) {
  const { type } = question;
  const options = (question.options ?? []).map((o) => o.value ?? o);
  if (question.other && chance(0.25)) {
    const other = { other: pick(['x', 'price']) };
    return type === 'single_choice' ? other : chance(0.5) ? [other] : [options[0], other];
  }
  if (type === 'text') return pick(TEXTS);
  if (type === 'single_choice') return pick(options);
  if (type === 'multi_choice') return options.filter(() => chance(0.4));
  if (type === 'nps') return upTo(11);
  return 1 + upTo(type === 'rating_number' ? (question.scale ?? 5) : 5);
}

const paths = [];
for (let s = 0; s < SURVEYS; s++) {
  const questions = survey();
  const cases = [];
  for (let a = 0; a < ANSWERS_EACH; a++) {
    const answers = {};
    for (const asked of questions) if (asked.type !== 'info' && chance(0.75)) answers[asked.question_id] = value(asked);
    cases.push({ answers, ...follow(questions, answers) });
  }
  paths.push({ questions, cases });
}

// Every type against values that fit, nearly fit, and do not fit at all. Half a
// surrogate pair is no JSON, so none is here.
const choices = { options: ['price', { value: 'bugs', text: 'Bugs' }] };
const questions = [
  { type: 'text' },
  { type: 'nps' },
  { type: 'single_choice', ...choices },
  { type: 'single_choice', ...choices, other: { text: 'Other' } },
  { type: 'multi_choice', ...choices },
  { type: 'multi_choice', ...choices, other: { text: 'Other' } },
  ...[undefined, 3, 5, 7, 10].map((scale) => ({ type: 'rating_number', scale })),
  { type: 'rating_star' },
  { type: 'rating_emoji' },
  { type: 'info' },
].map((asked, i) => JSON.parse(JSON.stringify({ question_id: 'q' + i, text: 'T', ...asked })));
const long = 'a'.repeat(16384);
const candidates = [
  ...Array.from({ length: 14 }, (_, i) => i - 1),
  4.5, 1e300, true, false, null, '', '4', 'price', 'bugs', 'Bugs', 'x', long, long + 'a',
  'ä'.repeat(8192), 'ä'.repeat(8192) + 'a', '\u{1f600}'.repeat(4096), '\u{1f600}'.repeat(4096) + 'a',
  [], ['price'], ['bugs', 'price'], ['price', 'price'], ['x'], [1], [['price']], [null],
  {}, { other: '' }, { other: 'x' }, { other: 'price' }, { other: 1 }, { other: null }, { other: 'x', more: 1 }, { Other: 'x' },
  { other: long }, { other: long + 'a' }, { value: 'price' },
  [{ other: 'x' }], ['price', { other: 'x' }], [{ other: 'x' }, { other: 'y' }], [{ other: 'x' }, { other: 'x' }], [{ other: '' }],
];
const values = questions.flatMap((asked) => candidates.map((value) => ({ question: asked, value, valid: fits(asked, value) })));

const lines = (list) => '[\n' + list.map((entry) => JSON.stringify(entry)).join(',\n') + '\n]\n';
/** Long runs of one character as `{"repeat": [text, times, rest]}`, so that the file stays small. */
const packed = (entry) =>
  JSON.parse(JSON.stringify(entry), (_, v) => {
    if (typeof v !== 'string' || v.length < 1000) return v;
    const unit = String.fromCodePoint(v.codePointAt(0));
    const times = v.split(unit).length - 1 - (unit === 'a' && v.length > 16384 ? 1 : 0);
    return { repeat: [unit, times, v.slice(unit.length * times)] };
  });
const files = { 'path.json': lines(paths), 'values.json': lines(values.map(packed)) };
for (const [name, text] of Object.entries(files)) {
  const url = new URL(name, import.meta.url);
  if (!process.argv.includes('--check')) writeFileSync(url, text);
  else if (readFileSync(url, 'utf8') !== text) {
    console.error(`web/vectors/${name} is not what generate.mjs makes`);
    process.exitCode = 1;
  }
}
