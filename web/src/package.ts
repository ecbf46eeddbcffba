/** The npm package: `init` needs a server; bundlers split off the renderer. */
import { create } from './core';

const askwhen = create(() => import('./render'));
export default askwhen;
export const { init, identify, trigger, show, close, flush, reset, queue } = askwhen;
