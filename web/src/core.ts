/**
 * The widget without its looks: who the user is, what to ask the server, what
 * to tell it. The renderer is fetched when there is something to show.
 */
import { outbox, type Outbox } from './outbox';
import { failure, post, transient } from './send';
import { store } from './store';
import { uuid } from './uuid';
import type { Mount, Renderer, View } from './render';
import type { Askwhen, CloseReason, Decision, Options } from './types';

const SESSION_IDLE_MS = 18e5;
const TRIGGER_TRIES = 4;
/** How long a trigger waits for what was told before it. */
const TOLD_FIRST_MS = 2000;

/** Where there is no page, as on a server that renders one, nothing is done. */
const inPage = typeof document !== 'undefined';

const pause = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));

/** `load` fetches the renderer; `base` is where the script came from, if that is a server. */
export function create(load: (attempt: number) => Promise<Renderer>, base = ''): Askwhen {
  const local = store(() => localStorage);
  const tab = store(() => sessionStorage);
  let options: Options | undefined;
  let names = '';
  let user: string | undefined;
  let signature: string | undefined;
  let queue: Outbox;
  let view: View | undefined;
  let showing = false;
  let loads = 0;
  let loaded: Renderer | undefined;
  let started!: () => void;
  const ready = new Promise<void>((done) => (started = done));

  /** Hooks are the page's: what they throw is told to the page's `onError`, never thrown. */
  function hook<A extends unknown[]>(call: ((...given: A) => unknown) | undefined, ...given: A): unknown {
    try {
      return call?.(...given);
    } catch (error) {
      if (call !== options?.onError) fail(error);
      return;
    }
  }
  function fail(error: unknown): void {
    const told = error instanceof Error ? error : new Error('askwhen: ' + error);
    if (options?.debug) console.warn(told);
    hook(options?.onError, told);
  }
  const safely =
    <A extends unknown[], R>(work: (...given: A) => R, otherwise: R) =>
    (...given: A): R => {
      try {
        const result = work(...given);
        return result instanceof Promise ? (result.catch((e) => (fail(e), otherwise)) as R) : result;
      } catch (error) {
        fail(error);
        return otherwise;
      }
    };

  const server = () => (options!.server ?? base).replace(/\/$/, '');
  const pathOf = (id: string, rest: string) => `/v1/users/${encodeURIComponent(id)}/${rest}`;
  const read = (from: typeof local, key: string) => {
    try {
      return JSON.parse(from.get(names + key)!) ?? {};
    } catch {
      return {};
    }
  };

  /** The anonymous id is kept from its first use on, with whom it became. */
  function userId(): string {
    if (user) return user;
    let { id } = read(local, 'anon');
    if (!id) local.set(names + 'anon', JSON.stringify({ id: (id = 'anon-' + uuid()) }));
    return id;
  }

  function session(): string {
    if (options!.session) return options!.session;
    let { id, at } = read(tab, 'session');
    if (!(Math.abs(Date.now() - at) < SESSION_IDLE_MS)) id = uuid();
    tab.set(names + 'session', JSON.stringify({ id, at: Date.now() }));
    return id;
  }

  function identify(id: string, signed?: string): void {
    if (!id) throw new Error("askwhen: identify needs the user's id");
    user = id + '';
    signature = signed;
    const { id: alias, of } = read(local, 'anon');
    if (!alias || of === user) return;
    // An anonymous id that is somebody else's already stays theirs.
    if (of) return local.delete(names + 'anon');
    local.set(names + 'anon', JSON.stringify({ id: alias, of: user }));
    queue.tell({ path: pathOf(user, 'aliases'), body: { alias }, signature });
  }

  function init(given: Options): void {
    if (!inPage) return;
    if (!given.key) throw new Error('askwhen: init needs a key');
    const first = !options;
    if (options && given.key !== options.key) throw new Error('askwhen: init again, with another key');
    options = { ...options, ...given };
    if (!server()) throw new Error('askwhen: init needs a server');
    if (first) {
      names = `askwhen:${options.key}:`;
      queue = outbox(server, options.key, local, names, fail);
      addEventListener('online', () => queue.flush(true));
      addEventListener('pagehide', () => queue.leave());
      document.addEventListener('visibilitychange', () => document.hidden && queue.leave());
    }
    if (given.user) identify(given.user, given.signature);
    queue.flush();
    started();
  }

  async function ask(name: string, properties: Record<string, unknown> = {}): Promise<Decision | null> {
    // What was told before (an answer, who the user is) counts for what is asked now.
    await Promise.race([queue.flush(), pause(TOLD_FIRST_MS)]);
    const call = {
      path: pathOf(userId(), 'triggers/' + encodeURIComponent(name)),
      signature,
      body: {
        event_id: uuid(),
        properties,
        context: { platform: 'web', locale: navigator.language, ...options!.context, session_id: session() },
        occurred_at: new Date().toISOString(),
      },
    };
    for (let tries = 1; ; tries++) {
      const reply = await post(server(), options!.key, call);
      if (reply.status === 200 && reply.body?.reason) return reply.body;
      if (!transient(reply) || tries === TRIGGER_TRIES) throw failure(call.path, reply);
      await pause(Math.min(reply.wait || 500 * 2 ** tries, 10_000));
    }
  }

  /** Fetched once; under another name after a failure, because browsers remember failures. */
  const renderer = async (): Promise<Renderer> => (loaded ??= await load(loads++));

  async function show(decision: Decision, target?: Element | string | null): Promise<boolean> {
    const survey = decision?.survey;
    if (view && !view.host.isConnected) view.close('unmounted');
    if (!survey || showing) return false;
    showing = true;
    const sign = decision.user_id === user ? signature : undefined;
    const tell = (rest: string, body: Record<string, unknown>) =>
      queue.tell({ path: pathOf(decision.user_id, `offers/${encodeURIComponent(survey.offer_id)}/${rest}`), body, signature: sign });
    const now = () => ({ occurred_at: new Date().toISOString() });
    const mount: Mount = {
      theme: options!.theme,
      target: element(target ?? (survey.ui?.layout === 'inline' ? options!.container : null)),
      displayed() {
        tell('displayed', now());
        hook(options!.onShow, survey);
      },
      answered(answers, completed) {
        session();
        tell('answers', { answers, completed });
        hook(options!.onAnswer, answers, completed, survey);
      },
      dismissed: () => tell('dismissed', now()),
      closed(reason: CloseReason) {
        view = undefined;
        showing = false;
        hook(options!.onClose, reason, survey);
      },
      failed: fail,
    };
    try {
      view = (await renderer()).mount(survey, mount);
    } catch (error) {
      showing = false;
      throw error;
    }
    return true;
  }

  function element(target: Element | string | null | undefined): Element | null {
    const found = typeof target === 'string' ? document.querySelector(target) : target;
    if (target && !found) fail(`no element ${target} to show a survey in`);
    return found ?? null;
  }

  const api: Askwhen = {
    init: safely(init, undefined),
    identify: safely((id, signed) => {
      if (options) identify(id, signed);
      else ready.then(() => api.identify(id, signed));
    }, undefined),
    trigger: safely(async (name, properties, target) => {
      if (!inPage) return null;
      await ready;
      const decision = await ask(name, properties);
      const wanted = hook(options!.onDecision, decision!) !== false;
      if (options!.debug) (await renderer()).debug(decision!);
      if (wanted) await api.show(decision!, target);
      return decision;
    }, Promise.resolve(null)),
    show: safely(show, Promise.resolve(false)),
    close: safely(() => view?.close('dismissed'), undefined),
    flush: safely(async () => queue?.flush(true), Promise.resolve()),
    reset: safely(() => {
      view?.close('unmounted');
      user = signature = undefined;
      local.delete(names + 'anon');
      tab.delete(names + 'session');
    }, undefined),
    queue: {
      push(...calls) {
        for (const [name, ...given] of calls as [keyof Askwhen, ...any[]][]) (api[name] as any)?.(...given);
        return 0;
      },
    },
  };
  return api;
}
