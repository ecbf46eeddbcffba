/**
 * A cursor list, newest first, that grows on request. New rows wait until the
 * user asks for them, so that nothing moves under the pointer; rows that are
 * shown already are brought up to date in their places.
 */
import { useEffect, useRef, useState } from 'preact/hooks';
import { ApiError, call } from './api';
import { useMovedSlowly } from './live';

const PAGE = 100;

export interface Paged<T> {
  rows: T[] | undefined;
  error: ApiError | undefined;
  hasMore: boolean;
  loadingMore: boolean;
  /** How many newer rows wait; at least so many when there are more than a page. */
  newer: number;
  more(): void;
  /** Shows the newest page. */
  refresh(): void;
}

interface State<T> {
  path: string;
  rows?: T[];
  cursor?: string | null;
  error?: ApiError;
  newer: number;
  loadingMore?: boolean;
}

export function usePaged<T>(path: string, list: string, id: (row: T) => string, lists: string[], gap = 1000): Paged<T> {
  const [state, setState] = useState<State<T>>({ path, newer: 0 });
  const latest = useRef(path);
  latest.current = path;
  const running = useRef<AbortController | undefined>(undefined);

  async function page(cursor?: string | null): Promise<{ rows: T[]; cursor: string | null }> {
    const joint = path.includes('?') ? '&' : '?';
    const target = `${path}${joint}limit=${PAGE}${cursor ? '&cursor=' + encodeURIComponent(cursor) : ''}`;
    const { data } = await call<Record<string, unknown>>('GET', target, { signal: running.current!.signal });
    return { rows: data[list] as T[], cursor: (data.next_cursor as string | null) ?? null };
  }
  const failed = (error: unknown) => {
    if (latest.current !== path || (error as Error).name === 'AbortError') return;
    const known = error instanceof ApiError ? error : new ApiError(0, 'failed', String(error));
    setState((old) => ({ ...(old.path === path ? old : { path, newer: 0 }), loadingMore: false, error: known }));
  };

  function refresh(): void {
    running.current?.abort();
    running.current = new AbortController();
    page().then(({ rows, cursor }) => setState({ path, rows, cursor, newer: 0 }), failed);
  }
  useEffect(() => {
    refresh();
    return () => running.current?.abort();
  }, [path]);

  useMovedSlowly(lists, gap, () => {
    if (!state.rows) return refresh();
    page().then(({ rows }) => setState((old) => {
      if (old.path !== path || !old.rows) return old;
      const fresh = new Map(rows.map((row) => [id(row), row]));
      const known = new Set(old.rows.map(id));
      const { error: _, ...rest } = old;
      return { ...rest, rows: old.rows.map((row) => fresh.get(id(row)) ?? row), newer: rows.filter((row) => !known.has(id(row))).length };
    }), failed);
  });

  function more(): void {
    if (!state.cursor || state.loadingMore) return;
    setState((old) => ({ ...old, loadingMore: true }));
    page(state.cursor).then(({ rows, cursor }) => setState((old) => {
      if (old.path !== path) return old;
      const known = new Set(old.rows?.map(id));
      return { ...old, rows: [...(old.rows ?? []), ...rows.filter((row) => !known.has(id(row)))], cursor, loadingMore: false };
    }), failed);
  }

  const current: State<T> = state.path === path ? state : { path, newer: 0 };
  return {
    rows: current.rows,
    error: current.error,
    hasMore: !!current.cursor,
    loadingMore: !!current.loadingMore,
    newer: current.newer,
    more,
    refresh,
  };
}
