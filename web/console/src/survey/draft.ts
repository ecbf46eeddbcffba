/**
 * The definition that is being edited: what is stored, what the user has made of
 * it, what the server says of that, and publishing it. Unpublished changes are
 * kept for the tab, so that a look at another page loses nothing.
 */
import { useEffect, useRef, useState } from 'preact/hooks';
import { ApiError, call, route, type FieldFault, type JsonObject } from '../api';
import { keep, kept } from '../kept';
import { useMoved } from '../live';
import type { DryRun, SurveyDefinition } from '../types';
import { merge, same } from './model';

const PAUSE_MS = 400;

export interface Stored {
  def: JsonObject;
  etag: string | null;
  version: number;
}

export interface Conflict {
  theirs: Stored;
}

export async function fetchStored(id: string, signal?: AbortSignal): Promise<Stored> {
  const { data, etag } = await call<SurveyDefinition>('GET', route`/v1/surveys/${id}`, signal ? { signal } : {});
  const { version, ...def } = data;
  return { def: def as JsonObject, etag, version };
}

interface Kept {
  def: JsonObject;
  stored: Stored | null;
}

export interface Draft {
  def: JsonObject;
  /** What is in force as far as is known; null of a survey that is new. */
  stored: Stored | null;
  edited: boolean;
  faults: FieldFault[];
  dry: DryRun | undefined;
  problem: ApiError | undefined;
  checking: boolean;
  conflict: Conflict | undefined;
  /** Somebody has published another version meanwhile. */
  moved: Stored | undefined;
  restored: boolean;
  change(def: JsonObject): void;
  discard(): void;
  publish(): Promise<number>;
  takeTheirs(): void;
  takeBoth(): void;
  takeMine(): void;
}

export interface Check {
  faults: FieldFault[];
  dry: DryRun | undefined;
  problem: ApiError | undefined;
  checking: boolean;
  /** What the server has found wrong meanwhile. */
  refused(faults: FieldFault[]): void;
}

/** What the server says of a definition while it is typed; `path` is null as long as it has no id. */
export function useCheck(path: string | null, def: JsonObject, stored: unknown, check: boolean): Check {
  const [dry, setDry] = useState<DryRun>();
  const [faults, setFaults] = useState<FieldFault[]>([]);
  const [problem, setProblem] = useState<ApiError>();
  const [checking, setChecking] = useState(false);
  useEffect(() => {
    if (!check) return;
    if (path === null) {
      setDry(undefined);
      return setFaults([{ code: 'missing_field', pointer: '/survey_id', detail: 'survey_id is required' }]);
    }
    const controller = new AbortController();
    setChecking(true);
    const timer = setTimeout(async () => {
      try {
        const { data } = await call<DryRun>('PUT', path + '?dry_run=true', { body: def, signal: controller.signal });
        setDry(data);
        setFaults([]);
        setProblem(undefined);
      } catch (error) {
        if (controller.signal.aborted) return;
        setDry(undefined);
        const known = error as ApiError;
        setFaults(known.faults ?? []);
        setProblem(known.faults?.length ? undefined : known);
      } finally {
        if (!controller.signal.aborted) setChecking(false);
      }
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [path, JSON.stringify(def), stored, check]);
  return { dry, faults, problem, checking, refused: setFaults };
}

/** `check`: the user may change surveys, so the server may be asked about a draft. */
export function useDraft(memory: string, given: Stored | null, initial: JsonObject, check: boolean): Draft {
  const before = useRef(kept<Kept>('draft:' + memory, 'sessionStorage'));
  const [stored, setStored] = useState<Stored | null>(before.current?.stored ?? given);
  const [def, setDef] = useState<JsonObject>(before.current?.def ?? initial);
  const [conflict, setConflict] = useState<Conflict>();
  const [moved, setMoved] = useState<Stored | undefined>(() => {
    const old = before.current?.stored;
    return old && given && old.etag !== given.etag && !same(old.def, given.def) ? given : undefined;
  });
  const base = stored?.def ?? initial;
  const edited = !same(def, base);
  const id = String(def.survey_id ?? '');
  const text = JSON.stringify(def);

  const { dry, faults, problem, checking, refused } = useCheck(id ? route`/v1/surveys/${id}` : null, def, stored, check);
  useEffect(() => keep('draft:' + memory, edited ? { def, stored } : null, 'sessionStorage'), [text, stored]);

  const latest = useRef({ stored, edited, publishing: false });
  latest.current = { ...latest.current, stored, edited };
  useMoved(stored ? ['surveys', 'definitions'] : [], () => {
    void fetchStored(id).then((now) => {
      const { stored: known, edited: hasChanges, publishing } = latest.current;
      // What this page has just published is nobody else's change.
      if (publishing || now.etag === known?.etag || same(now.def, known?.def)) return;
      if (hasChanges) return setMoved(now);
      setStored(now);
      setDef(now.def);
    }, () => undefined);
  });

  async function publish(): Promise<number> {
    latest.current.publishing = true;
    try {
      const headers: Record<string, string> = stored ? (stored.etag ? { 'if-match': stored.etag } : {}) : { 'if-none-match': '*' };
      const { data } = await call<{ version: number }>('PUT', route`/v1/surveys/${id}`, { body: def, headers });
      keep('draft:' + memory, null, 'sessionStorage');
      const now = await fetchStored(id).catch((): Stored => ({ def, etag: `"${data.version}"`, version: data.version }));
      setStored(now);
      setDef(now.def);
      setMoved(undefined);
      setConflict(undefined);
      return data.version;
    } catch (error) {
      const known = error as ApiError;
      if (known.status === 412) setConflict({ theirs: await fetchStored(id) });
      if (known.faults?.length) refused(known.faults);
      throw error;
    } finally {
      latest.current.publishing = false;
    }
  }
  const settle = (next: JsonObject, now: Stored) => {
    setDef(next);
    setStored(now);
    setConflict(undefined);
    setMoved(undefined);
  };
  const theirs = conflict?.theirs ?? moved;
  return {
    def, stored, edited, faults, dry, problem, checking, conflict, moved, restored: before.current !== null,
    change: setDef,
    discard: () => {
      before.current = null;
      setDef(base);
    },
    publish,
    takeTheirs: () => theirs && settle(theirs.def, theirs),
    takeBoth: () => theirs && settle(merge(stored?.def, theirs.def, def) as JsonObject, theirs),
    takeMine: () => theirs && settle(def, theirs),
  };
}
