// Every page and state in both schemes and at three widths: axe finds nothing,
// nothing is wider than the window, and nothing breaks the policy. PICTURES=DIR
// writes what is seen; DOCS=1 writes the pictures of docs/console.md.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { start, VIEWER } from './server.mjs';
import { fill } from './world.mjs';
import { faults, fresh, picture, settled, shut, signedIn, visit, wrongs } from './browser.mjs';

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

for (const colorScheme of ['light', 'dark'])
  for (const width of WIDTHS)
    test(`every page, ${colorScheme}, ${width} px`, async () => {
      const page = await signedIn(full, { colorScheme, viewport: { width, height: 900 } });
      const found = [];
      for (const [name, path] of Object.entries(ADDRESSES)) {
        await visit(full, page, path);
        await page.waitForTimeout(name.startsWith('editor') ? 700 : 60);
        assert.equal(await page.locator('h1').count(), 1, name);
        assert.ok((await tooWide(page)) <= 0, `${name} is ${await tooWide(page)} px wider than ${width}`);
        await picture(page, `${name}-${colorScheme}-${width}`);
        // The widest and the narrowest page have every layout, and the two have every colour between them.
        if ((width === 1440 && colorScheme === 'light') || (width === 360 && colorScheme === 'dark')) found.push(...(await faults(page)).map((fault) => `${name}: ${fault}`));
      }
      assert.deepEqual([...new Set(found)], []);
      assert.deepEqual(await wrongs(page), []);
      await page.context().close();
    });

test('empty pages say what to do next', async () => {
  const page = await signedIn(empty);
  for (const path of ['/', '/connections', '/triggers', '/surveys', '/results', '/backtest', '/users', '/deliveries', '/endpoints', '/failures', '/system']) {
    await visit(empty, page, path);
    await picture(page, 'empty-' + (path.slice(1) || 'home'));
    assert.deepEqual(await faults(page), [], path);
    if (path !== '/system') assert.ok(await page.locator('.empty p, .steps, .notice').count(), path);
  }
  await page.context().close();
});

test('errors are told on every page, with a way to try again', async () => {
  const page = await signedIn(full);
  for (const [name, fault] of Object.entries({
    refused: () => ({ status: 503, body: { status: 503, code: 'no_console', detail: 'this process does not run the role console', request_id: 'req_1' } }),
    gone: () => 'drop',
  })) {
    full.fault = fault;
    for (const path of ['/', '/triggers', '/surveys', '/surveys/sleep-quality', '/results', '/users/user_7', '/deliveries', '/endpoints', '/endpoints/crm', '/failures', '/system']) {
      await page.goto(full.console + path);
      await page.getByRole('alert').first().waitFor();
      assert.ok(await page.getByRole('button', { name: 'Try again' }).count(), path);
      if (path === '/deliveries') assert.deepEqual(await faults(page), [], path);
      await picture(page, `error-${name}-${path.replace(/\W+/g, '-')}`);
    }
    full.fault = null;
  }
  await page.getByRole('button', { name: 'Try again' }).first().click();
  await settled(page);
  await page.context().close();
});

test('what is slow says that it is loading', async () => {
  const page = await signedIn(full);
  full.slow = 1500;
  await page.goto(full.console + '/deliveries');
  await page.getByText('Loading deliveries').waitFor();
  assert.deepEqual(await faults(page), []);
  full.slow = 0;
  await settled(page);
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

test('a viewer sees no button that would be refused', async () => {
  const page = await signedIn(full, {}, VIEWER);
  for (const [name, path] of Object.entries(ADDRESSES)) {
    if (name === 'editor-new') continue;
    await visit(full, page, path);
    for (const button of ['Create trigger', 'New survey', 'New endpoint', 'Publish', 'Save', 'Resend', 'Resend all of these', 'Resend all that match', 'Test', 'Rotate secret', 'Recover', 'Erase', 'Remove', 'New key', 'Revoke', 'Take a snapshot', 'Run backtest', 'Edit as JSON', 'Restore'])
      assert.equal(await page.getByRole('button', { name: button, exact: true, disabled: false }).count(), 0, `${button} on ${name}`);
    assert.deepEqual(await faults(page), [], name);
  }
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
