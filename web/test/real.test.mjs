// The widget and the pages against askwhen itself.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { dialog, fresh, loaded, shut, trigger, until } from './browser.mjs';
import { atOnce, end, run, serve } from './program.mjs';

let program, base, keys, api, shop;
before(async () => {
  program = await serve();
  ({ origin: base, keys, api } = program);
  // A page of another origin.
  shop = createServer((_, response) => {
    response.setHeader('content-type', 'text/html; charset=utf-8');
    response.end(`<!doctype html><html lang="de"><title>Laden</title><script async src="${base}/sdk/askwhen.js" data-key="${keys.client}" data-user="anna"></script><h1>Laden</h1>`);
  });
  await new Promise((done) => shop.listen(0, '127.0.0.1', done));
});
after(async () => {
  await shut();
  shop?.close();
  await program?.stop();
});

const responses = async (survey) => (await api('GET', `/v1/responses?survey_id=${survey}`)).responses;
const done = async (page) => {
  assert.deepEqual(page.errors, []);
  await page.context().close();
};

const QUESTIONS = {
  name: 'Why',
  status: 'active',
  locale: 'en',
  frequency: { repeat: 'every_activation', global_cooldown: 'ignore' },
  questions: [
    { question_id: 'q1', type: 'nps', text: 'How likely?', next: [{ when: { op: 'lte', value: 6 }, goto: 'q3' }, { goto: 'end' }] },
    { question_id: 'q3', type: 'single_choice', text: 'Why?', options: [{ value: 'price', text: 'Price' }, 'bugs'], other: { text: 'Other' } },
  ],
  translations: {
    de: {
      name: 'Warum',
      questions: { q1: { text: 'Wie wahrscheinlich?' }, q3: { text: 'Warum?', options: { price: 'Preis' }, other: { text: 'Anderes' } } },
      ui: { labels: { next: 'Weiter', submit: 'Senden' }, thank_you: { text: 'Danke' } },
    },
  },
};

test('a branching survey is shown in German, and its answers are one response', async () => {
  await api('PUT', '/v1/surveys/widget', { ...QUESTIONS, show_on: [{ trigger: 'Home' }] });
  const page = await fresh({ locale: 'de-AT' });
  await page.goto(`http://127.0.0.1:${shop.address().port}/`);
  await loaded(page);
  const decision = await trigger(page, 'Home');
  assert.equal(decision.reason, 'offered');
  assert.equal(decision.survey.locale, 'de');
  await dialog(page).waitFor();
  await page.getByText('Wie wahrscheinlich?').first().waitFor();
  await page.getByRole('radio', { name: '3', exact: true }).click();
  await page.getByRole('button', { name: 'Weiter' }).click();
  await page.getByText('Warum?').first().waitFor();
  await page.getByRole('radio', { name: 'Preis' }).click();
  await page.getByRole('button', { name: 'Senden' }).click();
  await page.getByText('Danke').first().waitFor();
  const [response] = await until('it is complete', async () => {
    const all = await responses('widget');
    return all[0]?.completed && all;
  });
  assert.deepEqual(response.answers.map((a) => [a.question_id, a.text, a.value]), [['q1', 'How likely?', 3], ['q3', 'Why?', 'price']]);
  assert.equal(response.locale, 'de');
  assert.equal(response.user_id, 'anna');
  const offer = await api('GET', `/v1/users/anna/offers/${decision.survey.offer_id}`);
  assert.ok(offer.displayed_at);
  await done(page);
});

test('the page behind a link answers once where it is for single use', async () => {
  await api('PUT', '/v1/surveys/page', { ...QUESTIONS, link: true, show_on: [] });
  const { url } = await api('POST', '/v1/surveys/page/links', { user_id: 'ben', single_use: true }, keys.server);
  const page = await fresh({ locale: 'de-DE' });
  await page.goto(url + '&q1=2');
  assert.equal(await page.title(), 'Warum');
  assert.ok(await page.getByRole('radio', { name: '2', exact: true }).isChecked(), 'it is filled in');
  assert.deepEqual(await responses('page'), [], 'and not sent');
  await page.getByRole('button', { name: 'Weiter' }).click();
  await page.getByRole('radio', { name: 'Anderes' }).click();
  await page.getByRole('textbox').fill('Das Wetter');
  await page.getByRole('button', { name: 'Senden' }).click();
  await page.getByText('Danke').first().waitFor();
  const [response] = await until('it is complete', async () => {
    const all = await responses('page');
    return all[0]?.completed && all;
  });
  assert.deepEqual(response.answers.map((a) => a.value), [2, { other: 'Das Wetter' }]);
  assert.equal(response.user_id, 'ben');
  const again = await page.goto(url);
  assert.equal(again.status(), 410);
  await page.getByRole('heading', { name: 'This link has been used' }).waitFor();
  // Chromium writes every page that is no success to the console.
  page.errors = page.errors.filter((error) => !error.includes('410'));
  assert.equal((await responses('page')).length, 1);
  await done(page);
});

test('a thousand looks at a link by scanners, previews and prefetches record nothing, and use nothing up', async () => {
  await api('PUT', '/v1/surveys/scanned', { ...QUESTIONS, link: true, show_on: [] });
  const made = async (more = {}) => (await api('POST', '/v1/surveys/scanned/links', { user_id: 'cleo', single_use: true, ...more }, keys.server)).url;
  const url = await made();
  const agents = ['Mozilla/5.0', 'Slackbot-LinkExpanding 1.0', 'Barracuda Sentinel', 'Googlebot/2.1', 'curl/8.0', '', 'Outlook-iOS/2.0', 'SafeLinks'];
  const hints = [{}, { purpose: 'prefetch' }, { 'sec-purpose': 'prefetch;prerender' }, { 'x-moz': 'prefetch' }, { range: 'bytes=0-0' }, { accept: 'image/*' }];
  await atOnce(16, Array.from({ length: 1000 }, (_, n) => async () => {
    const answer = await fetch(n % 3 ? url : url + '&q1=2', { method: n % 5 ? 'GET' : 'HEAD', headers: { 'user-agent': agents[n % agents.length], ...hints[n % hints.length] } });
    assert.equal(answer.status, 200);
    await answer.text();
  }));
  assert.deepEqual(await responses('scanned'), []);
  const stats = await api('GET', '/v1/surveys/scanned/stats');
  assert.deepEqual([stats.displayed, stats.answered, stats.completed], [0, 0, 0]);
  // It is still good for the one use that it has.
  const page = await fresh();
  await page.goto(url);
  await page.getByRole('radio', { name: '9', exact: true }).click();
  await page.getByRole('button', { name: /Send|Next/ }).click();
  await until('it is complete', async () => (await responses('scanned'))[0]?.completed);
  await done(page);
  const status = async (target, method = 'GET') => (await fetch(target, { method })).status;
  assert.equal(await status(url), 410, 'used');
  const token = new URL(url).searchParams.get('t');
  const forged = (change) => {
    const other = new URL(url);
    change(other.searchParams);
    return other.href;
  };
  for (const change of [(q) => q.set('u', 'dora'), (q) => q.set('t', token.slice(0, -2) + (token.endsWith('AA') ? 'BB' : 'AA')), (q) => q.set('t', 'x'), (q) => q.set('t', ''), (q) => q.delete('t')])
    assert.ok([403, 404].includes(await status(forged(change))), forged(change));
  const short = await made({ expires_in: '1s' });
  await new Promise((over) => setTimeout(over, 2000));
  assert.equal(await status(short), 410, 'expired');
  assert.equal((await responses('scanned')).length, 1);
});

test('anybody answers once for each browser where the survey says so', async () => {
  await api('PUT', '/v1/surveys/open', { ...QUESTIONS, link: true, link_anonymous: true, show_on: [] });
  const page = await fresh({ locale: 'en-GB' });
  await page.goto(base + '/s/open');
  await page.getByRole('radio', { name: '9', exact: true }).click();
  await page.getByRole('button', { name: /Send|Next/ }).click();
  await until('it is complete', async () => (await responses('open'))[0]?.completed);
  await page.reload();
  assert.equal(await page.getByRole('radio').count(), 0);
  const all = await responses('open');
  assert.equal(all.length, 1);
  assert.match(all[0].user_id, /^anon-/);
  await done(page);
});

test('the page for WebViews says that it is ready, and takes commands', async () => {
  const page = await fresh({ locale: 'de-DE' });
  await page.addInitScript(() => {
    window.heard = [];
    window.AskwhenBridge = { postMessage: (text) => window.heard.push(JSON.parse(text)) };
  });
  await page.goto(base + '/embed');
  await until('it is ready', () => page.evaluate(() => window.heard.some((m) => m.askwhen === 'ready')));
  await page.evaluate((key) => {
    window.askwhen.init({ key, user: 'webview' });
    return window.askwhen.trigger('Home');
  }, keys.client);
  await dialog(page).waitFor();
  assert.ok(await page.evaluate(() => window.heard.some((m) => m.askwhen === 'decision' && m.decision.survey)));
  await done(page);
});

test('the shop of askwhen demo --web: an order, the survey, the webhook beside it', async () => {
  const { child, text } = await run(['demo', '--web', '--output', 'json']);
  const { url } = JSON.parse(text);
  const page = await fresh({ locale: 'en-GB' });
  await page.goto(url);
  await page.getByRole('button', { name: 'Buy the pillow' }).click();
  await dialog(page).waitFor();
  await page.getByRole('radio', { name: '10', exact: true }).click();
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('button', { name: 'Send' }).click();
  await page.getByText('response.completed · signature verified').waitFor();
  await done(page);
  await end(child);
});
