/**
 * The widget without its looks: who the user is, what to ask the server, what
 * to tell it. The renderer is fetched when there is something to show.
 */
import { outbox, type Outbox } from './outbox';
import { person, type Person } from './person';
import { failure, post, transient } from './send';
import { store } from './store';
import { uuid } from './uuid';
import type { Mount, Renderer, View } from './render';
import type { Askwhen, CloseReason, Decision, Options } from './types';

const TRIGGER_TRIES = 4;
/** How long a trigger waits for what was told before it. */
const TOLD_FIRST_MS = 2000;

/** Where there is no page, as on a server that renders one, nothing is done. */
const inPage = typeof document !== 'undefined';

/** Resolves at the next event of this name. */
const once = (target: EventTarget, name: string) =>
  new Promise((done) => target.addEventListener(name, done, { once: true }));
const pause = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));

/**
 * `load` fetches the renderer; `base` is where the script came from, if that is a server.
 * One closure, because all of it is about one page.
 */
export function create(load: (attempt: number) => Promise<Renderer>, base = ''): Askwhen {
  let options: Options | undefined;
  let user: Person;
  let queue: Outbox;
  let view: View | undefined;
  let showing = false;
  let loads = 0;
  let resets = 0;
  let loaded: Renderer | undefined;
  let started!: () => void;
  const ready = new Promise<void>((done) => (started = done));

  /** Hooks are the page's: what they throw is told to the page's `onError`, never thrown. */
  function hook<A extends unknown[]>(call: ((...given: A) => unknown) | undefined, ...given: A): unknown {
    try {
      return call?.(...given);
    } catch (error) {
      fail(error);
      return;
    }
  }
  /** What never began has nobody to tell but the console. */
  function fail(error: unknown, to: Partial<Options> | undefined = options): void {
    const told = error instanceof Error ? error : new Error('askwhen: ' + error);
    if (options?.debug || !options) console.warn(told);
    try {
      to?.onError?.(told);
    } catch {}
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

  const server = () => (options?.server || base).replace(/\/$/, '');
  const pathOf = (id: string, rest: string) => `/v1/users/${encodeURIComponent(id)}/${rest}`;
  const session = () => options!.session ?? user.session();

  function identify(id: string, signed?: string): void {
    const alias = user.identify(id, signed);
    if (alias) queue.tell({ path: pathOf(id + '', 'aliases'), body: { alias }, signature: signed });
  }

  function init(given: Options): void {
    if (!inPage) return;
    const first = !options;
    const wrong =
      !given?.key ? 'needs a key'
      : options && given.key !== options.key ? 'was called before, with another key'
      : !(given.server || server()) ? 'needs a server'
      : '';
    if (wrong) return fail('init ' + wrong, given);
    options = { ...options, ...given };
    if (first) {
      const names = `askwhen:${options.key}:`;
      const local = store(() => localStorage);
      user = person(local, store(() => sessionStorage), names);
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
    const id = user.id();
    const call = {
      path: pathOf(id, 'triggers/' + encodeURIComponent(name)),
      signature: user.signature(id),
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
    // The place for it may still be on its way.
    if (document.readyState === 'loading') await once(document, 'DOMContentLoaded');
    if (view && !view.host.isConnected) view.close('unmounted');
    if (!survey || showing) return false;
    showing = true;
    const signature = user.signature(decision.user_id);
    const tell = (rest: string, body: Record<string, unknown>) =>
      queue.tell({ path: pathOf(decision.user_id, `offers/${encodeURIComponent(survey.offer_id)}/${rest}`), body, signature });
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
      // A page that is made ready in advance may never be looked at.
      if ((document as { prerendering?: boolean }).prerendering) await once(document, 'prerenderingchange');
      const asked = resets;
      const decision = await ask(name, properties);
      // What was asked for a user who has gone since is shown to nobody.
      const wanted = hook(options!.onDecision, decision!) !== false && asked === resets;
      if (options!.debug) (await renderer()).debug(decision!);
      if (wanted) await show(decision!, target);
      return decision;
    }, Promise.resolve(null)),
    show: safely(async (decision, target) => {
      if (!inPage) return false;
      await ready;
      return show(decision, target);
    }, Promise.resolve(false)),
    close: safely(() => view?.close('dismissed'), undefined),
    flush: safely(async () => queue?.flush(true), Promise.resolve()),
    reset: safely(() => {
      resets++;
      view?.close('unmounted');
      user?.forget();
    }, undefined),
    queue: {
      push: safely((...calls: unknown[][]) => {
        for (const [name, ...given] of calls as [keyof Askwhen, ...any[]][]) (api[name] as any)?.(...given);
        return 0;
      }, 0),
    },
  };
  return api;
}
