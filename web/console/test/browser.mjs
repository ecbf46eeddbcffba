// What the console's tests share: pages that notice every error, violation and
// request to elsewhere, and the way in.
import { readFileSync } from 'node:fs';
import { fresh as plain, open, shut, tab, until } from '../../test/browser.mjs';
import { ADMIN } from './server.mjs';

export { open, shut, tab, until };

/** A signed-out answer is a 401, and a draft with faults a 422: the browser notes both, and both are meant. */
const MEANT = /status of (401|404|409|412|422)/;

/** A page of the console; `errors` has what went wrong, `elsewhere` requests that left the origin. */
export async function fresh(server, options = {}) {
  const page = await plain({ viewport: { width: 1440, height: 900 }, ...options });
  page.elsewhere = [];
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (url.protocol.startsWith('http') && url.origin !== server.origin) page.elsewhere.push(request.url());
  });
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener('securitypolicyviolation', (e) => window.violations.push(`${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
  });
  return page;
}

export async function signedIn(server, options = {}, key = ADMIN) {
  const page = await fresh(server, options);
  await page.goto(server.console + '/');
  await page.getByLabel('Key').fill(key);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('navigation', { name: 'Pages' }).waitFor();
  return page;
}

/** With OWN_DIST=1 the pages of this tree are shown, where the program was built from another. */
export async function ownPages(page) {
  if (!process.env.OWN_DIST) return page;
  const types = { js: 'text/javascript', mjs: 'text/javascript', css: 'text/css' };
  await page.route(/\/console\/(console|survey)\.(js|css|mjs)/, (route) => {
    const name = new URL(route.request().url()).pathname.split('/').pop();
    return route.fulfill({ contentType: types[name.split('.').pop()], body: readFileSync(new URL('../dist/' + name, import.meta.url)) });
  });
  return page;
}

/** Goes there by its address, and waits until nothing is loading any more. */
export async function visit(server, page, path) {
  await page.goto(server.console + path);
  await settled(page);
}

export async function settled(page) {
  await page.locator('main h1').waitFor();
  await page.waitForFunction(() => !document.querySelector('.loading'));
}

/** What must never be: errors, violations of the policy, requests to elsewhere. */
export async function wrongs(page) {
  return [...page.errors.filter((error) => !MEANT.test(error)), ...(await page.evaluate(() => window.violations)), ...page.elsewhere];
}

/** Texts of the page with a mark that turns around letters, or what stands beside it. */
export const turned = (page) => page.evaluate(() => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) if (/[\u202a-\u202e\u2066-\u2069]/.test(texts.currentNode.data)) found.push(texts.currentNode.data.slice(0, 80));
  return found;
});

const axe = readFileSync(new URL('../../node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');

/** What axe finds; the policy is no matter here, as the test brings the script. */
export async function faults(page) {
  if (!(await page.evaluate(() => !!window.axe))) await (await page.context().newCDPSession(page)).send('Runtime.evaluate', { expression: axe });
  return page.evaluate(async () => {
    const { violations, incomplete } = await window.axe.run(document, { resultTypes: ['violations', 'incomplete'] });
    const told = (r) => `${r.id}: ${r.nodes.map((n) => `${n.target.join(' ')} ${n.html.slice(0, 120)} ${n.any[0]?.message ?? n.all[0]?.message ?? n.none[0]?.message ?? ''}`).join(' | ')}`;
    // Where text lies over the edge of what scrolls, axe cannot tell the colour behind it.
    return [...violations, ...incomplete.filter((r) => r.id !== 'color-contrast')].map(told);
  });
}

export const picture = async (page, name) => {
  if (process.env.PICTURES) await page.screenshot({ path: `${process.env.PICTURES}/${name}.png`, fullPage: true });
};

export const PAGES = ['Home', 'Connections', 'Triggers', 'Surveys', 'Results', 'Backtest', 'Users', 'Deliveries', 'Endpoints', 'Failures', 'System'];
