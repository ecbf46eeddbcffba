// The survey editor: what opens and is published unchanged changes nothing; what
// is changed is what is published; nobody's work is overwritten.
import { after, before, beforeEach, test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { parse, parseAllDocuments } from 'yaml';
import { start } from './server.mjs';
import { fill, SLEEP } from './world.mjs';
import { shut, signedIn, until, visit, wrongs } from './browser.mjs';

let server;
before(async () => {
  server = await start();
});
beforeEach(() => {
  server.surveys.clear();
  server.log = [];
  fill(server);
});
after(async () => {
  await shut();
  server.stop();
});
const button = (page, name) => page.getByRole('button', { name, exact: true });
const published = (id) => server.log.filter((entry) => entry.method === 'PUT' && entry.path === '/v1/surveys/' + id && !entry.query.includes('dry_run')).map((entry) => JSON.parse(entry.body));
const asYaml = async (page) => {
  await button(page, 'View as YAML').click();
  await page.getByText('This is a view of what is in the form, and cannot be changed here.').waitFor();
  const text = await page.getByRole('region', { name: 'YAML' }).innerText();
  await page.keyboard.press('Escape');
  const { kind, ...def } = parse(text);
  assert.equal(kind, 'survey');
  return def;
};

/** Every survey of the documentation. */
const EXAMPLES = [...readFileSync(new URL('../../../docs/surveys.md', import.meta.url), 'utf8').matchAll(/```yaml\n([\s\S]*?)```/g)]
  .flatMap(([, text]) => parseAllDocuments(text).map((document) => document.toJSON()))
  .filter((one) => one?.kind === 'survey')
  .map(({ kind: _, ...def }) => def);

/** Members that the form has no fields for, at every depth. */
const UNKNOWN = {
  ...SLEEP, survey_id: 'unknown', made_up: { deep: [1, { two: null }] },
  questions: [{ ...SLEEP.questions[0], hint: 'kept', labels: { low: 'a', middle: 'b' } }, { question_id: 'q9', type: 'matrix', text: 'A type of tomorrow', rows: ['a'] }],
  activate: { ...SLEEP.activate, tomorrow: true }, targeting: { all: [{ moon: 'full' }, { attribute: 'plan', op: 'resembles', value: 7, note: 'x' }] },
  ui: { mine: [1, 2], theme: { glow: 'soft' } }, schedule: { timezone: 'user', odd: 1 }, frequency: { repeat: 'sometimes', per: { wave: 2, odd: true } }, limits: { caps: [{ count: 'clicked', max: 1, per: { attribute: 'a', odd: 2 } }] },
};

test('every example of docs/surveys.md opens and is published as it is', async () => {
  assert.ok(EXAMPLES.length >= 6);
  const page = await signedIn(server);
  for (const example of [...EXAMPLES, UNKNOWN]) {
    server.put(example);
    const stored = server.survey(example.survey_id);
    const versions = server.surveys.get(example.survey_id).length;
    server.log = [];
    await visit(server, page, '/surveys/' + example.survey_id);
    assert.deepEqual(await asYaml(page), stored, example.survey_id);
    await page.getByText('Nothing has changed since it was published.').waitFor();
    await button(page, 'Publish').click();
    await page.getByText(/Version \d+ is published/).waitFor();
    assert.deepEqual(published(example.survey_id), [stored], example.survey_id);
    assert.equal(server.surveys.get(example.survey_id).length, versions, 'there is no new version');
  }
  assert.deepEqual(await wrongs(page), []);
  await page.context().close();
});

test('one field is changed, and nothing else', async () => {
  server.put(UNKNOWN);
  const page = await signedIn(server);
  await visit(server, page, '/surveys/unknown');
  await page.getByLabel('Priority').fill('7');
  await page.getByLabel('Cooldown', { exact: true }).fill('3 days');
  await page.getByLabel('Cooldown', { exact: true }).blur();
  await page.getByLabel('Name', { exact: true }).fill('');
  await page.locator('.field', { hasText: 'Name' }).getByText('name must have').waitFor();
  await page.getByLabel('Name', { exact: true }).fill('Sleep quality');
  await page.getByLabel('Accent').fill('#0a7');
  await button(page, 'Publish').click();
  await page.getByText('Version 2 is published').waitFor();
  const before = { ...UNKNOWN };
  const after = server.survey('unknown');
  assert.deepEqual(after.frequency, { repeat: 'sometimes', per: { wave: 2, odd: true }, cooldown: '3d' });
  assert.deepEqual(after.ui, { mine: [1, 2], theme: { glow: 'soft', accent: '#0a7' } });
  for (const name of ['made_up', 'questions', 'activate', 'targeting', 'schedule', 'limits', 'show_on', 'translations']) assert.deepEqual(after[name], before[name], name);
  await page.context().close();
});

test('a survey from a template, by clicking alone: event, expiry, place, publish', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/surveys');
  await button(page, 'New survey').click();
  await page.getByRole('button', { name: /^NPS/ }).click();
  await page.getByRole('heading', { level: 1, name: 'New survey' }).waitFor();
  await page.getByLabel('Name', { exact: true }).fill('After sleep');
  assert.equal(await page.getByLabel('ID', { exact: true }).inputValue(), 'after-sleep');
  await page.getByText('thing to mend before you publish').waitFor();
  await button(page, 'Publish').click();
  await until('a refusal leads to the field', () => page.evaluate(() => document.activeElement.labels?.[0]?.textContent === 'Show at'));
  await page.getByLabel('Name', { exact: true }).focus();
  await page.getByRole('link', { name: /show_on is required/ }).click();
  assert.equal(await page.evaluate(() => document.activeElement.labels[0].textContent), 'Show at', 'a fault leads to its field');
  await page.keyboard.type('MainActivity');
  await page.getByLabel('Activate with backend event').fill('ended_sleep');
  assert.equal(await page.getByLabel('Expires after').inputValue(), '2h');
  await page.getByLabel('Expires after').fill('101h');
  await page.locator('.field', { hasText: 'Expires after' }).getByText('expires_after must be at most 100h').waitFor();
  await page.getByLabel('Expires after').fill('2 hours');
  await page.getByLabel('Expires after').blur();
  await page.getByText('Users can be asked as soon as you publish.').first().waitFor();
  await page.locator('.differences').getByText('ended_sleep').waitFor();
  await page.locator('askwhen-survey').getByText('How likely are you to recommend us').waitFor();
  await button(page, 'Publish').click();
  await page.getByRole('heading', { level: 1, name: 'After sleep' }).waitFor();
  const survey = published('after-sleep').at(-1);
  assert.deepEqual([survey.activate, survey.expires_after, survey.show_on, survey.status], [{ event: 'ended_sleep' }, '2h', [{ trigger: 'MainActivity' }], 'active']);
  assert.equal(new URL(page.url()).pathname, '/console/surveys/after-sleep');
  assert.deepEqual(await wrongs(page), []);
  await page.context().close();
});

test('numbers that JavaScript does not hold are published as they were written', async () => {
  server.put({ ...SLEEP, survey_id: 'big', activate: { event: 'e', where: [{ property: 'id', op: 'eq', value: 'BIG' }] } });
  const digits = '12345678901234567891';
  server.text = (text) => text.replaceAll('"BIG"', digits);
  const page = await signedIn(server);
  await visit(server, page, '/surveys/big');
  assert.equal(await page.getByLabel('Value', { exact: true }).nth(1).inputValue(), digits);
  await page.getByLabel('Priority').fill('8');
  await page.locator('.differences').getByText('priority').waitFor();
  await button(page, 'View as YAML').click();
  await page.getByRole('region', { name: 'YAML' }).getByText(digits).waitFor();
  await page.keyboard.press('Escape');
  await button(page, 'Publish').click();
  await page.getByText('is published').waitFor();
  server.text = null;
  assert.ok(server.log.findLast((entry) => entry.method === 'PUT').body.includes(`"value":${digits}`));
  await page.context().close();
});

test('questions: moved by keyboard, added, branching, renamed with what names them', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/surveys/sleep-quality');
  await page.getByRole('button', { name: /^Move question 3:/ }).focus();
  await page.keyboard.press('ArrowUp');
  await until('it has moved', async () => (await page.getByLabel('Question ID').nth(1).inputValue()) === 'q3');
  assert.match(await page.evaluate(() => document.activeElement.getAttribute('aria-label')), /^Move question 2:/, 'the keyboard goes with it');
  await button(page, 'Add question').click();
  await page.getByLabel('Text', { exact: true }).nth(3).fill('What else?');
  await page.getByLabel('Question ID').nth(0).fill('stars');
  await page.getByLabel('Question ID').nth(2).fill('woke');
  await page.locator('.differences').getByText('What else?').waitFor();
  await button(page, 'Publish').click();
  await page.getByText('is published').waitFor();
  const survey = server.survey('sleep-quality');
  assert.deepEqual(survey.questions.map((question) => question.question_id), ['stars', 'q3', 'woke', 'q4']);
  assert.equal(survey.questions[0].next[0].goto, 'woke');
  assert.deepEqual(survey.translations, { de: { questions: { stars: { text: 'Wie hast du geschlafen?' } } } });
  await page.context().close();
});

test('the preview follows the form, in every language, and sends nothing', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/surveys/sleep-quality');
  await page.getByLabel('Text', { exact: true }).first().fill('How was your night?');
  const preview = page.locator('askwhen-survey');
  await preview.getByText('How was your night?').waitFor();
  await page.getByLabel('Shown in').selectOption('de');
  await preview.getByText('Wie hast du geschlafen?').waitFor();
  await preview.getByRole('radio').nth(0).click();
  await preview.getByRole('button', { name: 'Next' }).click();
  await preview.getByRole('checkbox', { name: 'noise' }).click();
  await page.getByText('q1 = 1').waitFor();
  assert.ok(!server.log.some((entry) => /offers|answers|displayed/.test(entry.path)));
  await page.context().close();
});

test('a conflict is shown, and nothing is overwritten unasked', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/surveys/sleep-quality');
  await page.getByLabel('Name', { exact: true }).fill('Mine');
  server.put({ ...server.survey('sleep-quality'), priority: 99 }, 'ben');
  await button(page, 'Publish').click();
  const conflict = page.getByRole('alert', { name: 'Conflict' });
  await conflict.getByText('Version 3 was published while you were editing').waitFor();
  await conflict.getByText('99').waitFor();
  assert.equal(server.survey('sleep-quality').name, 'Sleep quality');
  await button(page, 'Keep both, mine where they meet').click();
  await button(page, 'Publish').click();
  await page.getByText('Version 4 is published').waitFor();
  assert.deepEqual([server.survey('sleep-quality').name, server.survey('sleep-quality').priority], ['Mine', 99]);
  await page.context().close();
});

test('a change of status says what will happen, with the open windows that the server counts, and its warnings', async () => {
  const page = await signedIn(server);
  server.openWindows = 412;
  await visit(server, page, '/surveys/sleep-quality');
  await page.getByLabel('Status').selectOption('paused');
  const told = page.getByText('Nobody is asked while it is paused; events go on arming it. 412 users have an open window.');
  await until('it stands beside the field, and beside Publish', async () => (await told.count()) === 2);
  assert.match(await page.getByLabel('Status').evaluate((field) => document.getElementById(field.getAttribute('aria-describedby')).textContent), /412 users have an open window/);
  await page.getByLabel('Show at').fill('Nowhere');
  await page.getByText('The server warns').waitFor();
  await page.getByText('the trigger Nowhere has not been seen yet').waitFor();
  server.openWindows = undefined;
  await page.context().close();
});

test('versions: who and when, compared, and one restored', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/surveys/sleep-quality');
  await button(page, 'Versions').click();
  await page.getByRole('dialog').getByText('ben').waitFor();
  await page.getByRole('button', { name: 'Restore version 1' }).click();
  await page.locator('.differences').getByText('priority').waitFor();
  await button(page, 'Publish').click();
  await page.getByText('Version 3 is published').waitFor();
  assert.equal(server.survey('sleep-quality').priority, 50);
  await page.context().close();
});

test('what was not published is there again after a look elsewhere, and can be discarded', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/surveys/sleep-quality');
  await page.getByLabel('Name', { exact: true }).fill('Half done');
  await page.getByRole('link', { name: 'Home', exact: true }).click();
  await visit(server, page, '/surveys/sleep-quality');
  await page.getByText('These are changes that you had not published.').waitFor();
  assert.equal(await page.getByLabel('Name', { exact: true }).inputValue(), 'Half done');
  await button(page, 'Discard them').click();
  assert.equal(await page.getByLabel('Name', { exact: true }).inputValue(), 'Sleep quality');
  await page.context().close();
});

test('a definition as JSON', async () => {
  const page = await signedIn(server);
  await visit(server, page, '/surveys/nps');
  await button(page, 'Edit as JSON').click();
  const field = page.getByLabel('JSON', { exact: true });
  await field.fill('{"broken"');
  await button(page, 'Apply').click();
  await page.getByText('This is no JSON yet').waitFor();
  await field.fill(JSON.stringify({ ...server.survey('nps'), status: 'active' }));
  await button(page, 'Apply').click();
  await page.locator('.differences').getByText('paused').waitFor();
  await page.context().close();
});
