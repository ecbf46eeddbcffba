/**
 * The page for WebViews and frames: the widget on an empty page, with a bridge
 * to the app around it. Commands come in as `["trigger", "Checkout", {…}]`,
 * events go out as `{"askwhen": "close", …}`.
 */
import { create } from './core';
import type { Options } from './types';

interface Bridges {
  webkit?: { messageHandlers?: { askwhen?: { postMessage(message: unknown): void } } };
  AskwhenBridge?: { postMessage(text: string): void };
  ReactNativeWebView?: { postMessage(text: string): void };
}

const tag = document.currentScript as HTMLScriptElement;
const base = new URL('..', tag.src).href;
const api = create((attempt) => import(new URL('survey.mjs' + (attempt ? '?' + attempt : ''), tag.src).href), base);
const bridges = window as unknown as Bridges;
/** The origin of the parent frame, known from its first command on. Before that only `ready` is sent. */
let origin = '*';

function emit(event: string, detail: Record<string, unknown> = {}): void {
  const message = { askwhen: event, ...detail };
  const text = JSON.stringify(message);
  bridges.webkit?.messageHandlers?.askwhen?.postMessage(message);
  bridges.AskwhenBridge?.postMessage(text);
  bridges.ReactNativeWebView?.postMessage(text);
  if (parent !== window && (origin !== '*' || event === 'ready')) parent.postMessage(message, origin);
}

const init = (options: Options): void =>
  api.init({
    ...options,
    onDecision: (decision) => emit('decision', { decision }),
    onShow: (survey) => emit('show', { survey_id: survey.survey_id }),
    onAnswer: (answers, completed, survey) => emit('answer', { survey_id: survey.survey_id, answers, completed }),
    onClose: (reason, survey) => emit('close', { survey_id: survey.survey_id, reason }),
    onError: (error) => emit('error', { message: error.message }),
  });
const commands = { ...api, init };

/** Runs one command; ignores other messages. */
function run(call: unknown): void {
  if (!Array.isArray(call)) return;
  const [name, ...given] = call;
  if (['init', 'identify', 'trigger', 'close', 'flush', 'reset'].includes(name))
    (commands[name as 'trigger'] as (...given: any[]) => unknown)(...given);
}

window.askwhen = { ...commands, queue: { push: (...calls: unknown[][]) => (calls.forEach(run), 0) } };
addEventListener('message', (event) => {
  if (event.source !== parent || parent === window) return;
  origin = event.origin;
  run(event.data);
});
emit('ready');
