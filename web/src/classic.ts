/** The script tag: runs the queued calls, and calls `init` if the tag has a key. */
import { create } from './core';
import type { Askwhen, Options } from './types';

declare global {
  interface Window {
    askwhen?: Partial<Omit<Askwhen, 'queue'>> & { queue?: unknown };
  }
}

const before = window.askwhen;
// A second script tag changes nothing.
if (!before?.trigger) {
  const tag = document.currentScript as HTMLScriptElement | null;
  const src = tag?.src ?? '';
  const base = src && new URL('..', src).href;
  const api = create((attempt) => import(new URL('survey.mjs' + (attempt ? '?' + attempt : ''), src).href), base);
  window.askwhen = api;
  const { key, server, user, signature, session, container, debug, platform, locale, appVersion: app_version } =
    tag?.dataset ?? {};
  if (key) {
    const options: Record<string, unknown> = { key, user, signature, session, container, debug: debug !== undefined };
    const context: Record<string, string | undefined> = {};
    for (const [name, value] of Object.entries({ platform, locale, app_version })) if (value) context[name] = value;
    if (server) options.server = server;
    api.init({ ...options, context } as unknown as Options);
  }
  const waiting = before?.queue;
  if (Array.isArray(waiting)) {
    api.queue.push(...waiting);
    // The page may have kept a reference to the list.
    waiting.push = api.queue.push;
  }
}
