/** Writes YAML 1.2 that `askwhen apply` reads. */
import type { Json } from '../api';
import { isObject } from './model';

/** Texts that need no quotes in any reading of YAML; all others are written as JSON texts, which are YAML. */
const PLAIN = /^[\p{L}_][\p{L}\p{N}_ ./-]*$/u;
const WORDS = /^(true|false|null|yes|no|on|off|y|n|nan|inf|~)$/i;

function scalar(value: Json): string {
  if (typeof value !== 'string') return JSON.stringify(value);
  return PLAIN.test(value) && !WORDS.test(value) && !value.endsWith(' ') ? value : JSON.stringify(value);
}

const isEmpty = (value: Json): boolean => (Array.isArray(value) ? !value.length : isObject(value) && !Object.keys(value).length);
const isNested = (value: Json): boolean => (Array.isArray(value) || isObject(value)) && !isEmpty(value);

function lines(value: Json, indent: string): string[] {
  if (Array.isArray(value))
    return value.flatMap((one) => {
      if (!isNested(one)) return [`${indent}- ${inline(one)}`];
      const inner = lines(one, indent + '  ');
      return [`${indent}- ${inner[0]!.slice(indent.length + 2)}`, ...inner.slice(1)];
    });
  return Object.entries(value as Record<string, Json>).flatMap(([name, one]) =>
    isNested(one)
      ? [`${indent}${scalar(name)}:`, ...lines(one, indent + '  ')]
      : [`${indent}${scalar(name)}: ${inline(one)}`]);
}

function inline(value: Json): string {
  return isEmpty(value) ? (Array.isArray(value) ? '[]' : '{}') : scalar(value);
}

export function yaml(value: Json): string {
  return (isNested(value) ? lines(value, '').join('\n') : inline(value)) + '\n';
}
