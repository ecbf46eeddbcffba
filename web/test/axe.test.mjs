// axe-core on every type, layout and theme; and every way of looking at it,
// as pictures (PICTURES=DIR writes them) and as rules about boxes.
import { after, before, beforeEach, test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { start } from './server.mjs';
import { dialog, fresh, html, loaded, shut, survey, trigger, TYPES, until } from './browser.mjs';

const axe = readFileSync(new URL('../node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');
const LAYOUTS = ['popover', 'modal', 'inline'];

let server;
before(async () => {
  server = await start();
  server.page('/p', html(server.origin, { tag: 'data-user="u"', body: '<p>Text</p><div id="here"></div>' }));
});
after(async () => {
  await shut();
  server.stop();
});
beforeEach(() => server.clear());

async function show(page, given, ui) {
  server.offer('T', { ...given, ui: { progress: true, ...ui } });
  await page.goto(server.origin + '/p');
  await loaded(page);
  await page.evaluate((container) => window.askwhen.trigger('T', {}, container), ui.layout === 'inline' ? '#here' : null);
  await dialog(page).waitFor();
}
const faults = (page) =>
  page.evaluate(async (axe) => {
    if (!window.axe) window.eval(axe);
    const { violations, incomplete } = await window.axe.run(document, { resultTypes: ['violations', 'incomplete'] });
    // Over a page axe cannot compute contrast; inline it can, and the colours are the same.
    return [...violations, ...incomplete.filter((r) => r.id !== 'color-contrast')]
      .map((r) => `${r.id}: ${r.nodes.map((n) => n.html.slice(0, 90) + ' ' + (n.any[0]?.message ?? '')).join(' | ')}`);
  }, axe);
const picture = async (page, name) => {
  if (process.env.PICTURES) await page.screenshot({ path: `${process.env.PICTURES}/${name}.png` });
};

for (const layout of LAYOUTS)
  for (const scheme of ['light', 'dark'])
    test(`axe finds nothing: ${layout}, ${scheme}`, async () => {
      const page = await fresh({ colorScheme: scheme, viewport: { width: 520, height: 520 } });
      for (const type of Object.keys(TYPES)) {
        await show(page, survey(type, 'info'), { layout });
        assert.deepEqual(await faults(page), [], type);
        const choice = page.locator('askwhen-survey [part=option]').nth(1);
        if (type !== 'text' && type !== 'info') await choice.click();
        if (/choice/.test(type)) await page.locator('askwhen-survey [part=option]', { hasText: 'Something else' }).click();
        assert.deepEqual(await faults(page), [], type + ' answered');
        await picture(page, `${type}-${layout}-${scheme}`);
        if (type === 'nps') {
          await show(page, survey('nps', 'text'), { layout });
          await page.getByRole('button', { name: 'Next' }).click();
          assert.deepEqual(await faults(page), [], 'an error');
          await picture(page, `error-${layout}-${scheme}`);
          await page.getByRole('radio').nth(9).click();
          await page.getByRole('button', { name: 'Next' }).click();
          assert.deepEqual(await faults(page), [], 'the second question, with Back');
          await page.getByRole('textbox').fill('x');
          await picture(page, `second-${layout}-${scheme}`);
          await page.getByRole('button', { name: 'Send' }).click();
          assert.deepEqual(await faults(page), [], 'thanks');
          await picture(page, `thanks-${layout}-${scheme}`);
        }
      }
      assert.deepEqual(page.errors, []);
      await page.context().close();
    });

test('axe finds nothing with colours of a customer, the debug overlay, and right to left', async () => {
  const page = await fresh();
  for (const theme of [{ accent: '#ffd400' }, { accent: '#b00020', background: '#fff8e7', text: '#3b2f2f' }, { scheme: 'dark', accent: '#7fffd4' }, { accent: 'oklch(0.9 0.1 140)' }]) {
    await show(page, { ...survey('nps', 'text'), dir: 'rtl', locale: 'ar' }, { layout: 'popover', theme });
    await page.getByRole('radio').nth(3).click();
    assert.deepEqual(await faults(page), [], JSON.stringify(theme));
  }
  server.page('/debug', html(server.origin, { tag: 'data-user="u" data-debug' }));
  await page.goto(server.origin + '/debug');
  await loaded(page);
  await trigger(page);
  assert.deepEqual(await faults(page), []);
  await page.context().close();
});

test('axe would find something', async () => {
  const page = await fresh();
  await page.goto(server.origin + '/p');
  await page.evaluate(() => document.body.append(document.createElement('input')));
  assert.ok((await faults(page)).length);
  await page.context().close();
});

/** Nothing sticks out, and every target is at least 24 px each way. */
const boxes = (page) =>
  page.evaluate(() => {
    const root = document.querySelector('askwhen-survey').shadowRoot;
    const wrong = [];
    const card = root.querySelector('.card').getBoundingClientRect();
    const wide = document.documentElement.clientWidth;
    if (card.left < 0 || card.right > wide + 0.5 || card.bottom > innerHeight + 0.5 || card.top < 0) wrong.push(`the card: ${JSON.stringify(card)}`);
    if (root.querySelector('.card').scrollWidth > root.querySelector('.card').clientWidth) wrong.push('the card scrolls sideways');
    for (const node of root.querySelectorAll('button, input, textarea, h2')) {
      const box = node.getBoundingClientRect();
      if (!box.width) continue;
      const within = root.querySelector('.body').getBoundingClientRect();
      if (box.left < within.left + 10 || box.right > within.right - 10) wrong.push('sticks out: ' + node.outerHTML.slice(0, 80));
      if (node.tagName !== 'H2' && (box.width < 24 || box.height < 24)) wrong.push(`${box.width}x${box.height}: ${node.outerHTML.slice(0, 80)}`);
    }
    return wrong;
  });

for (const [name, options] of Object.entries({
  '320 px': { viewport: { width: 320, height: 568 } },
  'zoom 200 %': { viewport: { width: 500, height: 350 }, deviceScaleFactor: 2 },
  'zoom 400 %': { viewport: { width: 320, height: 256 }, deviceScaleFactor: 2 },
  'right to left': { viewport: { width: 520, height: 520 } },
  'reduced motion': { viewport: { width: 520, height: 520 }, reducedMotion: 'reduce' },
  'forced colours': { viewport: { width: 520, height: 520 }, forcedColors: 'active' },
  'forced colours, dark': { viewport: { width: 520, height: 520 }, forcedColors: 'active', colorScheme: 'dark' },
}))
  test(`it holds together at: ${name}`, async () => {
    const page = await fresh(options);
    const rtl = name === 'right to left' ? { dir: 'rtl', locale: 'ar' } : {};
    for (const layout of ['popover', 'modal'])
      for (const type of [...Object.keys(TYPES), 'ten', 'long']) {
        const question =
          type === 'ten' ? { type: 'rating_number', text: 'From 1 to 10?', scale: 10, labels: { low: 'A label that is rather long', high: 'And another that is not short' } }
          : type === 'long' ? { type: 'single_choice', text: 'Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft?', options: ['Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz', ...Array.from({ length: 14 }, (_, i) => 'Option number ' + i)] }
          : TYPES[type];
        await show(page, { ...survey(question, 'info'), ...rtl }, { layout });
        if (!['text', 'info'].includes(type)) await page.locator('askwhen-survey [part=option]').nth(3).click();
        assert.deepEqual(await boxes(page), [], `${type}, ${layout}`);
        await picture(page, `${name.replace(/\W+/g, '-')}-${type}-${layout}`);
        if (name === 'reduced motion')
          assert.equal(await page.evaluate(() => document.querySelector('askwhen-survey').shadowRoot.querySelector('.card').getAnimations().length), 0);
        const send = page.getByRole('button', { name: 'Next' });
        await send.scrollIntoViewIfNeeded();
        await send.click();
      }
    await page.context().close();
  });

test('it follows a change of the scheme while it is shown, and keeps the one it is given', async () => {
  const page = await fresh();
  const dark = () => page.evaluate(() => getComputedStyle(document.querySelector('askwhen-survey').shadowRoot.querySelector('.card')).backgroundColor !== 'rgb(255, 255, 255)');
  await show(page, survey('nps'), { layout: 'popover' });
  assert.equal(await dark(), false);
  await page.emulateMedia({ colorScheme: 'dark' });
  await until('it is dark', dark);
  await show(page, survey('nps'), { layout: 'popover', theme: { scheme: 'light' } });
  assert.equal(await dark(), false);
  await page.context().close();
});

test('positions', async () => {
  const page = await fresh({ reducedMotion: 'reduce' });
  const at = {};
  for (const position of ['bottom_right', 'bottom_left', 'bottom_center', 'center']) {
    await show(page, survey('nps'), { layout: 'popover', position });
    const { x, y, width, height } = await page.locator('askwhen-survey .card').boundingBox();
    at[position] = [Math.round(x + width / 2), Math.round(y + height / 2), Math.round(x), Math.round(1000 - x - width), Math.round(700 - y - height)];
  }
  assert.equal(at.bottom_right[3], 16);
  assert.equal(at.bottom_right[4], 16);
  assert.equal(at.bottom_left[2], 16);
  assert.equal(at.bottom_left[4], 16);
  assert.equal(at.bottom_center[0], 500);
  assert.equal(at.bottom_center[4], 16);
  assert.ok(Math.abs(at.center[0] - 500) <= 1 && Math.abs(at.center[1] - 350) <= 1);
  await page.context().close();
});
