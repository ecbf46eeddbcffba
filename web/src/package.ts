/** The npm package: `init` names the server; the renderer is a chunk that the bundler splits off. */
import { create } from './core';

const askwhen = create(() => import('./render'));
export default askwhen;
export const { init, identify, trigger, show, close, flush, reset, queue } = askwhen;
