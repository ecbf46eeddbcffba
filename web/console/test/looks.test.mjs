// Every page and state in both schemes and at three widths: axe finds nothing,
// nothing is wider than the window, and nothing breaks the policy. PICTURES=DIR
// writes what is seen; DOCS=1 writes the pictures of docs/console.md.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { start, VIEWER } from './server.mjs';
import { fill } from './world.mjs';
import { faults, fresh, picture, settled, shut, signedIn, turned, until, visit, wrongs } from './browser.mjs';

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

const press = (page, name) => page.getByRole('button', { name, exact: true }).first().click();
/** What is seen only after something was done. */
const DONE = {
  yaml: ['/surveys/sleep-quality', (page) => press(page, 'View as YAML')],
  json: ['/surveys/sleep-quality', (page) => press(page, 'Edit as JSON')],
  versions: ['/surveys/sleep-quality', async (page) => {
    await press(page, 'Versions');
    await page.getByRole('dialog').getByText('ben').first().waitFor();
  }],
  conflict: ['/surveys/sleep-quality', async (page) => {
    await page.getByLabel('Name', { exact: true }).fill('Mine');
    full.put({ ...full.survey('sleep-quality'), priority: full.survey('sleep-quality').priority + 1 }, 'ben');
    await press(page, 'Publish');
    await page.getByRole('alert', { name: 'Conflict' }).waitFor();
  }],
  faults: ['/surveys/sleep-quality', async (page) => {
    await page.getByLabel('Name', { exact: true }).fill('');
    await page.getByLabel('Expires after').fill('101h');
    await page.getByText('things to mend before you publish').waitFor();
  }],
  pausing: ['/surveys/sleep-quality', async (page) => {
    await page.getByLabel('Status').selectOption('paused');
    await page.locator('.differences').getByText('paused').waitFor();
  }],
  groups: ['/surveys/sleep-quality', (page) => page.evaluate(() => document.querySelectorAll('.form details').forEach((group) => (group.open = true)))],
  'backtest-done': ['/backtest?survey=sleep-quality', async (page) => {
    await press(page, 'Run backtest');
    await page.getByText('610 users reached').waitFor();
  }],
  'as-table': ['/results/sleep-quality', (page) => page.locator('summary', { hasText: 'Show as table' }).evaluateAll((all) => all.forEach((one) => one.click()))],
  columns: ['/triggers', (page) => page.locator('summary', { hasText: 'Columns' }).click()],
  happened: ['/users/user_7', (page) => page.locator('.timeline summary').first().click()],
  erase: ['/users/user_7', (page) => press(page, 'Erase')],
  headers: ['/deliveries?delivery=dlv_00000003aaaabbbb', async (page) => {
    await page.getByText('Headers of attempt 4').click();
    await page.getByRole('region', { name: 'body', exact: true }).scrollIntoViewIfNeeded();
  }],
  resent: ['/deliveries?delivery=dlv_00000003aaaabbbb', async (page) => {
    await press(page, 'Resend');
    await page.getByText('It is being sent again.').waitFor();
  }],
  counted: ['/failures?period=all', async (page) => {
    await press(page, 'Resend all of these');
    await page.getByText('messages will be sent again').waitFor();
  }],
  sending: ['/failures?period=all', async (page) => {
    await press(page, 'Resend all of these');
    await page.getByRole('button', { name: /^Resend \d+$/ }).click();
    await page.getByRole('progressbar').waitFor();
  }],
  tested: ['/endpoints/crm', async (page) => {
    await press(page, 'Test');
    await page.getByText('The receiver took it with 200.').waitFor();
  }],
  rotated: ['/endpoints/crm', async (page) => {
    await press(page, 'Rotate secret');
    await press(page, 'Rotate');
    await page.getByRole('dialog').getByText(/whsec_/).waitFor();
  }],
  recover: ['/endpoints/crm', (page) => press(page, 'Recover')],
  remove: ['/endpoints/crm', (page) => press(page, 'Remove')],
  'new-key': ['/system', async (page) => {
    await press(page, 'New key');
    await page.getByRole('dialog').getByLabel('Name').fill('ci');
    await press(page, 'Save');
    await page.getByText('It is shown this once.').waitFor();
  }],
  revoke: ['/system', (page) => page.getByRole('button', { name: /^Revoke backend/ }).click()],
  'settings-fault': ['/system/settings', async (page) => {
    await page.getByLabel('Cooldown between surveys').fill('soon');
    await page.locator('.field', { hasText: 'Cooldown between surveys' }).locator('.fault').waitFor();
  }],
};
for (const view of STATE_VIEWS)
  test(`what is seen after something was done, ${view.colorScheme}, ${view.width} px`, { timeout: 300_000 }, async () => {
    full.openWindows = 412;
    const open = async (page, _, name) => {
      await page.evaluate(() => sessionStorage.clear());
      const [path, does] = DONE[name];
      await visit(full, page, path);
      await page.waitForTimeout(path.startsWith('/surveys/') ? 700 : 60);
      await does(page);
      await page.waitForTimeout(300);
    };
    const page = await look({ server: full, view, state: 'done', names: Object.keys(DONE), open });
    full.openWindows = undefined;
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

/** Marks what can be used on the page, and gives how many there are. What stands behind a modal dialog, or is one of several radios, is left out. */
const controls = (page) => page.evaluate(() => {
  const modal = document.querySelector('dialog:modal');
  const all = [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex="0"]')];
  const usable = all.filter((one) => !one.disabled && one.checkVisibility({ visibilityProperty: true }) && !one.closest('fieldset:disabled') && (!modal || modal.contains(one)));
  usable.forEach((one, i) => (one.dataset.control = i));
  return usable.length;
});

test('every control of every page is reached by Tab, and shows where the keyboard is', { timeout: 300_000 }, async () => {
  const page = await signedIn(full);
  const missed = [];
  for (const [name, path] of Object.entries(ADDRESSES)) {
    await opened(full)(page, path, name);
    const count = await controls(page);
    assert.ok(count > 5, name);
    const [reached, dark] = [new Set(), new Set()];
    await page.evaluate(() => document.activeElement.blur());
    for (let left = count + 20; left && reached.size < count; left--) {
      await page.keyboard.press('Tab');
      const [control, isShown] = await page.evaluate(() => {
        const at = document.activeElement;
        const { outlineStyle, outlineWidth } = getComputedStyle(at);
        return [at.dataset.control, at === document.body || at.shadowRoot || (outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2)];
      });
      if (control) reached.add(control);
      if (control && !isShown) dark.add(control);
    }
    const told = (numbers) => page.evaluate((numbers) => numbers.map((n) => document.querySelector(`[data-control="${n}"]`)?.outerHTML.slice(0, 120)), numbers);
    missed.push(...(await told(Array.from({ length: count }, (_, n) => String(n)).filter((n) => !reached.has(n)))).map((html) => `${name}: not reached ${html}`));
    missed.push(...(await told([...dark])).map((html) => `${name}: no outline ${html}`));
  }
  assert.deepEqual(missed, []);
  await page.context().close();
});

/** Members that say what something is, which the server alone gives. */
const OF_THE_SERVER = /^(type|status|kind|outcome|state|gate|pass|op|repeat|at|until|version|etag|next_cursor|page|source|job_id|ready|layout|position|scheme|profile|preset|global_cooldown|expires_after|cooldown|delay|goto|timezone|.*_at)$/;
const NASTY = '<img src=x onerror=alert(1)><script>alert(2)</script>\u202e\u2066 {{constructor}} ${7*7} ' + 'ä'.repeat(10_000);
/** Ids are short, and stand in addresses. */
const IDS = /(^|_)(id|trigger|cause|example)$/;
/** Pages whose texts, and not only fields, are the server's. */
const SPOILED = ['home', 'connections', 'triggers', 'surveys', 'results', 'results-choose', 'user', 'deliveries', 'delivery', 'endpoints', 'failures', 'system'];
let nasty = 0;
const spoiled = (value, name = '') =>
  typeof value === 'string' ? (OF_THE_SERVER.test(name) || !value ? value : `${++nasty} ${IDS.test(name) ? NASTY.slice(0, 160) : NASTY}`)
  : Array.isArray(value) ? value.map((one) => spoiled(one, name))
  : value && typeof value === 'object' ? Object.fromEntries(Object.entries(value).map(([member, one]) => [member, spoiled(one, member)]))
  : value;

for (const view of VIEWS.filter(isChecked))
  test(`whatever the server tells, in every member, stays a text, ${view.colorScheme}, ${view.width} px`, { timeout: 300_000 }, async () => {
    const server = await start();
    fill(server);
    server.deliveries.length = 12;
    const page = await signedIn(server, { colorScheme: view.colorScheme, viewport: { width: view.width, height: 900 } });
    server.text = (text) => (text.startsWith('{') ? JSON.stringify(spoiled(JSON.parse(text))) : text);
    for (const [name, path] of Object.entries(ADDRESSES)) {
      await opened(server)(page, path, name);
      assert.equal(await page.locator('img, script:not([src]), main iframe').count(), 0, name);
      assert.ok((await tooWide(page)) <= 0, `${name} is ${await tooWide(page)} px wider than ${view.width}`);
      assert.deepEqual(await turned(page), [], name);
      if (SPOILED.includes(name)) assert.ok((await page.locator('main').innerText()).includes('<img src=x'), `${name} shows none of it`);
      await picture(page, `nasty-${name}-${view.colorScheme}-${view.width}`);
    }
    assert.deepEqual(await wrongs(page), []);
    server.stop();
    await page.context().close();
  });

for (const view of VIEWS.filter(isChecked))
  test(`whatever is typed, into every field, stays a text, ${view.colorScheme}, ${view.width} px`, { timeout: 600_000 }, async () => {
    const server = await start();
    fill(server);
    const page = await signedIn(server, { colorScheme: view.colorScheme, viewport: { width: view.width, height: 900 } });
    let count = 0;
    for (const [name, path] of Object.entries(ADDRESSES)) {
      await page.evaluate(() => sessionStorage.clear());
      await opened(server)(page, path, name);
      // As if it were typed; a field that is of a kind, such as a number, takes what it takes.
      count += await page.evaluate((text) => {
        document.querySelectorAll('main details').forEach((group) => (group.open = true));
        const fields = [...document.querySelectorAll('main, dialog')].flatMap((part) => [...part.querySelectorAll('input:is([type=text], [type=search], [type=url], [type=password]), textarea')]);
        for (const field of new Set(fields)) {
          Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), 'value').set.call(field, text);
          field.dispatchEvent(new Event('input', { bubbles: true }));
        }
        return fields.length;
      }, NASTY);
      await page.waitForTimeout(name.startsWith('editor') ? 1200 : 400);
      assert.equal(await page.locator('img, script:not([src]), main iframe').count(), 0, name);
      assert.ok((await tooWide(page)) <= 0, `${name} is ${await tooWide(page)} px wider than ${view.width}`);
      assert.deepEqual(await turned(page), [], name);
      assert.equal(await page.getByText('This page has broken').count(), 0, name);
    }
    assert.ok(count > 100, String(count));
    // A server takes no address of so many characters, and the page says so.
    assert.deepEqual((await wrongs(page)).filter((wrong) => !/status of 431|ERR_CONNECTION_RESET/.test(wrong)), []);
    server.stop();
    await page.context().close();
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
