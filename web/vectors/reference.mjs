// The rules of paths and values once more, written as the contract says them
// and as plainly as can be: what web/src/path.ts and the server are held against.

/** Length in bytes of UTF-8. */
const size = (text) => Buffer.byteLength(text, 'utf8');
const MAX_TEXT_BYTES = 16 * 1024;

const orderOf = (a, b) => {
  if (typeof a === 'number' && typeof b === 'number') return Math.sign(a - b);
  if (typeof a === 'string' && typeof b === 'string') return Buffer.compare(Buffer.from(a), Buffer.from(b));
  return undefined;
};

/** A condition on one answer; `undefined` is no answer. */
export function holds({ op, value }, answer) {
  if (answer === undefined || answer === null) return op === 'not_exists';
  const order = orderOf(answer, value);
  const isText = typeof answer === 'string';
  const isList = Array.isArray(answer);
  const found = isList ? answer.indexOf(value) >= 0 : isText && typeof value === 'string' && answer.indexOf(value) >= 0;
  if (op.endsWith('_ci')) {
    const small = (v) => (typeof v === 'string' ? v.toLowerCase() : v);
    return holds({ op: op.replace('_ci', ''), value: small(value) }, isList ? answer.map(small) : small(answer));
  }
  if (op === 'exists') return true;
  if (op === 'not_exists') return false;
  if (op === 'eq') return answer === value;
  if (op === 'neq') return answer !== value;
  if (op === 'gt') return order === 1;
  if (op === 'gte') return order === 1 || order === 0;
  if (op === 'lt') return order === -1;
  if (op === 'lte') return order === -1 || order === 0;
  if (op === 'between') {
    const [low, high] = [orderOf(answer, value[0]), orderOf(answer, value[1])];
    return (low === 0 || low === 1) && (high === 0 || high === -1);
  }
  if (op === 'in') return value.indexOf(answer) >= 0;
  if (op === 'not_in') return value.indexOf(answer) < 0;
  if (op === 'contains') return found;
  if (op === 'not_contains') return (isList || (isText && typeof value === 'string')) && !found;
  if (op === 'starts_with') return isText && typeof value === 'string' && answer.startsWith(value);
  if (op === 'ends_with') return isText && typeof value === 'string' && answer.endsWith(value);
  return false;
}

/** Path, missing required answers and end of a survey under these answers, by question id. */
export function follow(questions, answers) {
  const path = [];
  const missing = [];
  let here = 0;
  for (;;) {
    const question = questions[here];
    const answer = answers[question.question_id];
    path.push(question.question_id);
    const empty = answer === undefined || answer === '' || (Array.isArray(answer) && answer.length === 0);
    if (question.type !== 'info' && question.required !== false && empty) missing.push(question.question_id);
    const rule = (question.next ?? []).find((rule) => rule.when === undefined || holds(rule.when, answer));
    let target = here + 1;
    if (rule) {
      target = questions.findIndex((q, i) => i > here && q.question_id === rule.goto);
      if (target < 0) return { path, missing, end: rule.goto };
    }
    if (target >= questions.length) return { path, missing, end: 'end' };
    here = target;
  }
}

/** Whether a value fits a question. */
export function fits(question, value) {
  const integer = (low, high) => typeof value === 'number' && Math.floor(value) === value && value >= low && value <= high;
  const values = (question.options ?? []).map((o) => (typeof o === 'string' ? o : o.value));
  const one = (v) => {
    if (typeof v === 'string') return values.includes(v);
    if (v === null || typeof v !== 'object' || Array.isArray(v) || !question.other) return false;
    const names = Object.keys(v);
    if (names.length !== 1 || names[0] !== 'other' || typeof v.other !== 'string') return false;
    return size(v.other) >= 1 && size(v.other) <= MAX_TEXT_BYTES;
  };
  if (question.type === 'text') return typeof value === 'string' && size(value) <= MAX_TEXT_BYTES;
  if (question.type === 'nps') return integer(0, 10);
  if (question.type === 'rating_number') return integer(1, question.scale ?? 5);
  if (question.type === 'rating_star' || question.type === 'rating_emoji') return integer(1, 5);
  if (question.type === 'single_choice') return one(value);
  if (question.type === 'multi_choice') {
    if (!Array.isArray(value) || !value.every(one)) return false;
    const texts = value.filter((v) => typeof v === 'string');
    return new Set(texts).size === texts.length && value.length - texts.length <= 1;
  }
  return false;
}
