// Every page and state in both schemes and at three widths: axe finds nothing,
// nothing is wider than the window, and nothing breaks the policy. PICTURES=DIR
// writes what is seen; DOCS=1 writes the pictures of docs/console.md.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { start, VIEWER } from './server.mjs';
import { fill } from './world.mjs';
import { faults, fresh, picture, settled, shut, signedIn, until, visit, wrongs } from './browser.mjs';

const ADDRESSES = {
  home: '/', connections: '/connections', triggers: '/triggers', 'trigger-new': '/triggers?new=1', surveys: '/surveys', 'survey-templates': '/surveys?new=1',
  editor: '/surveys/sleep-quality', 'editor-new': '/surveys/new?template=nps', results: '/results/sleep-quality', 'results-choose': '/results', backtest: '/backtest?survey=sleep-quality',
  users: '/users', user: '/users/user_7?trigger=MainActivity', 'user-unknown': '/users/nobody', gate: '/users?gate=global_cooldown&survey_id=sleep-quality',
  deliveries: '/deliveries', 'deliveries-filtered': '/deliveries?status=dead&endpoint_id=crm', delivery: '/deliveries?delivery=dlv_00000003aaaabbbb',
  endpoints: '/endpoints', 'endpoint-new': '/endpoints?new=1', endpoint: '/endpoints/crm', failures: '/failures', system: '/system', settings: '/system/settings', missing: '/nowhere',
};
const WIDTHS = [360, 768, 1440, 1920];

let full;
let empty;
before(async () => {
  full = await start();
  fill(full);
  empty = await start();
});
after(async () => {
  await shut();
  full.stop();
  empty.stop();
});

const tooWide = (page) => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
const VIEWS = ['light', 'dark'].flatMap((colorScheme) => WIDTHS.map((width) => ({ colorScheme, width })));
/** The widest and the narrowest page have every layout, and the two have every colour between them. */
const isChecked = ({ colorScheme, width }) => (width === 1440 && colorScheme === 'light') || (width === 360 && colorScheme === 'dark');
/** Where pictures are written, states are seen wherever pages are. */
const STATE_VIEWS = VIEWS.filter((view) => (process.env.PICTURES ? view.width < 1920 : isChecked(view)));
/** Where a state is another: one of each page that waits for something. */
const WAITING = ['home', 'connections', 'triggers', 'surveys', 'editor', 'results', 'backtest', 'user', 'gate', 'deliveries', 'delivery', 'endpoints', 'endpoint', 'failures', 'system', 'settings'];

/** Looks at pages one after the other: as wide as the window, pictured, with nothing for axe to find. */
async function look({ server, view, state, names, key, open }) {
  const page = await signedIn(server, { colorScheme: view.colorScheme, viewport: { width: view.width, height: 900 } }, key);
  const found = [];
  for (const name of names) {
    await open(page, ADDRESSES[name], name);
    assert.equal(await page.locator('h1').count(), 1, name);
    assert.ok((await tooWide(page)) <= 0, `${state}: ${name} is ${await tooWide(page)} px wider than ${view.width}`);
    await picture(page, `${state ? state + '-' : ''}${name}-${view.colorScheme}-${view.width}`);
    if (isChecked(view)) found.push(...(await faults(page)).map((fault) => `${name}: ${fault}`));
  }
  assert.deepEqual([...new Set(found)], []);
  assert.deepEqual(await wrongs(page), []);
  return page;
}
const opened = (server) => async (page, path, name) => {
  await visit(server, page, path);
  await page.waitForTimeout(name.startsWith('editor') ? 700 : 60);
};

for (const view of VIEWS)
  test(`every page, ${view.colorScheme}, ${view.width} px`, async () => {
    const page = await look({ server: full, view, names: Object.keys(ADDRESSES), open: opened(full) });
    await page.context().close();
  });

for (const view of STATE_VIEWS)
  test(`empty pages say what to do next, ${view.colorScheme}, ${view.width} px`, async () => {
    const names = ['home', 'connections', 'triggers', 'surveys', 'results-choose', 'backtest', 'users', 'gate', 'deliveries', 'deliveries-filtered', 'endpoints', 'failures', 'system'];
    const open = async (page, path, name) => {
      await opened(empty)(page, path, name);
      if (name !== 'system') assert.ok(await page.locator('.empty p, .steps, .notice').count(), name);
    };
    const page = await look({ server: empty, view, state: 'empty', names, open });
    await page.context().close();
  });

const WRONGS = {
  refused: () => ({ status: 503, body: { status: 503, code: 'no_console', detail: 'this process does not run the role console', request_id: 'req_1' } }),
  gone: () => 'drop',
};
for (const view of STATE_VIEWS)
  test(`errors are told on every page, with a way to try again, ${view.colorScheme}, ${view.width} px`, async () => {
    for (const [wrong, fault] of Object.entries(WRONGS)) {
      const open = async (page, path, name) => {
        full.fault = null;
        await page.goto(full.console + '/nowhere');
        page.errors.length = 0;
        full.fault = fault;
        await page.goto(full.console + path);
        await page.getByRole('alert').first().waitFor();
        await settled(page);
        assert.ok(await page.getByRole('button', { name: 'Try again' }).count(), name);
        // The browser notes each answer that is no success.
        page.errors.length = 0;
      };
      const page = await look({ server: full, view, state: 'error-' + wrong, names: WAITING, open });
      full.fault = null;
      await page.getByRole('button', { name: 'Try again' }).first().click();
      await settled(page);
      await page.context().close();
    }
  });

for (const view of STATE_VIEWS)
  test(`what is slow says that it is loading, ${view.colorScheme}, ${view.width} px`, async () => {
    const open = async (page, path, name) => {
      full.slow = 60_000;
      await page.goto(full.console + path);
      await until(`${name} says so`, () => page.locator('main .loading').count());
      assert.ok(/…/.test(await page.locator('main .loading').first().innerText()), name);
    };
    const page = await look({ server: full, view, state: 'loading', names: WAITING, open });
    full.slow = 0;
    await page.context().close();
  });

test('signing in, and the palette', async () => {
  for (const colorScheme of ['light', 'dark']) {
    const page = await fresh(full, { colorScheme });
    await page.goto(full.console + '/');
    await page.getByLabel('Key').fill('wrong');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByText('This key is not known here').first().waitFor();
    assert.deepEqual(await faults(page), []);
    await picture(page, 'sign-in-' + colorScheme);
    await page.context().close();
    const inside = await signedIn(full, { colorScheme });
    await inside.keyboard.press('Control+k');
    await inside.getByRole('combobox').fill('sleep');
    await inside.getByRole('option', { name: /Sleep quality.*Survey/ }).waitFor();
    assert.deepEqual(await faults(inside), []);
    await picture(inside, 'palette-' + colorScheme);
    await inside.context().close();
  }
});

const CHANGES = ['Create trigger', 'New survey', 'New endpoint', 'Publish', 'Save', 'Resend', 'Resend all of these', 'Resend all that match', 'Test', 'Rotate secret', 'Recover', 'Backfill', 'Erase', 'Remove', 'New key', 'New server key', 'New client key', 'Revoke', 'Take a snapshot', 'Run backtest', 'Edit as JSON', 'Restore', 'Cancel job'];
for (const view of STATE_VIEWS)
  test(`a viewer sees no button that would be refused, ${view.colorScheme}, ${view.width} px`, async () => {
    const open = async (page, path, name) => {
      await opened(full)(page, path, name);
      for (const change of CHANGES)
        assert.equal(await page.getByRole('button', { name: change, exact: true, disabled: false }).count(), 0, `${change} on ${name}`);
    };
    const page = await look({ server: full, view, state: 'viewer', names: Object.keys(ADDRESSES), key: VIEWER, open });
    await page.context().close();
  });

if (process.env.DOCS) test('the pictures of the documentation', async () => {
  for (const [name, path, colorScheme] of [['editor', '/surveys/sleep-quality', 'light'], ['why-not', '/users/user_7?trigger=MainActivity', 'light'], ['home', '/', 'dark'], ['failures', '/failures', 'light']]) {
    const page = await signedIn(full, { colorScheme, viewport: { width: 1280, height: 800 } });
    await visit(full, page, path);
    await page.waitForTimeout(900);
    await page.screenshot({ path: new URL(`../../../docs/console-${name}.png`, import.meta.url).pathname });
    await page.context().close();
  }
});
