// Strict pages and hostile ones: nothing is violated, and both sides look as ever.
import { after, before, beforeEach, test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { start } from './server.mjs';
import { dialog, fresh, html, loaded, shut, survey, trigger, until } from './browser.mjs';

const policy = (origin) =>
  `default-src 'none'; script-src ${origin}; connect-src ${origin}; require-trusted-types-for 'script'; trusted-types 'none'`;

let server;
before(async () => {
  server = await start();
});
after(async () => {
  await shut();
  server.stop();
});
beforeEach(() => server.clear());

for (const [where, layout] of [['same', 'popover'], ['same', 'modal'], ['same', 'inline'], ['cross', 'popover'], ['cross', 'modal'], ['cross', 'inline']])
  test(`under the strict policy, ${where} origin, ${layout}: no violation, no error`, async () => {
    const from = where === 'same' ? server.origin : server.other;
    server.page('/strict', html(from, { tag: 'data-user="u" data-debug', body: '<div id="here"></div>' }), { 'content-security-policy': policy(from) });
    server.offer('T', { ...survey('nps', 'multi_choice', 'rating_emoji', 'text'), ui: { layout, progress: true, theme: { accent: '#0a7', radius: '4px', font: 'serif' } } });
    const page = await fresh();
    await page.addInitScript(() => {
      window.violations = [];
      document.addEventListener('securitypolicyviolation', (e) => window.violations.push(e.violatedDirective + ' ' + e.blockedURI));
    });
    await page.goto(server.origin + '/strict');
    await loaded(page);
    await page.evaluate((container) => window.askwhen.trigger('T', {}, container), layout === 'inline' ? '#here' : null);
    await page.getByRole('radio', { name: '8', exact: true }).click();
    await page.getByRole('button', { name: 'Next' }).click();
    await page.getByRole('checkbox', { name: 'noise' }).click();
    await page.getByRole('button', { name: 'Next' }).click();
    await page.getByRole('radio', { name: '2' }).click();
    await page.getByRole('button', { name: 'Next' }).click();
    await page.getByRole('textbox').fill('fine');
    const looks = await page.evaluate(() => {
      const root = document.querySelector('askwhen-survey').shadowRoot;
      const send = getComputedStyle(root.querySelector('.next'));
      return [send.borderTopColor, send.borderRadius, getComputedStyle(root.querySelector('.card')).fontFamily];
    });
    assert.deepEqual(looks, ['rgb(0, 170, 119)', '4px', 'serif'], 'the theme holds without inline styles');
    assert.equal(await page.evaluate(() => document.querySelector('askwhen-survey').shadowRoot.querySelectorAll('[style], style, link').length), 0);
    assert.equal(await page.evaluate(() => document.querySelector('askwhen-survey').hasAttribute('style')), false);
    await page.getByRole('button', { name: 'Send' }).click();
    await until('it is completed', async () => (await server.completed()) === 1);
    // What is told as the page goes must get through the policy, too.
    await page.goto('about:blank');
    assert.deepEqual(page.errors, []);
    await page.context().close();
  });

test('nothing that is built writes markup, evaluates text or sets inline styles', () => {
  for (const name of ['askwhen.js', 'askwhen.mjs', 'survey.mjs', 'page.js', 'embed.js'])
    assert.doesNotMatch(
      readFileSync(new URL('../dist/' + name, import.meta.url), 'utf8'),
      /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(|cssText|\.style\.\w+\s*=|javascript:|https?:\/\/(?!www\.w3\.org)/,
      name,
    );
});

test('a difference would be noticed', async () => {
  const page = await fresh();
  const one = (await page.screenshot()).toString('base64');
  await page.setContent('<p>x</p>');
  assert.ok((await difference(one, (await page.screenshot()).toString('base64'))) > 100);
  await page.context().close();
});

test('a violation would be noticed', async () => {
  server.page('/strict', html(server.origin, { head: '<style>p{color:red}</style>' }), { 'content-security-policy': policy(server.origin) });
  const page = await fresh();
  await page.goto(server.origin + '/strict');
  await loaded(page);
  assert.ok(page.errors.some((e) => /Content Security Policy/.test(e)));
  await page.context().close();
});

const HOSTILE = {
  'all unset, hidden': '* { all: unset !important; display: none }',
  'every element restyled': `*, *::before, *::after { box-sizing: content-box !important; margin: 9px !important; padding: 7px !important;
    font: 900 40px/3 monospace !important; color: red !important; background: lime !important; border: 5px dotted !important;
    transform: rotate(3deg) !important; opacity: .3 !important; letter-spacing: 9px !important; text-transform: uppercase !important;
    text-align: right !important; animation: spin 1s infinite !important; visibility: hidden !important;
    position: static !important; float: left !important; width: 3px !important; height: 3px !important; pointer-events: none !important }
    @keyframes spin { to { transform: rotate(1turn) } }`,
  // Not on the root: a picture of a page that scrolls from right to left is shifted.
  'another direction': 'body, body *, askwhen-survey { direction: rtl !important; unicode-bidi: bidi-override !important; writing-mode: vertical-rl !important }',
  'fonts of the root': 'html { font-size: 62.5%; letter-spacing: 1px; word-spacing: 4px; line-height: 4 } body { font-size: 4px; zoom: 1 }',
  'a box that moves and clips': 'body { transform: scale(.5); overflow: hidden; height: 100px; filter: blur(3px); contain: strict; isolation: isolate }',
  'its own element': 'askwhen-survey { display: none !important; width: 0 !important; color: red !important; clip-path: inset(50%) !important; scale: .2 !important }',
  'its own classes': '.card, .body, .question, button, h2, .popover, .modal { display: none !important; background: red !important }',
  'a body that is not there': 'body { display: none !important }',
};
/** A picture of the card alone, on white, so that only the widget is compared. */
async function picture(page) {
  await page.mouse.move(1, 1);
  await page.evaluate(() => Promise.all(document.querySelector('askwhen-survey').shadowRoot.querySelector('.card').getAnimations().map((a) => a.finished)));
  const card = page.locator('askwhen-survey .card');
  const box = await card.boundingBox();
  // One pixel within the rounded corners: behind those is the page.
  return { box, image: (await page.screenshot({ clip: { x: box.x + 12, y: box.y + 1, width: box.width - 24, height: box.height - 2 } })).toString('base64') };
}

/** The largest difference of a colour of a pixel, of 255. Edges are smoothed a little differently from layer to layer. */
async function difference(one, two) {
  const page = await fresh();
  const most = await page.evaluate(async (pictures) => {
    const [a, b] = await Promise.all(pictures.map(async (picture) => {
      const image = new Image();
      image.src = 'data:image/png;base64,' + picture;
      await image.decode();
      const canvas = new OffscreenCanvas(image.width, image.height).getContext('2d');
      canvas.drawImage(image, 0, 0);
      return canvas.getImageData(0, 0, image.width, image.height).data;
    }));
    return a.length === b.length ? a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0) : 255;
  }, [one, two]);
  await page.context().close();
  return most;
}

for (const layout of ['popover', 'modal'])
  test(`${layout}: hostile style sheets do not reach it`, async () => {
    let plain;
    for (const [name, css] of Object.entries({ none: '', ...HOSTILE })) {
      server.clear();
      server.page('/hostile', html(server.origin, { tag: 'data-user="u"', head: `<style>${css}</style>` }));
      server.offer('T', { ...survey('nps', 'text'), ui: { layout, progress: true } });
      const page = await fresh();
      await page.goto(server.origin + '/hostile');
      await loaded(page);
      await trigger(page);
      await page.locator('askwhen-survey [role=radio]').nth(8).click();
      const now = await picture(page);
      plain ??= now;
      assert.deepEqual(now.box, plain.box, name);
      assert.ok((await difference(plain.image, now.image)) <= 4, `${layout} looks otherwise under: ${name}`);
      await page.locator('askwhen-survey .next').click();
      await page.locator('askwhen-survey textarea').fill('It works');
      await page.locator('askwhen-survey .next').click();
      await until('it is completed', async () => (await server.completed()) === 1);
      assert.deepEqual(page.errors, []);
      await page.context().close();
    }
  });

test('its style sheet does not leave it: the page looks the same with and without', async () => {
  const body = '<button class="card close next">B</button><h2 class="question">H</h2><input class="steps"><progress value=".5"></progress><dialog open class="modal">D</dialog>';
  const pictures = [];
  for (const source of ['', server.origin]) {
    server.page('/plain', source ? html(source, { tag: 'data-user="u"', body }) : html(server.origin, { body }).replace(/<script.*<\/script>/, ''));
    server.offer('T', survey('nps'));
    const page = await fresh();
    await page.goto(server.origin + '/plain');
    if (source) {
      await loaded(page);
      const before = await page.evaluate(() => document.documentElement.outerHTML);
      await trigger(page, 'Nothing');
      assert.equal(await page.evaluate(() => document.documentElement.outerHTML), before, 'nothing is touched before an offer');
      await trigger(page);
      await dialog(page).first().waitFor();
      await page.locator('askwhen-survey .close').click();
      assert.equal(await page.evaluate(() => document.documentElement.outerHTML), before, 'nothing is left behind');
      assert.equal(await page.evaluate(() => document.adoptedStyleSheets.length), 0);
      await trigger(page);
      await page.locator('askwhen-survey .card').waitFor();
    }
    pictures.push((await page.screenshot({ clip: { x: 0, y: 0, width: 500, height: 400 } })).toString('base64'));
    await page.context().close();
  }
  assert.ok(pictures[0] === pictures[1]);
});

test('themes: custom properties and parts of the page, the survey, and init', async () => {
  server.page('/themed', html(server.origin, {
    tag: 'data-user="u"',
    head: `<style>:root { --askwhen-accent: rgb(255, 220, 0); --askwhen-radius: 2px }
      askwhen-survey::part(card) { border-width: 3px } askwhen-survey::part(question) { padding-top: 5px }
      askwhen-survey::part(option) { text-decoration: underline } askwhen-survey::part(button) { text-transform: uppercase }
      askwhen-survey::part(close) { color: rgb(1, 2, 3) }</style>`,
  }));
  server.offer('T', { ...survey('nps'), ui: { theme: { accent: '#111111', background: '#fff8e7', text: '#222222' } } });
  const page = await fresh();
  await page.goto(server.origin + '/themed');
  await loaded(page);
  await page.evaluate(() => window.askwhen.init({ key: document.querySelector('[data-key]').dataset.key, theme: { text: '#330000' } }));
  await trigger(page);
  const style = (selector, property) =>
    page.evaluate(([selector, property]) => getComputedStyle(document.querySelector('askwhen-survey').shadowRoot.querySelector(selector))[property], [selector, property]);
  assert.equal(await style('.next', 'backgroundColor'), 'rgb(255, 220, 0)', "the page's property wins");
  assert.equal(await style('.next', 'color'), 'rgb(0, 0, 0)', 'text on a bright accent is black');
  assert.equal(await style('.card', 'backgroundColor'), 'rgb(255, 248, 231)');
  assert.equal(await style('.card', 'color'), 'rgb(51, 0, 0)', "init's theme wins over the survey's");
  assert.equal(await style('.card', 'borderTopWidth'), '3px');
  assert.equal(await style('[part=question]', 'paddingTop'), '5px');
  assert.equal(await style('[part=option]', 'textDecorationLine'), 'underline');
  assert.equal(await style('.next', 'textTransform'), 'uppercase');
  assert.equal(await style('.close', 'color'), 'rgb(1, 2, 3)');
  await page.context().close();
});

test('a theme cannot smuggle in rules or requests', async () => {
  server.page('/p', html(server.origin, { tag: 'data-user="u"' }));
  server.offer('T', { ...survey('nps'), ui: { theme: { accent: 'red} .card{display:none', background: `url(${server.origin}/leak)`, font: "x'; } * { color: red" } } });
  const page = await fresh();
  await page.goto(server.origin + '/p');
  await loaded(page);
  await trigger(page);
  await dialog(page).waitFor();
  await page.waitForTimeout(200);
  assert.ok(!server.log.some((e) => e.path === '/leak'));
  await page.context().close();
});
