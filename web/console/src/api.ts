/**
 * Requests to the API under the session's cookie. Everything that a page shows
 * comes through here; the console keeps no data of its own.
 */

const given = document.querySelector<HTMLMetaElement>('meta[name=askwhen-base]')?.content ?? '';
/** The server's `[http] base_path`, without a slash at its end. */
export const base = given.startsWith('{{') ? '' : given.replace(/\/$/, '');

export type Json = string | number | boolean | null | Json[] | { [member: string]: Json };
export type JsonObject = { [member: string]: Json };

/** What is wrong with one field; `pointer` is a JSON pointer into the body. */
export interface FieldFault {
  code: string;
  pointer: string;
  detail: string;
}

/** An answer that is no success, or none at all (`status` 0). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
    readonly faults: FieldFault[] = [],
    readonly requestId = '',
  ) {
    super(detail);
  }
}

/** What newer browsers have beyond `JSON.parse`: numbers as they were written. */
const exact = JSON as unknown as { rawJSON?(text: string): Json; isRawJSON?(value: unknown): boolean };
type Revive = (name: string, value: Json, context?: { source?: string }) => Json;

/** Whole numbers that no JavaScript number holds stay as they were written. */
const keepDigits: Revive = (_, value, context) => {
  const source = context?.source;
  const isLost = typeof value === 'number' && source !== undefined && /^-?\d+$/.test(source) && !Number.isSafeInteger(value);
  return isLost && exact.rawJSON ? exact.rawJSON(source) : value;
};
export const parseJson = (text: string): Json => JSON.parse(text, keepDigits as (name: string, value: Json) => Json) as Json;
export const isRaw = (value: unknown): boolean => exact.isRawJSON?.(value) ?? false;

export interface Reply<T> {
  data: T;
  status: number;
  etag: string | null;
}

export interface Ask {
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

let onUnauthorized = () => {};
/** Called when the server no longer knows the session. */
export function whenUnauthorized(then: () => void): void {
  onUnauthorized = then;
}

export async function send(method: string, path: string, ask: Ask = {}): Promise<Response> {
  const headers: Record<string, string> = { 'x-askwhen-console': '1', ...ask.headers };
  const init: RequestInit = { method, headers, credentials: 'same-origin', cache: 'no-store', signal: ask.signal ?? null };
  if (ask.body !== undefined) {
    headers['content-type'] = 'application/json';
    init.body = JSON.stringify(ask.body);
  }
  let response: Response;
  try {
    response = await fetch(base + path, init);
  } catch (error) {
    if ((error as Error).name === 'AbortError') throw error;
    throw new ApiError(0, 'unreachable', 'The server does not answer. It may be restarting, or the network is down.');
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401 && path !== '/console/session') onUnauthorized();
  throw new ApiError(
    response.status,
    problem.code ?? String(response.status),
    problem.detail ?? problem.title ?? `The server answered ${response.status}.`,
    problem.errors ?? [],
    problem.request_id ?? '',
  );
}

export async function call<T>(method: string, path: string, ask: Ask = {}): Promise<Reply<T>> {
  const response = await send(method, path, ask);
  const text = await response.text();
  return {
    data: (text ? parseJson(text) : null) as T,
    status: response.status,
    etag: response.headers.get('etag'),
  };
}

/** A path from fixed words and ids; the ids are escaped. */
export function route(words: TemplateStringsArray, ...ids: string[]): string {
  return words.reduce((path, word, i) => path + encodeURIComponent(ids[i - 1] ?? '') + word);
}

/** `?a=1&b=2` of those members that have a value, or nothing. */
export function query(members: Record<string, string | number | null | undefined>): string {
  const given = Object.entries(members).filter(([, value]) => value !== '' && value != null);
  return given.length ? '?' + new URLSearchParams(given.map(([name, value]) => [name, String(value)])) : '';
}

/** Every entry of a cursor list, up to `most`. */
export async function all<T>(path: string, list: string, most = 1000, signal?: AbortSignal): Promise<T[]> {
  const found: T[] = [];
  let cursor: string | null = null;
  do {
    const joint: string = path.includes('?') ? '&' : '?';
    const page: Reply<Record<string, unknown>> = await call<Record<string, unknown>>(
      'GET',
      `${path}${joint}limit=200${cursor ? '&cursor=' + encodeURIComponent(cursor) : ''}`,
      signal ? { signal } : {},
    );
    found.push(...((page.data[list] as T[]) ?? []));
    cursor = (page.data.next_cursor as string | null) ?? null;
  } while (cursor && found.length < most);
  return found;
}

/** Asks for something of each, so many at a time, and gives the answers in the same order. */
export async function ofEach<T, Answer>(list: T[], atOnce: number, ask: (one: T) => Promise<Answer>): Promise<Answer[]> {
  const answers: Answer[] = [];
  const rest = list.entries();
  await Promise.all(Array.from({ length: Math.min(atOnce, list.length) }, async () => {
    for (const [i, one] of rest) answers[i] = await ask(one);
  }));
  return answers;
}
