/**
  * The API of the widget: identity, decisions, reports to the server. It fetches
  * the renderer when there is a survey to show.
 */
import { outbox, type Outbox } from './outbox';
import { identity, type Identity } from './identity';
import { toError, post, isRetryable } from './send';
import { store } from './store';
import { uuid } from './uuid';
import type { Mount, Renderer, View } from './render';
import type { Askwhen, CloseReason, Decision, Options } from './types';

const TRIGGER_ATTEMPTS = 4;
/** A trigger waits this long for earlier entries of the queue. */
const QUEUE_WAIT_MS = 2000;

/** False where a server renders the page; then the widget does nothing. */
const hasDocument = typeof document !== 'undefined';

/** Resolves at the next event of this name. */
const once = (target: EventTarget, name: string) =>
  new Promise((done) => target.addEventListener(name, done, { once: true }));
const pause = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));

/**
  * `load` fetches the renderer. `base` is the server that the script came from, if it came from one.
  * This is one closure because all of it is the state of one page.
 */
export function create(load: (attempt: number) => Promise<Renderer>, base = ''): Askwhen {
  let options: Options | undefined;
  let user: Identity;
  let queue: Outbox;
  let view: View | undefined;
  let showing = false;
  let loads = 0;
  let resets = 0;
  let loaded: Renderer | undefined;
  let started!: () => void;
  const ready = new Promise<void>((done) => (started = done));

  /** Calls a hook of the page. If the hook throws, `onError` gets the error. */
  function callHook<A extends unknown[]>(call: ((...given: A) => unknown) | undefined, ...given: A): unknown {
    try {
      return call?.(...given);
    } catch (error) {
      reportError(error);
      return;
    }
  }
  /** Before a successful `init` only the console can show the error. */
  function reportError(error: unknown, to: Partial<Options> | undefined = options): void {
    const told = error instanceof Error ? error : new Error('askwhen: ' + error);
    if (options?.debug || !options) console.warn(told);
    try {
      to?.onError?.(told);
    } catch {}
  }
  const guarded =
    <A extends unknown[], R>(work: (...given: A) => R, otherwise: R) =>
    (...given: A): R => {
      try {
        const result = work(...given);
        return result instanceof Promise ? (result.catch((e) => (reportError(e), otherwise)) as R) : result;
      } catch (error) {
        reportError(error);
        return otherwise;
      }
    };

  const server = () => (options?.server || base).replace(/\/$/, '');
  const userPath = (id: string, rest: string) => `/v1/users/${encodeURIComponent(id)}/${rest}`;
  const session = () => options!.session ?? user.session();

  function identify(id: string, signed?: string): void {
    const alias = user.identify(id, signed);
    if (alias) queue.enqueue({ path: userPath(id + '', 'aliases'), body: { alias }, signature: signed });
  }

  function init(given: Options): void {
    if (!hasDocument) return;
    const first = !options;
    const wrong =
      !given?.key ? 'needs a key'
      : options && given.key !== options.key ? 'was called before, with another key'
      : !(given.server || server()) ? 'needs a server'
      : '';
    if (wrong) return reportError('init ' + wrong, given);
    options = { ...options, ...given };
    if (first) {
      const names = `askwhen:${options.key}:`;
      const local = store(() => localStorage);
      user = identity(local, store(() => sessionStorage), names);
      queue = outbox(server, options.key, local, names, reportError);
      addEventListener('online', () => queue.flush(true));
      addEventListener('pagehide', () => queue.sendOnHide());
      document.addEventListener('visibilitychange', () => document.hidden && queue.sendOnHide());
    }
    if (given.user) identify(given.user, given.signature);
    queue.flush();
    started();
  }

  async function requestDecision(name: string, properties: Record<string, unknown> = {}): Promise<Decision | null> {
    // The decision depends on earlier answers and on the alias, so they are sent first.
    await Promise.race([queue.flush(), pause(QUEUE_WAIT_MS)]);
    const id = user.id();
    const request = {
      path: userPath(id, 'triggers/' + encodeURIComponent(name)),
      signature: user.signature(id),
      body: {
        event_id: uuid(),
        properties,
        context: { platform: 'web', locale: navigator.language, ...options!.context, session_id: session() },
        occurred_at: new Date().toISOString(),
      },
    };
    for (let attempt = 1; ; attempt++) {
      const response = await post(server(), options!.key, request);
      if (response.status === 200 && response.body?.reason) return response.body;
      if (!isRetryable(response) || attempt === TRIGGER_ATTEMPTS) throw toError(request.path, response);
      await pause(Math.min(response.wait || 500 * 2 ** attempt, 10_000));
    }
  }

  /** Fetches the renderer once. A retry uses another URL because browsers cache failed imports. */
  const loadRenderer = async (): Promise<Renderer> => (loaded ??= await load(loads++));

  async function show(decision: Decision, target?: Element | string | null): Promise<boolean> {
    const survey = decision?.survey;
    // The container may not be parsed yet.
    if (document.readyState === 'loading') await once(document, 'DOMContentLoaded');
    if (view && !view.host.isConnected) view.close('unmounted');
    if (!survey || showing) return false;
    showing = true;
    const signature = user.signature(decision.user_id);
    const enqueue = (rest: string, body: Record<string, unknown>) =>
      queue.enqueue({ path: userPath(decision.user_id, `offers/${encodeURIComponent(survey.offer_id)}/${rest}`), body, signature });
    const now = () => ({ occurred_at: new Date().toISOString() });
    const mount: Mount = {
      theme: options!.theme,
      target: element(target ?? (survey.ui?.layout === 'inline' ? options!.container : null)),
      displayed() {
        enqueue('displayed', now());
        callHook(options!.onShow, survey);
      },
      answered(answers, completed) {
        session();
        enqueue('answers', { answers, completed });
        callHook(options!.onAnswer, answers, completed, survey);
      },
      dismissed: () => enqueue('dismissed', now()),
      closed(reason: CloseReason) {
        view = undefined;
        showing = false;
        callHook(options!.onClose, reason, survey);
      },
      failed: reportError,
    };
    try {
      view = (await loadRenderer()).mount(survey, mount);
    } catch (error) {
      // The decision stands: the trigger still resolves with it.
      showing = false;
      reportError(error);
      return false;
    }
    return true;
  }

  function element(target: Element | string | null | undefined): Element | null {
    const found = typeof target === 'string' ? document.querySelector(target) : target;
    if (target && !found) reportError(`no element ${target} to show a survey in`);
    return found ?? null;
  }

  const api: Askwhen = {
    init: guarded(init, undefined),
    identify: guarded((id, signed) => {
      if (options) identify(id, signed);
      else ready.then(() => api.identify(id, signed));
    }, undefined),
    trigger: guarded(async (name, properties, target) => {
      if (!hasDocument) return null;
      await ready;
      // The user may never look at a prerendered page.
      if ((document as { prerendering?: boolean }).prerendering) await once(document, 'prerenderingchange');
      const asked = resets;
      const decision = await requestDecision(name, properties);
      // After a reset the decision belongs to a user who is gone.
      const wanted = callHook(options!.onDecision, decision!) !== false && asked === resets;
      if (options!.debug) await loadRenderer().then((renderer) => renderer.debug(decision!), reportError);
      if (wanted) await show(decision!, target);
      return decision;
    }, Promise.resolve(null)),
    show: guarded(async (decision, target) => {
      if (!hasDocument) return false;
      await ready;
      return show(decision, target);
    }, Promise.resolve(false)),
    close: guarded(() => view?.close('dismissed'), undefined),
    flush: guarded(async () => queue?.flush(true), Promise.resolve()),
    reset: guarded(() => {
      resets++;
      view?.close('unmounted');
      user?.reset();
    }, undefined),
    queue: {
      push: guarded((...calls: unknown[][]) => {
        for (const [name, ...given] of calls as [keyof Askwhen, ...any[]][]) (api[name] as any)?.(...given);
        return 0;
      }, 0),
    },
  };
  return api;
}
