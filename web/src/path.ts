/**
  * The path through a survey, by the same rules as on the server: the next
  * question, valid values, missing answers. This module is pure; web/vectors
  * tests it here and on the server.
 */
import type { Question, Value } from './types';

/** Longest text answer, in bytes of UTF-8. */
export const MAX_TEXT_BYTES = 16384;

export type Answers = Record<string, Value | undefined>;

export interface Walk {
  /** Indices of the questions on the path, in order. */
  path: number[];
  /** Indices of required questions on the path that lack an answer. */
  missing: number[];
  /** `end`, or the id of an ending. */
  end: string;
}

const bytes = (text: string): number => new TextEncoder().encode(text).length;

/** Compares numbers, or strings by code point, as UTF-8 bytes compare. NaN for anything else. */
function compare(a: unknown, b: unknown): number {
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  if (typeof a !== 'string' || typeof b !== 'string') return NaN;
  const [x, y] = [[...a], [...b]];
  for (let i = 0; i < x.length && i < y.length; i++) {
    const order = x[i]!.codePointAt(0)! - y[i]!.codePointAt(0)!;
    if (order) return order;
  }
  return x.length - y.length;
}

/** Whether a condition holds. There is no coercion; without an answer only `not_exists` holds. */
export function holds(op: string, wanted: any, actual: any): boolean {
  if (actual == null) return op === 'not_exists';
  const among = () => Array.isArray(wanted) && wanted.includes(actual);
  const text = typeof actual === 'string' && typeof wanted === 'string';
  const contained = () => (Array.isArray(actual) ? actual.includes(wanted) : text && actual.includes(wanted));
  const lower = (value: any) => (typeof value === 'string' ? value.toLowerCase() : value);
  switch (op) {
    case 'exists':
      return true;
    case 'eq':
      return actual === wanted;
    case 'neq':
      return actual !== wanted;
    case 'gt':
      return compare(actual, wanted) > 0;
    case 'gte':
      return compare(actual, wanted) >= 0;
    case 'lt':
      return compare(actual, wanted) < 0;
    case 'lte':
      return compare(actual, wanted) <= 0;
    case 'between':
      return compare(actual, wanted?.[0]) >= 0 && compare(actual, wanted?.[1]) <= 0;
    case 'in':
      return among();
    case 'not_in':
      return !among();
    case 'contains':
      return contained();
    case 'not_contains':
      return (text || Array.isArray(actual)) && !contained();
    case 'starts_with':
      return text && actual.startsWith(wanted);
    case 'ends_with':
      return text && actual.endsWith(wanted);
    case 'eq_ci':
    case 'contains_ci':
    case 'ends_with_ci':
      return holds(op.slice(0, -3), lower(wanted), Array.isArray(actual) ? actual.map(lower) : lower(actual));
  }
  return false;
}

/** Returns the index of the next question, or the name of the end. */
export function next(questions: Question[], index: number, value: Value | undefined): number | string {
  for (const { when, goto } of questions[index]!.next ?? []) {
    if (when && !holds(when.op, when.value, value)) continue;
    const target = questions.findIndex((q) => q.question_id === goto);
    return target > index ? target : goto;
  }
  return index + 1 < questions.length ? index + 1 : 'end';
}

/** Whether there is an answer; an empty text or list is none. */
export const isAnswered = (value: Value | undefined): boolean => value != null && (value as { length?: number }).length !== 0;

/** Whether a required question lacks its answer. */
export const isMissing = (question: Question, value: Value | undefined): boolean =>
  question.type !== 'info' && question.required !== false && !isAnswered(value);

/** Follows the answers from the first question. */
export function walk(questions: Question[], answers: Answers): Walk {
  const path: number[] = [];
  const missing: number[] = [];
  let at: number | string = 0;
  while (typeof at === 'number') {
    const question: Question = questions[at]!;
    const value = answers[question.question_id];
    path.push(at);
    if (isMissing(question, value)) missing.push(at);
    at = next(questions, at, value);
  }
  return { path, missing, end: at };
}

/** Whether the server accepts the value for the question. */
export function isValidValue(question: Question, value: unknown): boolean {
  const whole = (low: number, high: number) =>
    Number.isInteger(value) && (value as number) >= low && (value as number) <= high;
  const text = (v: unknown) => typeof v === 'string' && bytes(v) <= MAX_TEXT_BYTES;
  const isOther = (v: any) =>
    v !== null && typeof v === 'object' && !!question.other && Object.keys(v).length === 1 && !!v.other && text(v.other);
  const isOption = (v: unknown) =>
    !!question.options?.some((o) => (typeof o === 'string' ? o : o.value) === v) || isOther(v);
  switch (question.type) {
    case 'text':
      return text(value);
    case 'nps':
      return whole(0, 10);
    case 'rating_number':
      return whole(1, question.scale ?? 5);
    case 'rating_star':
    case 'rating_emoji':
      return whole(1, 5);
    case 'single_choice':
      return isOption(value);
    case 'multi_choice':
      return (
        Array.isArray(value) &&
        value.every(isOption) &&
        // At most one member is free text, and no option is listed twice.
        new Set(value.map((v) => (typeof v === 'string' ? v : 0))).size === value.length
      );
  }
  return false;
}
