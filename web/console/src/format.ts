/** Times, numbers and ids as people read them. */

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
const absolute = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'medium' });
const whole = new Intl.NumberFormat('en');

export const number = (value: number | null | undefined): string => (value == null ? '–' : whole.format(value));
export const percent = (part: number, of: number): string => (of ? Math.round((1000 * part) / of) / 10 + ' %' : '–');
export const count = (n: number, one: string, many = one + 's'): string => `${number(n)} ${n === 1 ? one : many}`;

/** `3 hours ago`, `in 5 minutes`; what is no time stays as it is. */
export function ago(at: string | number, now = Date.now()): string {
  const ms = new Date(at).getTime() - now;
  if (Number.isNaN(ms)) return String(at);
  const size = Math.abs(ms);
  if (size < 10_000) return 'just now';
  if (size < MINUTE) return relative.format(Math.round(ms / 1000), 'second');
  if (size < HOUR) return relative.format(Math.round(ms / MINUTE), 'minute');
  if (size < DAY) return relative.format(Math.round(ms / HOUR), 'hour');
  return relative.format(Math.round(ms / DAY), 'day');
}

/** In the clock of the reader. */
export function clock(at: string | number): string {
  const time = new Date(at);
  return Number.isNaN(+time) ? String(at) : absolute.format(time);
}

const UNITS_MS: Record<string, number> = { d: DAY, h: HOUR, m: MINUTE, s: 1000, ms: 1 };
/** Milliseconds of a duration as the server writes it: `1h30m`. */
export const durationMs = (text: string): number =>
  [...text.matchAll(/(\d+)(ms|[dhms])/g)].reduce((total, [, count, unit]) => total + Number(count) * UNITS_MS[unit!]!, 0);

/** `850 ms`, `12.4 s`, `3 min`, `2 h`. */
export function span(ms: number | null | undefined): string {
  if (ms == null) return '–';
  if (ms < 1000) return Math.round(ms) + ' ms';
  if (ms < MINUTE) return Math.round(ms / 100) / 10 + ' s';
  if (ms < HOUR) return Math.round(ms / MINUTE) + ' min';
  if (ms < 2 * DAY) return Math.round(ms / HOUR) + ' h';
  return Math.round(ms / DAY) + ' days';
}

export function bytes(n: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit++;
  }
  return `${n < 10 && unit ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
}

/** `already_completed` as `already completed`. */
export const words = (name: string): string => name.replace(/[_.]/g, ' ');

/** An id made from a name, as the server makes it: `Successful payment` is `successful_payment`. */
export const idOf = (name: string, joint = '_'): string =>
  name
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, joint)
    .replace(new RegExp(`^${joint}+|${joint}+$`, 'g'), '');

/** A value in one line. */
export function short(value: unknown, most = 120): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value) ?? '';
  return text.length > most ? text.slice(0, most - 1) + '…' : text;
}

const START_MS: Record<string, number> = { '1h': HOUR, '24h': DAY, '7d': 7 * DAY, '30d': 30 * DAY, '90d': 90 * DAY };
/** The moment so far back from now; empty for a period without a start. */
export const since = (period: string): string =>
  START_MS[period] ? new Date(Math.floor((Date.now() - START_MS[period]!) / MINUTE) * MINUTE).toISOString() : '';

/** `text` as a field of CSV. A text that a spreadsheet would take for a formula gets a quote before it. */
export function csvField(value: unknown): string {
  const text = value == null ? '' : typeof value === 'object' ? JSON.stringify(value) : String(value);
  const safe = typeof value !== 'number' && /^[=+\-@\t\r\n＝＋－＠]/.test(text) ? "'" + text : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function download(name: string, text: string, type = 'text/csv'): void {
  const url = URL.createObjectURL(new Blob([text], { type: type + ';charset=utf-8' }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A text as one word of a POSIX shell. */
export const shellQuote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
