// What people come to the console for, done by clicking and by keyboard alone,
// and what must hold on the way: sessions, the policy, no requests to elsewhere.
import { after, before, beforeEach, test } from 'node:test';
import assert from 'node:assert/strict';
import { ADMIN, back, start, VIEWER } from './server.mjs';
import { fill, SLEEP } from './world.mjs';
import { fresh, PAGES, settled, shut, signedIn, turned, until, visit, wrongs } from './browser.mjs';

let server;
before(async () => {
  server = await start();
});
beforeEach(() => {
  for (const list of ['surveys', 'endpoints', 'users', 'timelines', 'results', 'stats', 'sessions']) server[list].clear();
  for (const list of ['triggers', 'deliveries', 'causes', 'keys', 'jobs', 'decisions', 'log']) server[list] = [];
  fill(server);
});
after(async () => {
  await shut();
  server.stop();
});
const puts = (path) => server.log.filter((entry) => entry.method === 'PUT' && entry.path === path && !entry.query.includes('dry_run')).map((entry) => JSON.parse(entry.body));
const posts = (path) => server.log.filter((entry) => entry.method === 'POST' && entry.path === path).map((entry) => JSON.parse(entry.body || '{}'));
const button = (page, name) => page.getByRole('button', { name, exact: true });

test('every page by the navigation, with its heading', async () => {
  const page = await signedIn(server);
  for (const name of [...PAGES.slice(1), 'Home']) {
    await page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name, exact: true }).click();
    await page.getByRole('heading', { level: 1, name, exact: true }).waitFor();
    await settled(page);
    assert.equal(await page.title(), `${name} · askwhen`);
    assert.equal(await page.evaluate(() => document.activeElement.tagName), 'H1', 'the focus goes to the new page');
  }
  await page.goBack();
  await page.getByRole('heading', { level: 1, name: 'System' }).waitFor();
  assert.deepEqual(await wrongs(page), []);
  await page.context().close();
});

test('home: what is broken before what is only odd, and what could not be asked is no good news', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/');
  const tones = await page.locator('.urgent li').evaluateAll((all) => all.map((one) => one.className));
  assert.deepEqual(tones, [...tones].sort(), tones.join());
  await page.getByText('No snapshot has covered all stores for 3 h.').waitFor();
  await page.getByText('87 deliveries failed in the last 7 days and not sent again, for 2 causes.').waitFor();
  // What was sent again needs nobody any more.
  server.causes[0].resent = 86;
  await visit(server, page, '/failures');
  await page.getByRole('row', { name: /crm/ }).getByText('all sent again').waitFor();
  assert.equal(await page.getByRole('button', { name: 'Resend all of these' }).count(), 1);
  await visit(server, page, '/');
  await page.getByText('1 delivery failed in the last 7 days and not sent again, for 1 cause.').waitFor();
  fill(server, { bad: false });
  await visit(server, page, '/');
  await page.getByText('Nothing needs you.').waitFor();
  for (const [path, what] of Object.entries({ '/v1/deliveries/causes': 'failed deliveries', '/v1/config': 'its configuration', '/v1/surveys/nps/stats': 'the numbers of some surveys' })) {
    server.fault = (_, asked) => (asked === path ? { status: 503, body: { status: 503, code: 'overloaded' } } : null);
    await visit(server, page, '/');
    await page.getByText(`The server did not say: ${what}.`).waitFor();
    assert.equal(await page.getByText('Nothing needs you.').count(), 0);
  }
  server.fault = null;
  await page.context().close();
});

test('sessions: a deep link survives signing in, a link works once, and a key that goes ends it', async () => {
  const page = await fresh(server);
  await page.goto(server.console + '/deliveries?status=dead');
  await page.getByLabel('Key').fill(ADMIN);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Deliveries' }).waitFor();
  assert.equal(await page.getByLabel('Status').inputValue(), 'dead');
  server.sessions.clear();
  // The first request that is refused ends it, which may be one that is on its way.
  await page.getByRole('link', { name: 'Endpoints', exact: true }).or(page.getByRole('button', { name: 'Sign in' })).click();
  await page.getByRole('button', { name: 'Sign in' }).waitFor();
  await page.getByText('Your session has ended').waitFor();
  await page.context().close();

  server.once.add('token-1');
  const linked = await fresh(server);
  await linked.goto(server.console + '/?once=token-1');
  await linked.getByRole('heading', { name: 'Home' }).waitFor();
  assert.equal(new URL(linked.url()).search, '', 'the token is not left in the address');
  await button(linked, 'Sign out').click();
  await linked.getByRole('button', { name: 'Sign in' }).waitFor();
  await linked.goto(server.console + '/?once=token-1');
  await linked.getByRole('button', { name: 'Sign in' }).waitFor();
  assert.deepEqual(await linked.evaluate(() => [localStorage.length, sessionStorage.length]), [0, 0], 'the key is kept nowhere');
  await linked.context().close();
});

test('below a base path, with deep links', async () => {
  const based = await start({ base: '/ask' });
  fill(based);
  const page = await signedIn(based);
  await visit(based, page, '/users/user_7');
  await page.getByRole('link', { name: 'Surveys', exact: true }).click();
  await page.getByRole('link', { name: 'Sleep quality', exact: true }).click();
  await page.locator('askwhen-survey').waitFor();
  assert.equal(new URL(page.url()).pathname, '/ask/console/surveys/sleep-quality');
  assert.ok(based.log.every((entry) => entry.path.startsWith('/ask/')));
  assert.deepEqual(await wrongs(page), []);
  await page.context().close();
  based.stop();
});

test('a trigger with a generated id, changed', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/triggers');
  await button(page, 'Create trigger').click();
  await page.getByLabel('Name').fill('Finished onboarding');
  assert.equal(await page.getByLabel('ID').inputValue(), 'finished_onboarding');
  await page.getByLabel('ID').fill('onboarded');
  await page.getByLabel('Kind').selectOption('frontend');
  await button(page, 'Save').click();
  await page.getByRole('cell', { name: 'onboarded', exact: true }).waitFor();
  assert.deepEqual(posts('/v1/triggers'), [{ name: 'Finished onboarding', trigger_id: 'onboarded', kind: 'frontend' }]);
  await page.context().close();
});

test('an endpoint: form, secret shown once, the switch, test and rotation', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/endpoints');
  await button(page, 'New endpoint').click();
  await page.getByLabel('URL').fill('https://hooks.example.com/in');
  assert.equal(await page.getByLabel('ID', { exact: true }).inputValue(), 'hooks-example-com');
  await button(page, 'Save').click();
  await page.getByText(/whsec_/).waitFor();
  await button(page, 'I have kept it').click();
  await page.getByRole('heading', { level: 1, name: 'hooks-example-com' }).waitFor();
  await settled(page);
  assert.equal(await page.getByText(/whsec_/).count(), 0);
  await page.getByLabel('Surveys', { exact: true }).fill('nps');
  await page.getByRole('switch', { name: 'Enabled' }).click();
  await page.getByText('It is switched off.').waitFor();
  assert.deepEqual([server.endpoints.get('hooks-example-com').enabled, server.endpoints.get('hooks-example-com').surveys], [false, ['*']], 'the switch takes effect at once, and nothing else');
  await button(page, 'Save').click();
  await until('it is saved', () => server.endpoints.get('hooks-example-com').surveys[0] === 'nps');
  assert.equal(server.endpoints.get('hooks-example-com').enabled, false);
  assert.equal(server.endpoints.get('hooks-example-com').rate_limit, null);
  await button(page, 'Test').click();
  await page.getByText('The receiver took it with 200.').waitFor();
  await button(page, 'Rotate secret').click();
  await button(page, 'Rotate').click();
  await page.getByRole('dialog').getByText(/whsec_/).waitFor();
  assert.deepEqual(await wrongs(page), []);
  await page.context().close();
});

test('an endpoint that another has changed is not overwritten', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/endpoints/crm');
  server.endpoints.get('crm').version = 7;
  await page.getByLabel('URL').fill('https://other.example/');
  await button(page, 'Save').click();
  await page.getByText('Somebody else has changed this').waitFor();
  assert.equal(server.endpoints.get('crm').url, 'https://crm.example/hooks');
  await page.context().close();
});

test('deliveries: filters in the address, the preview, copying, resending, and no jump', async () => {
  const page = await signedIn(server);
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  await visit(server, page, '/deliveries');
  await page.getByLabel('Status').selectOption('dead');
  await page.getByLabel('User').fill('user_3');
  await until('the address has the filters', () => page.url().includes('status=dead') && page.url().includes('user_id=user_3'));
  await settled(page);
  const first = server.deliveries.find((row) => row.status === 'dead' && row.user_id === 'user_3');
  await page.getByRole('button', { name: first.delivery_id.slice(0, 14) + '…' }).first().click();
  await page.getByRole('dialog').getByText('upstream is down').first().waitFor();
  await button(page, 'Copy as curl').click();
  const copied = await until('it is copied', () => page.evaluate(() => navigator.clipboard.readText()));
  assert.match(copied, /^curl -X POST 'https:\/\/warehouse\.example\/in' \\\n {2}-H 'content-type: application\/json'/);
  assert.ok(copied.includes(`webhook-id: ${first.message_id}`));
  await button(page, 'Resend').click();
  await page.getByText('It is being sent again.').waitFor();
  assert.equal(posts(`/v1/deliveries/${first.delivery_id}/resend`).length, 1);
  await page.keyboard.press('Escape');
  await until('the preview is closed', () => !page.url().includes('delivery='));

  await visit(server, page, '/deliveries');
  const before = await page.getByRole('row').nth(1).innerText();
  server.deliveries.unshift({ ...server.deliveries[5], delivery_id: 'dlv_newest', status: 'pending', created_at: new Date().toISOString() });
  server.moved('deliveries');
  await button(page, 'Show 1 newer').waitFor();
  assert.equal((await page.getByRole('row').nth(1).innerText()).split('\t')[0], before.split('\t')[0], 'the rows stay where they are');
  await button(page, 'Show 1 newer').click();
  await page.getByRole('button', { name: 'dlv_newest…' }).waitFor();
  await button(page, 'Show more').click();
  await until('there are two pages', async () => (await page.getByRole('row').count()) === 201);
  assert.deepEqual(await wrongs(page), []);
  await page.context().close();
});

test('a delivery whose body nobody knows any more says why, and is copied as what shows it', async () => {
  const page = await signedIn(server);
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  const row = server.deliveries[2];
  const told = { user_erased: 'The user was erased, and the body with them.', not_kept: 'do not go back so far any more', endpoint_removed: 'Its endpoint was removed' };
  for (const [why, sentence] of Object.entries(told)) {
    Object.assign(row, { body: null, body_missing: why });
    await visit(server, page, '/deliveries?delivery=' + row.delivery_id);
    await page.getByRole('dialog').getByText(sentence).waitFor();
    assert.equal(await page.getByRole('region', { name: 'body', exact: true }).count(), 0);
    await button(page, 'Copy as curl').click();
    await page.getByText('Copied').first().waitFor();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), `curl -H "authorization: Bearer $ASKWHEN_KEY" '${server.origin}/v1/deliveries/${row.delivery_id}'`);
  }
  assert.ok(!server.log.some((entry) => entry.path === '/v1/responses'), 'the body is asked for nowhere else');
  assert.deepEqual(await wrongs(page), []);
  await page.context().close();
});

test('each attempt shows the headers it carried, and whether it sent another body; the command carries those that fit', async () => {
  const page = await signedIn(server);
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  const row = server.deliveries[3];
  const command = async () => {
    await visit(server, page, '/deliveries?delivery=' + row.delivery_id);
    await button(page, 'Copy as curl').click();
    await page.getByText('Copied').first().waitFor();
    return page.evaluate(() => navigator.clipboard.readText());
  };
  const last = row.attempts.at(-1).headers;
  const copied = await command();
  for (const [name, value] of Object.entries(last)) assert.ok(copied.includes(`-H '${name}: ${value}'`), copied);
  assert.ok(copied.endsWith(`--data-binary '${row.body}'`) && !/sealed/.test(copied), copied);
  const dialog = page.getByRole('dialog', { name: 'Delivery' });
  assert.equal(await dialog.getByText('It sent another body than the one below').count(), 1, 'the first attempt did');
  await dialog.getByText('Headers of attempt 4').click();
  assert.equal(await dialog.getByRole('region', { name: 'headers of attempt 4' }).innerText(), Object.entries(last).map(([name, value]) => `${name}: ${value}`).join('\n'));
  await dialog.getByText('and is left out of Copy as curl').waitFor();
  // What is shown is laid out to be read; what is copied is exact.
  assert.equal(await dialog.getByRole('region', { name: 'body', exact: true }).innerText(), JSON.stringify(JSON.parse(row.body), null, 2));
  await button(page, 'Copy body').click();
  await until('the body is copied', async () => (await page.evaluate(() => navigator.clipboard.readText())) === row.body);
  // A signature of another body would be refused.
  row.attempts = row.attempts.map((attempt) => ({ ...attempt, same_body: false }));
  assert.ok(!(await command()).includes('webhook-signature'));
  assert.deepEqual(await wrongs(page), []);
  await page.context().close();
});

test('a viewer reads the configuration of the process, and the definition of an endpoint', async () => {
  const page = await signedIn(server, {}, VIEWER);
  await visit(server, page, '/system');
  const shown = JSON.parse(await page.getByRole('region', { name: 'configuration of the process' }).innerText());
  assert.deepEqual(shown, server.config);
  await page.getByText('78 MiB of 6.0 GiB').waitFor();
  await visit(server, page, '/endpoints/crm');
  assert.equal(JSON.parse(await page.getByRole('region', { name: 'endpoint as JSON', exact: true }).innerText()).url, 'https://crm.example/hooks');
  assert.deepEqual(await wrongs(page), []);
  await page.context().close();
});

test('results of an anonymous survey say what is hidden, and why', async () => {
  const page = await signedIn(server);
  const given = { ...server.results.get('nps'), anonymous: true, hidden_below: 5 };
  server.results.set('nps', { ...given, responses: 3, questions: [], series: [], median_duration_ms: null });
  await visit(server, page, '/results/nps');
  await page.getByText('Answers are hidden until there are 5 responses.').waitFor();
  assert.equal(await page.getByText('Nobody has answered in this time.').count(), 0);
  server.results.set('nps', given);
  server.moved('responses');
  await page.getByText('groups of fewer than 5 responses are left out').waitFor({ timeout: 20_000 });
  assert.equal(await page.getByText('Answers are hidden').count(), 0);
  assert.deepEqual(await wrongs(page), []);
  await page.context().close();
});

test('failures: the exact number first, then progress, then a cancelled job says what was done', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/failures?period=all');
  await page.getByRole('row', { name: /crm/ }).getByRole('button', { name: 'Resend all of these', exact: true }).click();
  const count = server.deliveries.filter((row) => row.cause === 'c1').length;
  await page.getByText(`${count} messages will be sent again`).waitFor();
  assert.deepEqual(posts('/v1/jobs').map((body) => body.dry_run), [true]);
  await button(page, `Resend ${count}`).click();
  await page.getByText(`0 of ${count}`).waitFor();
  server.work(0.5);
  await page.getByText(`${Math.ceil(count / 2)} of ${count}`).waitFor();
  await button(page, 'Cancel job').click();
  await page.getByText(`${Math.ceil(count / 2)} messages had been taken up when it was cancelled`).waitFor();
  assert.deepEqual(posts('/v1/jobs')[1], { kind: 'resend', filter: { cause: 'c1' } });
  await page.context().close();
});

test('a user: why not in plain words, the slider, and from a gate to the users behind it', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/users');
  await page.getByLabel('User ID').fill('user_7');
  await page.keyboard.press('Enter');
  await settled(page);
  await page.getByText('The user has seen another survey too lately.').waitFor();
  await page.getByText('anon-5d0c').waitFor();
  await page.getByLabel('Frontend trigger').fill('MainActivity');
  await button(page, 'Explain').click();
  await page.getByText('Nothing is offered at MainActivity.').waitFor();
  await page.getByText(/last at .*It can open at/).waitFor();
  await page.getByLabel(/Moment/).focus();
  await page.keyboard.press('Home');
  await until('the moment is in the address', () => page.url().includes('at='));
  await until('it is explained then', () => server.log.some((entry) => entry.path === '/v1/users/user_7/explain' && entry.query.includes('at=')));
  await visit(server, page, '/results/sleep-quality');
  await page.getByRole('link', { name: /global cooldown: show the users/ }).click();
  await page.getByRole('link', { name: 'user_7' }).click();
  await page.getByText('Nothing is offered at MainActivity.').waitFor();
  await page.context().close();
});

test('erasing a user asks for the id', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/users/user_7');
  await button(page, 'Erase').click();
  assert.ok(await page.getByRole('dialog').getByRole('button', { name: 'Erase' }).isDisabled());
  await page.getByLabel('Type the user’s ID to confirm').fill('user_7');
  await page.getByRole('dialog').getByRole('button', { name: 'Erase' }).click();
  await until('it is erased', () => server.log.some((entry) => entry.method === 'DELETE' && entry.path === '/v1/users/user_7'));
  await page.context().close();
});

test('connections: snippets filled in with a new key, and the first event as it comes', async () => {
  server.triggers = [];
  const page = await signedIn(server);
  await visit(server, page, '/connections');
  await page.getByText('Waiting for the first event').waitFor();
  await button(page, 'New server key').click();
  const shown = await page.getByRole('region', { name: 'new server key' }).innerText();
  assert.match(shown, /^ak_server_/);
  for (const language of ['curl', 'Node', 'Python']) {
    await page.getByLabel('Language').selectOption(language);
    const text = await page.getByRole('region', { name: `${language} snippet` }).innerText();
    assert.ok(text.includes(shown) && text.includes(server.origin + '/v1/events'), language);
  }
  server.triggers.push({ trigger_id: 'ended_sleep', name: 'ended_sleep', kind: 'backend', first_seen_at: back(0) });
  server.moved('triggers');
  await page.getByText('First event received').waitFor();
  await page.context().close();
});

test('connections: the addresses are those at which the server is reached, and the topic is the one that it reads', async () => {
  const page = await signedIn(server);
  const shown = (name) => page.getByRole('region', { name, exact: true }).innerText();
  const { http, ...rest } = server.config;
  await visit(server, page, '/connections');
  await page.getByText('there is no Kafka to write to').waitFor();
  assert.equal(await page.getByRole('region', { name: 'kcat command' }).count(), 0);
  server.config = { ...rest, http, log: { kind: 'kafka', prefix: 'team.' }, kafka: { brokers: 'k1:9092,k2:9092' } };
  await visit(server, page, '/connections');
  assert.match(await shown('kcat command'), /-b k1:9092,k2:9092 -t team\.events /);
  assert.equal(await page.locator('.facts').last().innerText(), 'Topic\nteam.events\nAddresses\nk1:9092,k2:9092');
  // With a listener of its own, the console is not where apps and backends go.
  for (const [listen, origin] of [['0.0.0.0:8080', 'http://127.0.0.1:8080'], ['10.0.0.7:8080', 'http://10.0.0.7:8080']]) {
    server.config = { ...rest, http: { ...http, listen, admin_listen: '127.0.0.1:8081' } };
    await visit(server, page, '/connections');
    assert.equal(await shown('URL'), origin + '/v1/events');
    assert.ok((await shown('widget snippet')).includes(`src="${origin}/sdk/askwhen.js"`));
    assert.ok((await shown('curl snippet')).includes(`${origin}/v1/events`));
  }
  await page.context().close();
});

test('numbers are those of all surveys, however many, and what the server does not say is told', async () => {
  for (let n = 0; n < 90; n++) {
    server.put({ ...SLEEP, survey_id: `more-${n}`, name: `More ${n}` });
    server.stats.set(`more-${n}`, { ...server.stats.get('nps'), considered: 10, offered: 3, answered: 2 });
  }
  const page = await signedIn(server);
  await visit(server, page, '/');
  const tile = (name) => page.locator('.tiles li', { hasText: name }).first().locator('strong').innerText();
  assert.equal(await tile('considered'), (2 * 5120 + 90 * 10).toLocaleString('en'));
  await visit(server, page, '/surveys');
  // Seven days of the same.
  await until('each survey has its numbers', async () => (await page.locator('tbody tr', { hasText: /More \d+/ }).getByText('14 (66.7 %)').count()) === 90, 60_000);
  server.fault = (_, path) => (path === '/v1/surveys/more-70/stats' ? { status: 503, body: { status: 503, code: 'overloaded' } } : null);
  await visit(server, page, '/surveys');
  await page.getByText('The server did not say the numbers of 1 survey.').waitFor({ timeout: 60_000 });
  server.fault = null;
  await button(page, 'Try again').click();
  await until('it has said them', async () => !(await page.getByText('The server did not say').count()), 60_000);
  await page.context().close();
});

test('a timeline names the survey of each offer, where the server names the offer alone', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/users/user_7');
  const line = (kind) => page.locator(`.timeline .kind-${kind} .long`).first().innerText();
  await until('the offers are known', async () => (await line('displayed')) === 'nps');
  assert.deepEqual([await line('answers'), await line('dismissed')], ['nps: q1 = 9, completed', 'sleep-quality']);
  await page.context().close();
});

test('results: a survey that is not there is told of once, and a long text does not fill the page', async () => {
  const page = await signedIn(server);
  const answered = new Set();
  server.fault = (_, path) => (path.startsWith('/v1/surveys/nobody/') && answered.add(path) ? { status: 404, body: { status: 404, code: 'not_found', detail: 'there is no such survey' } } : null);
  await visit(server, page, '/results/nobody');
  await page.getByRole('alert').waitFor();
  await until('both have answered', () => answered.size === 2);
  server.fault = null;
  assert.equal(await page.getByRole('alert').count(), 1);
  assert.equal(await page.getByText('From a terminal').count(), 0);
  const results = structuredClone(server.results.get('nps'));
  results.questions[2].texts = [{ text: 'word '.repeat(2000) }, { text: 'short' }];
  server.results.set('nps', results);
  await visit(server, page, '/results/nps');
  const text = page.locator('.texts li').first();
  assert.ok((await text.innerText()).length < 1000);
  await button(page, 'Show all 10,000 characters').click();
  assert.ok((await text.innerText()).length > 9000);
  await page.context().close();
});

test('a backtest of a draft, with its plots as tables', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/backtest');
  await page.getByLabel('Survey').selectOption('sleep-quality');
  await button(page, 'Run backtest').click();
  await page.getByText('610 users reached').waitFor();
  const { survey, kind } = posts('/v1/jobs')[0];
  assert.deepEqual([kind, survey.survey_id], ['backtest', 'sleep-quality']);
  await page.getByText('Show as table').first().click();
  assert.ok(await page.getByRole('cell', { name: '4,200' }).count());
  await page.context().close();
});

test('tables sort, keep their columns, and export CSV that no spreadsheet runs', async () => {
  server.triggers.push({ trigger_id: '=1+1', name: '=HYPERLINK("x")', kind: 'custom', first_seen_at: null });
  const page = await signedIn(server);
  await visit(server, page, '/triggers');
  await button(page, 'ID').click();
  assert.equal(await page.locator('th[aria-sort]').getAttribute('aria-sort'), 'ascending');
  const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Export CSV' }).click()]);
  const { readFileSync } = await import('node:fs');
  const text = readFileSync(await download.path(), 'utf8');
  assert.equal(text.split('\r\n')[0], 'ID,Name,Kind,First seen,Surveys', 'buttons are no column');
  assert.equal(await page.getByRole('columnheader', { name: 'Remove' }).getByRole('button').count(), 0, 'nothing is sorted by buttons');
  assert.ok(text.includes("'=1+1") && text.includes(`"'=HYPERLINK(""x"")"`), text);
  await page.locator('summary', { hasText: 'Columns' }).click();
  await page.getByRole('checkbox', { name: 'Name' }).uncheck();
  await page.reload();
  await settled(page);
  assert.equal(await page.getByRole('columnheader', { name: 'Name' }).count(), 0);
  await page.context().close();
});

test('a hidden page sends nothing, and catches up when it is seen again', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/connections');
  const hide = (hidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
  await hide(true);
  await until('the stream is closed', () => server.streams.size === 0);
  const sent = server.log.length;
  await page.waitForTimeout(5000);
  assert.equal(server.log.length, sent);
  await hide(false);
  await until('the stream is open again', () => server.streams.size === 1);
  await until('it is loaded again', () => server.log.slice(sent).some((entry) => entry.path === '/v1/triggers'));
  await page.context().close();
});

test('first content in less than 400 ms, of a cold cache', async () => {
  const page = await signedIn(server);
  const state = await page.context().storageState();
  const times = [];
  for (let i = 0; i < 12 && !(Math.min(...times) < 400); i++) {
    const cold = await fresh(server, { storageState: state });
    await cold.goto(server.console + '/triggers');
    await cold.locator('h1').waitFor();
    times.push(await cold.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0].startTime));
    await cold.context().close();
  }
  // The least of some: the rest is what else the machine does.
  const least = Math.min(...times);
  console.log(`# first content: ${times.map(Math.round).join(', ')} ms`);
  assert.ok(least < 400, `${least} ms`);
  await page.context().close();
});

test('markup, directions and long names stay what they are: texts', async () => {
  const nasty = '<img src=x onerror=alert(1)>‮ {{constructor}} ' + 'ä'.repeat(10_000);
  server.put({ ...SLEEP, survey_id: 'nasty', name: nasty, questions: [{ question_id: 'q1', type: 'text', text: nasty, required: true }], ui: { theme: { accent: '"><script>' } } });
  server.triggers.push({ trigger_id: nasty, name: nasty, kind: 'backend', first_seen_at: back(1) });
  server.deliveries.unshift({ ...server.deliveries[0], user_id: nasty, reason: nasty });
  server.endpoints.set(nasty, { ...server.endpoints.get('crm'), endpoint_id: nasty, state_reason: nasty });
  server.timelines.set('user_7', [{ at: back(1), kind: nasty, event_name: nasty }]);
  const page = await signedIn(server);
  for (const path of ['/', '/triggers', '/surveys', '/surveys/nasty', '/results/nasty', '/users/user_7', '/deliveries', '/endpoints', '/endpoints/' + encodeURIComponent(nasty.slice(0, 60))]) {
    await visit(server, page, path);
    assert.equal(await page.locator('img, script:not([src])').count(), 0, path);
    assert.deepEqual(await turned(page), [], path);
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0, path);
  }
  assert.deepEqual(await wrongs(page), []);
  await page.context().close();
});

test('the settings of the project: each member, faults at their fields, a conflict', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/system');
  await page.getByRole('link', { name: 'Edit settings' }).click();
  await page.getByRole('heading', { level: 1, name: 'Settings' }).waitFor();
  await page.getByLabel('Cooldown between surveys').fill('soon');
  await page.locator('.field', { hasText: 'Cooldown between surveys' }).getByText('must be a duration').waitFor();
  await page.getByLabel('Cooldown between surveys').fill('3 days');
  await page.getByLabel('Surveys per session').fill('2');
  await page.getByLabel('A session ends after').fill('30m');
  await page.getByLabel('Erasing a user keeps').check();
  await button(page, 'Add attribute').click();
  await page.getByLabel('Attribute', { exact: true }).fill('email');
  await page.getByLabel('Operator').selectOption('ends_with_ci');
  await page.getByLabel('Value', { exact: true }).fill('@corp.example');
  await page.getByLabel('Not', { exact: true }).first().check();
  await button(page, 'Add span').click();
  await button(page, 'Add cap').click();
  await page.getByLabel('An offer waits to be shown for').fill('5m');
  await page.getByLabel('An offer can be answered for').fill('48h');
  await page.getByLabel('Longest Expires after').fill('20d');
  await page.getByLabel('An event may be late by').fill('50h');
  // Somebody else saves first.
  server.settings = { ...server.settings, max_per_session: 5, made_up: [1] };
  server.settingsVersion++;
  await button(page, 'Save').click();
  await page.getByText('Somebody else has changed this').waitFor();
  assert.equal(server.settings.global_cooldown, '7d', 'nothing is overwritten unasked');
  await button(page, 'Keep both, mine where they meet').click();
  await button(page, 'Save').click();
  await page.getByText('The settings are saved.').waitFor();
  const { schedule, targeting, ...rest } = server.settings;
  assert.deepEqual(rest, {
    global_cooldown: '3d', max_per_session: 2, session_lifetime: '30m', erase_keeps_cooldown: true, offer_ttl: '5m', offer_known: '48h', max_expires_after: '20d', allowed_lateness: '50h',
    caps: [{ count: 'displayed', max: 100, within: '1d' }], made_up: [1],
  });
  assert.deepEqual(targeting, { all: [{ not: { attribute: 'email', op: 'ends_with_ci', value: '@corp.example' } }] });
  assert.equal(schedule.except.length, 1);
  await button(page, 'View as YAML').click();
  await page.getByText('kind: settings').waitFor();
  assert.deepEqual(await wrongs(page), []);
  await page.context().close();
  server.settings = { global_cooldown: '7d', max_per_session: 1, offer_ttl: '10m', allowed_lateness: '100h' };
});

test('settings and an endpoint as JSON', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/system/settings');
  await button(page, 'Edit as JSON').click();
  await page.getByLabel('JSON', { exact: true }).fill('{"global_cooldown": "3d"}');
  await button(page, 'Apply').click();
  await button(page, 'Save').click();
  await until('it is saved', () => server.settings.global_cooldown === '3d');
  await visit(server, page, '/endpoints/crm');
  await button(page, 'Edit as JSON').click();
  const where = [{ survey: 'nps', question_id: 'q1', op: 'lte', value: 6 }];
  const { version: _, state, state_reason, state_since, ...def } = server.endpoints.get('crm');
  await page.getByLabel('JSON', { exact: true }).fill(JSON.stringify({ ...def, where }));
  await button(page, 'Apply').click();
  await button(page, 'Save').click();
  await until('it is saved', () => server.endpoints.get('crm').where?.[0].value === 6);
  await page.context().close();
});

test('by keyboard alone: sign in, go by the palette, create a trigger', async () => {
  const page = await fresh(server);
  await page.goto(server.console + '/');
  await page.getByLabel('Key').waitFor();
  await page.keyboard.type(ADMIN);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Home' }).waitFor();
  await page.keyboard.press('Meta+k');
  await page.keyboard.type('create tr');
  await page.keyboard.press('Enter');
  await page.getByRole('dialog', { name: 'Create trigger' }).waitFor();
  for (let i = 0; (await page.evaluate(() => document.activeElement.labels?.[0]?.textContent)) !== 'Name'; i++) {
    assert.ok(i < 5);
    await page.keyboard.press('Tab');
  }
  await page.keyboard.type('By keys');
  await page.keyboard.press('Enter');
  await until('it is created', () => server.triggers.some((one) => one.trigger_id === 'by_keys'));
  await page.context().close();
});

test('the palette says when it cannot find surveys and endpoints', async () => {
  const page = await signedIn(server);
  server.fault = () => ({ status: 503, body: { status: 503, code: 'overloaded', detail: 'too much at once' } });
  await page.keyboard.press('Control+k');
  await page.getByText('Surveys and endpoints cannot be found now: too much at once').waitFor();
  await page.getByRole('option', { name: /^Triggers/ }).waitFor();
  server.fault = null;
  await page.context().close();
});

test('a page that breaks says so, and the next one is there', async () => {
  const page = await signedIn(server);
  const pages = page.getByRole('navigation', { name: 'Pages' });
  server.text = (text) => (text.startsWith('{"causes"') ? '{"causes":[{"cause":"c1","endpoint_id":{},"outcome":7}]}' : text);
  await pages.getByRole('link', { name: 'Failures', exact: true }).click();
  await page.getByRole('heading', { level: 1, name: 'This page has broken' }).waitFor();
  await pages.getByRole('link', { name: 'Surveys', exact: true }).click();
  await page.getByRole('heading', { level: 1, name: 'Surveys' }).waitFor();
  server.text = null;
  await pages.getByRole('link', { name: 'Failures', exact: true }).click();
  await page.getByRole('heading', { level: 1, name: 'Failures' }).waitFor();
  await page.context().close();
});

test('a user: a survey in status shadow is never said to be offered', async () => {
  const page = await signedIn(server);
  const { user, decision } = server.users.get('user_7');
  user.surveys.push({ survey_id: 'noted', eligible: false, gate: null, until: null });
  decision.evaluations.push({ survey_id: 'noted', pass: true, shadow: true }, { survey_id: 'held', pass: false, gate: 'holdout', shadow: true });
  for (const path of ['/users/user_7', '/users/user_7?trigger=MainActivity']) {
    await visit(server, page, path);
    const row = page.locator('.why li', { hasText: 'noted' });
    assert.equal(await row.locator('.badge').innerText(), 'shadow');
    await row.getByText('it is never shown').waitFor();
  }
  assert.equal(await page.locator('.why li', { hasText: 'held' }).locator('.badge').innerText(), 'holdout');
  await page.context().close();
});

test('a viewer signs in and reads', async () => {
  const page = await signedIn(server, {}, VIEWER);
  await visit(server, page, '/surveys/sleep-quality');
  assert.ok(await page.getByLabel('Name', { exact: true }).isDisabled());
  await button(page, 'View as YAML').click();
  await page.getByText('kind: survey').waitFor();
  await page.context().close();
});
