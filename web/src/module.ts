/** The ES module that a server serves; it uses the server that it came from. */
import { create } from './core';

const here = import.meta.url;
const askwhen = create(
  (attempt) => import(new URL('survey.mjs' + (attempt ? '?' + attempt : ''), here).href),
  /^http/.test(here) ? new URL('..', here).href : '',
);
export default askwhen;
export const { init, identify, trigger, show, close, flush, reset, queue } = askwhen;
