/**
 * What the user did, until the server has it: in order, in `localStorage`, sent
 * again under the same ids. Each entry is a key of its own, so that tabs never
 * overwrite each other's; one tab sends at a time.
 */
import { failure, form, post, transient, type Call } from './send';
import type { Store } from './store';

const MAX_ENTRIES = 100;
const MAX_AGE_MS = 7 * 864e5;
const FIRST_DELAY_MS = 1000;
const MAX_DELAY_MS = 300_000;
const LEASE_MS = 15_000;

export interface Outbox {
  tell(call: Call): void;
  /** Sends what waits, unless it is too early for another try; `force`: also then. */
  flush(force?: boolean): Promise<void>;
  /** Hands what waits to the browser, which sends it after the page is gone. */
  leave(): void;
}

const pause = (ms: number) => new Promise((done) => setTimeout(done, ms));

export function outbox(
  server: () => string,
  key: string | undefined,
  local: Store,
  name: string,
  fail: (error: Error) => void,
): Outbox {
  const prefix = name + 'q:';
  const own = new Set<string>();
  let flying = '';
  let running: Promise<void> | undefined;
  let timer: ReturnType<typeof setTimeout>;
  let delay = 0;
  let notBefore = 0;

  const waiting = () => local.keys(prefix);
  const drop = (id: string) => {
    own.delete(id);
    local.delete(id);
  };

  /** The entry, if it is one and not too old. */
  const read = (id: string): (Call & { at: number }) | undefined => {
    try {
      const entry = JSON.parse(local.get(id)!);
      if (Date.now() - entry.at < MAX_AGE_MS) return entry;
    } catch {}
    drop(id);
    return;
  };

  /** Sends in order. What is refused for good is dropped; what this key or signature may not send yet is left. */
  async function pass(): Promise<void> {
    let failed = false;
    for (const id of waiting()) {
      const call = read(id);
      if (!call) continue;
      flying = id;
      const reply = await post(server(), key, call);
      flying = '';
      const barred = reply.status === 401 || reply.status === 403;
      if (!barred && !transient(reply)) {
        drop(id);
        delay = 0;
        if (reply.status > 299) fail(failure(call.path, reply));
        continue;
      }
      if (!failed) {
        failed = true;
        fail(failure(call.path, reply));
        delay = Math.min(delay * 2 || FIRST_DELAY_MS, MAX_DELAY_MS);
        const wait = Math.min(Math.max(reply.wait || 0, delay * (0.8 + Math.random() * 0.4)), MAX_DELAY_MS);
        notBefore = performance.now() + wait;
        clearTimeout(timer);
        timer = setTimeout(() => flush(true), wait);
      }
      if (!barred) return;
    }
  }

  /** One tab at a time: by a lock, or by a lease where there are no locks (pages without TLS). */
  async function alone(work: () => Promise<void>): Promise<void> {
    // Where storage is shut, locks are too, and there is nothing to share.
    if (navigator.locks) return navigator.locks.request(prefix, work).catch(work);
    const lease = name + 'lease';
    const token = Math.random() + '';
    const holder = () => local.get(lease)?.split(' ') ?? [];
    for (let tries = 0; tries < 20; tries++) {
      const [, until] = holder();
      if (!(+until! > Date.now() && +until! < Date.now() + 2 * LEASE_MS)) {
        local.set(lease, `${token} ${Date.now() + LEASE_MS}`);
        await pause(30);
        if (holder()[0] === token) {
          await work();
          return local.delete(lease);
        }
      }
      await pause(1000);
    }
  }

  function flush(force?: boolean): Promise<void> {
    if (running) return running;
    if (!waiting()[0] || (!force && performance.now() < notBefore)) return Promise.resolve();
    return (running = alone(pass)
      .catch(fail)
      .then(() => {
        running = undefined;
        // What was told while the last request was under way.
        return flush();
      }));
  }

  return {
    tell(call) {
      const ids = waiting();
      // Later than all that waits, whatever the clock does.
      const last = parseInt(ids.at(-1)?.slice(prefix.length).split('.')[0] ?? '0', 36);
      const id = `${prefix}${Math.max(Date.now(), last + 1).toString(36)}.${Math.random().toString(36).slice(2, 6)}`;
      own.add(id);
      local.set(id, JSON.stringify({ ...call, at: Date.now() }));
      while (ids.length >= MAX_ENTRIES) {
        drop(ids.shift()!);
        fail(new Error('askwhen: the queue is full; its oldest entry is dropped'));
      }
      flush();
    },
    flush,
    leave() {
      for (const id of waiting()) {
        const call = id !== flying && own.has(id) && read(id);
        if (!call) continue;
        const { text, headers } = form(key, call);
        if (call.signature) fetch(server() + call.path, { method: 'POST', body: text, headers, keepalive: true }).catch(() => {});
        else navigator.sendBeacon(server() + call.path, text);
      }
    },
  };
}
