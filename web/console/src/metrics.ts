/** Reads the text of `/metrics`: the gauges that say how the server is. */
import { send } from './api';

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

export function parse(text: string): Sample[] {
  return text.split('\n').flatMap((line) => {
    const [, name, labels, value] = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    if (!name) return [];
    const pairs = [...(labels ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, text]) => [key!, text!] as const);
    return [{ name, labels: Object.fromEntries(pairs), value: Number(value) }];
  });
}

export async function metrics(signal?: AbortSignal): Promise<Sample[]> {
  return parse(await (await send('GET', '/metrics', signal ? { signal } : {})).text());
}

export const of = (samples: Sample[], name: string): Sample[] => samples.filter((sample) => sample.name === 'askwhen_' + name);
export const sum = (samples: Sample[], name: string): number => of(samples, name).reduce((total, { value }) => total + value, 0);
export const most = (samples: Sample[], name: string): number => Math.max(0, ...of(samples, name).map(({ value }) => value));
export const has = (samples: Sample[], name: string): boolean => of(samples, name).length > 0;
