// The survey page behind a link, and the page for WebViews and frames.
import { after, before, beforeEach, test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { start, KEY } from './server.mjs';
import { fresh, shut, survey, TYPES, until } from './browser.mjs';

const shell = (name) => readFileSync(new URL(`../dist/${name}`, import.meta.url), 'utf8');
const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const fill = (template, values) => template.replace(/\{\{(\w+)\}\}/g, (_, name) => values[name]);
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'; frame-ancestors 'none'";
const axe = readFileSync(new URL('../node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');

let server;
before(async () => {
  server = await start();
});
after(async () => {
  await shut();
  server.stop();
});
beforeEach(() => server.clear());

/** Serves the page as askwhen does: the data as JSON in which no tag can end. */
function link(given, { user_id = null, token = 'signed', ...more } = {}) {
  const definition = { survey_id: 'nps', version: 3, name: 'A <survey> & more', link: true, ui: {}, ...given };
  server.surveys.set('link', definition);
  const data = { survey: definition, user_id, submit: '/v1/users/{user}/surveys/nps/responses', body: { token }, ...more };
  const { locale = 'en', dir = 'ltr', name } = definition;
  const values = { lang: locale, dir, title: escaped(name), base: '', data: JSON.stringify(data).replace(/</g, '\\u003c') };
  server.page('/s/nps', fill(shell('page.html'), values), { 'content-security-policy': POLICY });
}
async function at(path = '/s/nps', options) {
  const page = await fresh({ viewport: { width: 900, height: 700 }, ...options });
  await page.goto(server.origin + path);
  return page;
}
const posts = () => server.log.filter((e) => e.method === 'POST');
const responses = () => [...server.links.values()];
const done = async (page) => {
  assert.deepEqual(page.errors, []);
  await page.context().close();
};

test('an anonymous user answers, once for each browser, under one response id', async () => {
  link(survey('nps', 'text'));
  const page = await at();
  assert.equal(await page.title(), 'A <survey> & more');
  assert.equal(await page.getByRole('heading', { level: 1 }).textContent(), TYPES.nps.text);
  assert.equal(await page.getByRole('button', { name: 'Close' }).count(), 0);
  await page.keyboard.press('Escape');
  await page.waitForTimeout(200);
  assert.equal(posts().length, 0, 'looking at it records nothing');
  await page.getByRole('radio', { name: '8', exact: true }).click();
  await page.getByRole('button', { name: 'Next' }).click();
  await page.reload();
  await page.getByRole('radio', { name: '7', exact: true }).click();
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('textbox').fill('Good');
  await page.getByRole('button', { name: 'Send' }).click();
  await until('it is completed', async () => (await server.completed()) === 1);
  assert.equal(responses().length, 1);
  assert.deepEqual(responses()[0].answers, { q1: 7, q2: 'Good' });
  assert.match(responses()[0].user, /^anon-[0-9a-f-]{36}$/);
  assert.match(responses()[0].offer_id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  for (const { body, query } of posts()) {
    assert.equal(body.token, 'signed');
    assert.equal(query, '', 'nothing secret in a URL');
  }
  await page.waitForTimeout(3300);
  assert.equal(await page.getByRole('heading', { name: 'Thank you' }).count(), 1, 'thanks stay');
  await page.reload();
  await page.getByText('Thank you').waitFor();
  assert.equal(await page.getByRole('radio').count(), 0);
  await done(page);
});

test('a signed link is for its user; another answer is another response', async () => {
  link(survey('rating_star'), { user_id: 'user/1' });
  const page = await at();
  for (const stars of [4, 2]) {
    await page.getByRole('radio', { name: stars + '' }).click();
    await page.getByRole('button', { name: 'Send' }).click();
    await until('it is completed', async () => (await server.completed()) === (stars === 4 ? 1 : 2));
    await page.reload();
  }
  assert.deepEqual(responses().map((r) => [r.user, r.answers.q1]), [['user/1', 4], ['user/1', 2]]);
  await done(page);
});

test('prefilled answers are checked, shown, and sent only by the user', async () => {
  link(survey('nps', 'multi_choice', 'single_choice', 'text', 'rating_star'));
  const page = await at('/s/nps?q1=8&q2=noise,light&q3=nonsense&q4=hello%20there&q5=9&t=secret&lang=en');
  assert.equal(await page.getByRole('radio', { checked: true }).getAttribute('aria-label'), '8');
  await page.waitForTimeout(300);
  assert.equal(posts().length, 0);
  const next = () => page.getByRole('button', { name: 'Next' }).click();
  await next();
  assert.deepEqual(await page.getByRole('checkbox', { checked: true }).allTextContents(), ['noise', 'The light']);
  await next();
  assert.equal(await page.getByRole('radio', { checked: true }).count(), 0, 'no such option');
  await page.getByRole('radio', { name: 'price' }).click();
  await next();
  assert.equal(await page.getByRole('textbox').inputValue(), 'hello there');
  await next();
  assert.equal(await page.getByRole('radio', { checked: true }).count(), 0, 'nine stars there are not');
  await page.getByRole('radio', { name: '5' }).click();
  await page.getByRole('button', { name: 'Send' }).click();
  await until('it is completed', async () => (await server.completed()) === 1);
  assert.deepEqual(responses()[0].answers, { q1: 8, q2: ['noise', 'light'], q3: 'price', q4: 'hello there', q5: 5 });
  await done(page);
});

test('what the server refuses is said', async () => {
  link({ ...survey('nps'), closed: true }, { refused: 'You have answered this already.' });
  const page = await at();
  await page.getByRole('radio', { name: '8', exact: true }).click();
  await page.getByRole('button', { name: 'Send' }).click();
  await page.getByText('You have answered this already.').waitFor();
  assert.equal(await server.completed(), 0);
  await page.context().close();
});

test('offline: told later, once', async () => {
  link(survey('nps'));
  const page = await at();
  await page.context().setOffline(true);
  await page.getByRole('radio', { name: '8', exact: true }).click();
  await page.getByRole('button', { name: 'Send' }).click();
  await page.waitForTimeout(300);
  await page.context().setOffline(false);
  await until('it is completed', async () => (await server.completed()) === 1);
  assert.equal(responses().length, 1);
  await page.context().close();
});

test('a survey whose texts look like markup is only text', async () => {
  const evil = '</script><script>alert(1)</script><img src=x onerror=alert(1)>';
  link({ ...survey({ type: 'info', text: evil }), name: evil });
  const page = await at();
  assert.equal(await page.getByRole('heading', { level: 1 }).textContent(), evil);
  await done(page);
});

test('axe finds nothing: each type, light and dark, narrow, right to left; and the notice', async () => {
  const check = (page) => page.evaluate(async (axe) => {
    // The policy forbids eval, and a driver's script is none of the page's.
    if (!window.axe) new Function(axe).call(window);
    return (await window.axe.run(document)).violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).join(' | ').slice(0, 300)}`);
  }, axe);
  for (const options of [{}, { colorScheme: 'dark' }, { viewport: { width: 320, height: 560 } }]) {
    const page = await fresh({ bypassCSP: true, ...options });
    for (const [i, type] of Object.keys(TYPES).entries()) {
      link({ ...survey(type, 'info'), ui: { progress: true }, ...(i % 2 ? { dir: 'rtl', locale: 'ar' } : {}) });
      await page.goto(server.origin + '/s/nps');
      await page.getByRole('heading', { level: 1 }).waitFor();
      assert.deepEqual(await check(page), [], type);
      if (process.env.PICTURES) await page.screenshot({ path: `${process.env.PICTURES}/page-${type}-${options.colorScheme ?? options.viewport?.width ?? 'wide'}.png` });
    }
    server.page('/notice', fill(shell('notice.html'), { lang: 'en', dir: 'ltr', base: '', title: 'This link has expired', text: 'Ask whoever sent it for a new one.' }));
    await page.goto(server.origin + '/notice');
    assert.deepEqual(await check(page), [], 'notice');
    if (process.env.PICTURES) await page.screenshot({ path: `${process.env.PICTURES}/page-notice-${options.colorScheme ?? options.viewport?.width ?? 'wide'}.png` });
    await page.context().close();
  }
});

test('the page for WebViews: commands in, events out, in every bridge', async () => {
  server.page('/embed', fill(shell('embed.html'), { base: '' }), { 'content-security-policy': POLICY.replace(/style-src 'self'; |frame-ancestors 'none'/g, '') });
  server.offer('T', survey('nps'));
  const page = await fresh();
  await page.addInitScript(() => {
    window.said = [];
    window.webkit = { messageHandlers: { askwhen: { postMessage: (m) => window.said.push(['ios', m.askwhen]) } } };
    window.AskwhenBridge = { postMessage: (text) => window.said.push(['android', JSON.parse(text).askwhen]) };
  });
  await page.goto(server.origin + '/embed');
  await page.waitForFunction(() => window.said.length);
  await page.evaluate((key) => {
    window.askwhen.init({ key, user: 'u', context: { platform: 'ios' } });
    window.askwhen.trigger('T');
  }, KEY);
  await page.getByRole('radio', { name: '9', exact: true }).click();
  await page.getByRole('button', { name: 'Send' }).click();
  await until('it is completed', async () => (await server.completed()) === 1);
  await page.evaluate(() => window.askwhen.close());
  const said = await page.evaluate(() => window.said);
  for (const bridge of ['ios', 'android'])
    assert.deepEqual(said.filter(([b]) => b === bridge).map(([, m]) => m), ['ready', 'decision', 'show', 'answer', 'close']);
  assert.equal(server.calls('/triggers/T')[0].body.context.platform, 'ios');
  await done(page);
});

test('in a frame it listens to its parent only, and answers to whom it heard', async () => {
  server.page('/embed', fill(shell('embed.html'), { base: '' }));
  server.page('/app', `<!doctype html><html lang="en"><title>app</title><h1>app</h1><iframe title="survey" width="600" height="500" src="${server.other}/embed"></iframe>
    <iframe title="other" srcdoc="<p>x</p>"></iframe>`);
  server.offer('T', survey('nps'));
  const page = await fresh();
  await page.addInitScript(() => {
    window.said = [];
    addEventListener('message', (e) => window.said.push(e.data.askwhen));
  });
  await page.goto(server.origin + '/app');
  await page.waitForFunction(() => window.said.includes('ready'));
  await page.evaluate((key) => {
    const frame = frames[0];
    frames[1].eval('parent.frames[0].postMessage(["trigger", "Stolen"], "*")');
    frame.postMessage({ something: 'else' }, '*');
    frame.postMessage(['constructor', 'x'], '*');
    frame.postMessage(['init', { key, user: 'u' }], '*');
    frame.postMessage(['trigger', 'T', { plan: 'pro' }], '*');
  }, KEY);
  const frame = page.frames().find((f) => f.url().endsWith('/embed'));
  await frame.getByRole('radio', { name: '9', exact: true }).click();
  await page.waitForFunction(() => window.said.includes('show'));
  assert.deepEqual(server.calls('/triggers/Stolen'), []);
  await done(page);
});
