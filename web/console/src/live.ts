/**
 * What has changed on the server, and data that follows it. One stream of
 * `/v1/changes` serves the whole page; a hidden page has none and sends nothing.
 */
import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import { ApiError, call, send } from './api';

/** Names of lists that moved; `*` is all of them. */
type Moved = (lists: Set<string>) => void;
const listeners = new Set<Moved>();
let stream: AbortController | undefined;
let retry: ReturnType<typeof setTimeout> | undefined;

const FIRST_RETRY_MS = 1000;
const LAST_RETRY_MS = 30_000;
let wait = FIRST_RETRY_MS;

const publish = (lists: Set<string>) => [...listeners].forEach((listener) => listener(lists));

/** Every text in a value: the lists may stand in it as a text, a list, or names of members. */
function texts(value: unknown, into: Set<string>): void {
  if (typeof value === 'string') into.add(value);
  else if (Array.isArray(value)) value.forEach((one) => texts(one, into));
  else if (value && typeof value === 'object')
    for (const [name, one] of Object.entries(value)) {
      into.add(name);
      texts(one, into);
    }
}

/** One event of the stream; comments are there to keep the connection. */
function read(block: string): void {
  const lists = new Set<string>();
  for (const line of block.split('\n')) {
    const [, field, value] = /^(event|data): ?(.*)$/.exec(line) ?? [];
    if (!field) continue;
    if (field === 'event') lists.add(value!);
    else
      try {
        texts(JSON.parse(value!), lists);
      } catch {
        lists.add(value!);
      }
  }
  if (lists.size) publish(lists);
}

async function follow(controller: AbortController): Promise<void> {
  const response = await send('GET', '/v1/changes', { signal: controller.signal, headers: { accept: 'text/event-stream' } });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    wait = FIRST_RETRY_MS;
    const blocks = (rest + value.replaceAll('\r', '')).split('\n\n');
    rest = blocks.pop()!;
    blocks.forEach(read);
  }
}

function connect(): void {
  if (stream || document.hidden) return;
  const controller = (stream = new AbortController());
  const again = (error?: unknown) => {
    if (stream !== controller) return;
    stream = undefined;
    if (error instanceof ApiError && error.status === 401) return;
    retry = setTimeout(() => {
      connect();
      publish(new Set(['*']));
    }, wait);
    wait = Math.min(wait * 2, LAST_RETRY_MS);
  };
  follow(controller).then(again, again);
}

export function stopFollowing(): void {
  clearTimeout(retry);
  const old = stream;
  stream = undefined;
  old?.abort();
}

export function startFollowing(): void {
  stopFollowing();
  wait = FIRST_RETRY_MS;
  connect();
}

/** Follows while the page is visible. Returns what ends it. */
export function followWhileVisible(): () => void {
  const turned = () => {
    if (document.hidden) return stopFollowing();
    startFollowing();
    publish(new Set(['*']));
  };
  document.addEventListener('visibilitychange', turned);
  startFollowing();
  return () => {
    document.removeEventListener('visibilitychange', turned);
    stopFollowing();
  };
}

/** Calls `then` whenever one of the lists has moved. */
export function useMoved(lists: string[], then: () => void): void {
  const latest = useRef(then);
  latest.current = then;
  const names = lists.join();
  useEffect(() => {
    if (!names) return;
    const moved: Moved = (which) => {
      if (which.has('*') || names.split(',').some((name) => which.has(name))) latest.current();
    };
    listeners.add(moved);
    return () => void listeners.delete(moved);
  }, [names]);
}

/**
 * Calls `then` when one of the lists has moved, but once in `gap` milliseconds at most:
 * lists of a busy server move each second, and what costs much is not asked for so often.
 */
export function useMovedSlowly(lists: string[], gap: number, then: () => void): void {
  const last = useRef(0);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const latest = useRef(then);
  latest.current = then;
  const run = () => {
    timer.current = undefined;
    last.current = Date.now();
    if (!document.hidden) latest.current();
  };
  useMoved(lists, () => {
    const wait = last.current + gap - Date.now();
    if (wait <= 0) run();
    else timer.current ??= setTimeout(run, wait);
  });
  useEffect(() => () => clearTimeout(timer.current), []);
}

/** What adds up many answers, or reads the journal, follows the lists at this pace. */
export const SLOW_MS = 15_000;
const FAST_MS = 1000;

/** `every` milliseconds while the page is visible; null is never. */
export function useInterval(every: number | null, then: () => void): void {
  const latest = useRef(then);
  latest.current = then;
  useEffect(() => {
    if (every === null) return;
    const timer = setInterval(() => document.hidden || latest.current(), every);
    return () => clearInterval(timer);
  }, [every]);
}

export interface Loaded<T> {
  data: T | undefined;
  error: ApiError | undefined;
  loading: boolean;
  reload(): void;
}

/**
 * What `load` gives, and gives again when one of the lists moves. `key` names
 * what is loaded: with another key the old data goes. A null key loads nothing.
 */
export function useLoaded<T>(key: string | null, load: (signal: AbortSignal) => Promise<T>, lists: string[] = [], gap = FAST_MS): Loaded<T> {
  const [state, setState] = useState<{ key: string | null; data?: T; error?: ApiError }>({ key });
  const [turn, setTurn] = useState(0);
  const latest = useRef(load);
  latest.current = load;
  useEffect(() => {
    if (key === null) return;
    const controller = new AbortController();
    latest.current(controller.signal).then(
      (data) => controller.signal.aborted || setState({ key, data }),
      (error) => {
        if (controller.signal.aborted) return;
        const known = error instanceof ApiError ? error : new ApiError(0, 'failed', String(error));
        setState((old) => (old.key === key && old.data !== undefined ? { ...old, error: known } : { key, error: known }));
      },
    );
    return () => controller.abort();
  }, [key, turn]);
  const reload = useCallback(() => setTurn((n) => n + 1), []);
  useMovedSlowly(lists, gap, reload);
  const current = state.key === key ? state : { key };
  return { data: current.data, error: current.error, loading: key !== null && current.data === undefined && !current.error, reload };
}

/** The answer of one GET. */
export function useGet<T>(path: string | null, lists: string[] = [], gap = FAST_MS): Loaded<T> {
  return useLoaded<T>(path, async (signal) => (await call<T>('GET', path!, { signal })).data, lists, gap);
}
