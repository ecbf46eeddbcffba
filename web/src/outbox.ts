/**
  * Keeps what the user did until the server confirms it. Entries are sent in
  * order and retried under the same ids. Each entry has its own key in
  * `localStorage`, so tabs cannot overwrite each other, and one tab sends at a time.
 */
import { toError, encode, post, isRetryable, type ApiRequest } from './send';
import type { Store } from './store';

const MAX_ENTRIES = 100;
const MAX_AGE_MS = 7 * 864e5;
const FIRST_DELAY_MS = 1000;
const MAX_DELAY_MS = 300_000;
const LEASE_MS = 15_000;

export interface Outbox {
  enqueue(request: ApiRequest): void;
  /** Sends all entries, unless a backoff is running; `force` ignores the backoff. */
  flush(force?: boolean): Promise<void>;
  /** Hands the unsent entries to the browser, which sends them after the page is gone. */
  sendOnHide(): void;
}

const pause = (ms: number) => new Promise((done) => setTimeout(done, ms));

export function outbox(
  server: () => string,
  key: string | undefined,
  local: Store,
  name: string,
  onError: (error: Error) => void,
): Outbox {
  const prefix = name + 'q:';
  const own = new Set<string>();
  let inFlight = '';
  let draining: Promise<void> | undefined;
  let timer: ReturnType<typeof setTimeout>;
  let delay = 0;
  let notBefore = 0;

  const entries = () => local.keys(prefix);
  const drop = (id: string) => {
    own.delete(id);
    local.delete(id);
  };

  /** Returns the entry if it is valid and young enough; drops it otherwise. */
  const read = (id: string): (ApiRequest & { at: number }) | undefined => {
    try {
      const entry = JSON.parse(local.get(id)!);
      if (Date.now() - entry.at < MAX_AGE_MS) return entry;
    } catch {}
    drop(id);
    return;
  };

  /** Sends in order. Drops entries that the server refuses for good; keeps entries that lack permission. */
  async function drain(): Promise<void> {
    let failed = false;
    for (const id of entries()) {
      const request = read(id);
      if (!request) continue;
      inFlight = id;
      const response = await post(server(), key, request);
      inFlight = '';
      const unauthorized = response.status === 401 || response.status === 403;
      if (!unauthorized && !isRetryable(response)) {
        drop(id);
        delay = 0;
        if (response.status > 299) onError(toError(request.path, response));
        continue;
      }
      if (!failed) {
        failed = true;
        onError(toError(request.path, response));
        delay = Math.min(delay * 2 || FIRST_DELAY_MS, MAX_DELAY_MS);
        const wait = Math.min(Math.max(response.wait || 0, delay * (0.8 + Math.random() * 0.4)), MAX_DELAY_MS);
        notBefore = performance.now() + wait;
        clearTimeout(timer);
        timer = setTimeout(() => flush(true), wait);
      }
      if (!unauthorized) return;
    }
  }

  /** Lets one tab send at a time: by a Web Lock, or by a lease on pages without TLS, which have no locks. */
  async function exclusively(send: () => Promise<void>): Promise<void> {
    // Without storage the browser refuses locks too; then there is nothing to share.
    if (navigator.locks) return navigator.locks.request(prefix, send).catch(send);
    const lease = name + 'lease';
    const token = Math.random() + '';
    const holder = () => local.get(lease)?.split(' ') ?? [];
    for (let tries = 0; tries < 20; tries++) {
      const [, until] = holder();
      if (!(+until! > Date.now() && +until! < Date.now() + 2 * LEASE_MS)) {
        local.set(lease, `${token} ${Date.now() + LEASE_MS}`);
        await pause(30);
        if (holder()[0] === token) {
          await send();
          return local.delete(lease);
        }
      }
      await pause(1000);
    }
  }

  function flush(force?: boolean): Promise<void> {
    if (draining) return draining;
    if (!entries()[0] || (!force && performance.now() < notBefore)) return Promise.resolve();
    return (draining = exclusively(drain)
      .catch(onError)
      .then(() => {
        draining = undefined;
        // More entries may have arrived during the last request.
        return flush();
      }));
  }

  return {
    enqueue(request) {
      const ids = entries();
      // The id sorts after all other entries, even if the clock was set back.
      const last = parseInt(ids.at(-1)?.slice(prefix.length).split('.')[0] ?? '0', 36);
      const id = `${prefix}${Math.max(Date.now(), last + 1).toString(36)}.${Math.random().toString(36).slice(2, 6)}`;
      own.add(id);
      local.set(id, JSON.stringify({ ...request, at: Date.now() }));
      while (ids.length >= MAX_ENTRIES) {
        drop(ids.shift()!);
        onError(new Error('askwhen: the queue is full; its oldest entry is dropped'));
      }
      flush();
    },
    flush,
    sendOnHide() {
      for (const id of entries()) {
        const request = id !== inFlight && own.has(id) && read(id);
        if (!request) continue;
        const { text, headers } = encode(key, request);
        if (request.signature) fetch(server() + request.path, { method: 'POST', body: text, headers, keepalive: true }).catch(() => {});
        else navigator.sendBeacon(server() + request.path, text);
      }
    },
  };
}
