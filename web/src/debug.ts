/** The overlay of `debug: true`: the last decision and its reason. */
import { el } from './dom';
import type { Decision } from './types';

let host: HTMLElement | undefined;

export function debug(decision: Decision): void {
  host?.remove();
  host = document.createElement('askwhen-debug');
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(
    ':host{all:initial!important;position:fixed!important;inset:auto auto 8px 8px!important;z-index:2147483647!important}' +
      'details{max-width:min(28em,90vw);max-height:50vh;overflow:auto;padding:.5em .8em;border-radius:8px;background:#16181d;color:#f2f4f8;font:12px/1.5 ui-monospace,monospace}' +
      'p{margin:.3em 0;overflow-wrap:anywhere}summary{cursor:pointer}',
  );
  const root = host.attachShadow({ mode: 'open' });
  root.adoptedStyleSheets = [sheet];
  const lines = [
    `decision ${decision.decision_id}`,
    `user ${decision.user_id}`,
    decision.survey && `survey ${decision.survey.survey_id}, version ${decision.survey.version}, offer ${decision.survey.offer_id}`,
    ...(decision.evaluations ?? []).map((e) => `${e.survey_id}: ${e.pass ? 'passes' : `${e.gate} (${JSON.stringify(e.actual)})`}`),
  ];
  const list = el(
    'details',
    { open: true },
    el('summary', {}, `${decision.trigger}: ${decision.reason}`),
    ...lines.map((line) => line && el('p', {}, line)),
  );
  root.append(el('section', { 'aria-label': 'askwhen' }, list));
  document.documentElement.append(host);
}
