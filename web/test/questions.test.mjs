// The eight question types: by keyboard alone, their names, values and paths.
import { after, before, beforeEach, test } from 'node:test';
import assert from 'node:assert/strict';
import { start } from './server.mjs';
import { dialog, fresh, html, loaded, shut, survey, trigger, TYPES, until } from './browser.mjs';

let server;
let page;
before(async () => {
  server = await start();
  server.page('/p', html(server.origin, { tag: 'data-user="u"', body: '<button id="before">A button</button>' }));
});
after(async () => {
  await shut();
  server.stop();
});
beforeEach(() => server.clear());

async function show(given, ui = {}, options = {}) {
  server.offer('T', { ...given, ui });
  page = await fresh(options);
  await page.goto(server.origin + '/p');
  await loaded(page);
  const decision = await trigger(page);
  await dialog(page).waitFor();
  return decision;
}
const done = async () => {
  assert.deepEqual(page.errors, []);
  await page.context().close();
};
const press = async (...keys) => {
  for (const key of keys) await page.keyboard.press(key);
};
/** Role and name of what has the focus, through shadow roots. */
const focus = () =>
  page.evaluate(() => {
    let at = document.activeElement;
    while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
    return `${at.getAttribute('role') ?? at.tagName.toLowerCase()} ${at.getAttribute('aria-label') ?? at.textContent}`.trim();
  });
/** Tab until the focus is on what is wanted; a user would not go on for ever either. */
async function tabTo(wanted) {
  for (let i = 0; i < 12; i++) {
    const now = await focus();
    if (wanted.test(now)) return now;
    await press('Tab');
  }
  assert.fail(`no Tab leads to ${wanted}; the focus is on ${await focus()}`);
}
const values = async () => {
  await until('it is completed', async () => (await server.completed()) === 1);
  return server.calls('/answers').at(-1).body.answers.map((a) => a.value);
};

for (const [type, keys, expected] of [
  ['text', async () => page.keyboard.type('Fewer clicks'), ['Fewer clicks']],
  ['nps', () => press(...Array(9).fill('ArrowRight'), 'Space'), [9]],
  ['single_choice', () => press('ArrowDown', 'Space'), ['bugs']],
  ['multi_choice', () => press('Space', 'ArrowDown', 'ArrowDown', 'Space'), [['noise', 'heat']]],
  ['rating_number', () => press('End', 'ArrowLeft', 'Space'), [6]],
  ['rating_star', () => press('ArrowRight', 'ArrowRight', 'ArrowRight', 'Space'), [4]],
  ['rating_emoji', () => press('ArrowUp', 'Enter'), [5]],
  ['info', () => {}, []],
])
  test(`${type} is answered by keyboard alone`, async () => {
    await show(survey(type));
    await page.locator('#before').focus();
    if (type !== 'info') await tabTo(type === 'text' ? /textarea/ : type === 'multi_choice' ? /checkbox/ : /radio/);
    await keys();
    assert.equal(server.calls('/answers').length, 0, 'neither arrows nor choosing submit');
    await tabTo(/button Send/);
    await press('Enter');
    assert.deepEqual(await values(), expected);
    await done();
  });

test('a group is one tab stop, and comes back to the chosen one', async () => {
  await show(survey('nps'));
  await page.locator('#before').focus();
  await tabTo(/radio 0/);
  await press('ArrowRight', 'ArrowRight', 'Space', 'Tab');
  assert.equal(await focus(), 'button Send');
  await press('Shift+Tab');
  assert.equal(await focus(), 'radio 2');
  assert.equal(await page.getByRole('radio', { checked: true }).getAttribute('aria-label'), '2');
  await press('ArrowLeft', 'ArrowLeft', 'ArrowLeft');
  assert.equal(await focus(), 'radio 10', 'round the end');
  assert.equal(await page.getByRole('radio', { checked: true }).getAttribute('aria-label'), '2', 'moving chooses nothing');
  await done();
});

test('right to left, the arrows go the other way', async () => {
  await show({ ...survey('rating_star'), dir: 'rtl', locale: 'ar' });
  await page.getByRole('radio', { name: '1' }).focus();
  await press('ArrowLeft');
  assert.equal(await focus(), 'radio 2');
  await press('ArrowRight');
  assert.equal(await focus(), 'radio 1');
  const card = dialog(page);
  assert.equal(await card.getAttribute('dir'), 'rtl');
  assert.equal(await card.getAttribute('lang'), 'ar');
  await done();
});

test('names and descriptions for screen readers', async () => {
  for (const [type, expected] of Object.entries({
    text: ['dialog', 'textbox'],
    nps: ['dialog', 'radiogroup'],
    single_choice: ['dialog', 'radiogroup'],
    multi_choice: ['dialog', 'group'],
    rating_number: ['dialog', 'radiogroup'],
    rating_star: ['dialog', 'radiogroup'],
    rating_emoji: ['dialog', 'radiogroup'],
    info: ['dialog', 'heading'],
  })) {
    await show(survey(type), { progress: true });
    for (const role of expected)
      assert.equal(await page.getByRole(role, { name: TYPES[type].text.replace('\n', ' ') }).count(), 1, `${type}: ${role}`);
    assert.equal(await page.getByRole('button', { name: 'Close' }).count(), 1);
    if (type === 'nps') {
      assert.equal(await page.getByRole('radio').count(), 11);
      const ends = await page.evaluate(() => {
        const root = document.querySelector('askwhen-survey').shadowRoot;
        return ['0', '10'].map((name) => root.getElementById(root.querySelector(`[aria-label="${name}"]`).getAttribute('aria-describedby')).textContent);
      });
      assert.deepEqual(ends, ['Not at all', 'Very likely']);
    }
    if (type === 'single_choice')
      assert.deepEqual(await page.getByRole('radio').allTextContents(), ['price', 'Too many bugs', 'Missing features', 'Something else']);
    await done();
    server.clear();
  }
});

test('modal: the focus goes in, stays in, and comes back', async () => {
  server.offer('T', { ...survey('nps'), ui: { layout: 'modal' } });
  page = await fresh();
  await page.goto(server.origin + '/p');
  await loaded(page);
  await page.locator('#before').focus();
  await trigger(page);
  assert.equal(await focus(), 'radio 0');
  for (let i = 0; i < 7; i++) {
    await press('Tab');
    assert.notEqual(await focus(), 'button A button');
  }
  assert.equal(await dialog(page).getAttribute('aria-modal'), 'true');
  await press('Escape');
  assert.equal(await dialog(page).count(), 0);
  assert.equal(await focus(), 'button A button');
  await until('it is dismissed', () => server.calls('/dismissed').length === 1);
  await done();
});

test('popover: the focus is not taken, and comes back to where it came from', async () => {
  server.offer('T', survey('nps'));
  page = await fresh();
  await page.goto(server.origin + '/p');
  await loaded(page);
  await page.locator('#before').focus();
  await trigger(page);
  await dialog(page).waitFor();
  assert.equal(await focus(), 'button A button');
  await tabTo(/radio 0/);
  await press('Escape');
  assert.equal(await focus(), 'button A button');
  await done();
});

test('a required question says so, aloud, and keeps its place', async () => {
  await show(survey('nps', 'text'), { labels: { required: 'Bitte antworten' } });
  await page.getByRole('button', { name: 'Next' }).click();
  assert.equal(await page.getByRole('alert').textContent(), 'Bitte antworten');
  assert.equal(await focus(), 'radio 0');
  assert.equal(server.calls('/answers').length, 0);
  await page.getByRole('radio', { name: '3', exact: true }).click();
  assert.equal(await page.getByRole('alert').textContent(), '', 'the error goes when it is answered');
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('textbox').fill('   ');
  await page.getByRole('button', { name: 'Send' }).click();
  assert.equal(await page.getByRole('alert').textContent(), 'Bitte antworten', 'blank is no answer');
  await page.getByRole('textbox').fill('ä'.repeat(8193));
  await page.getByRole('button', { name: 'Send' }).click();
  assert.match(await page.getByRole('alert').textContent(), /too long/);
  await page.getByRole('textbox').fill('ä'.repeat(8192));
  await page.getByRole('button', { name: 'Send' }).click();
  assert.equal((await values())[1].length, 8192);
  await done();
});

test('what is not required may be passed over', async () => {
  await show(survey({ ...TYPES.nps, required: false }, { ...TYPES.text, required: false }, { ...TYPES.multi_choice, required: false }));
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('button', { name: 'Send' }).click();
  assert.deepEqual(await values(), []);
  await done();
});

test('`other` opens a field, takes the focus, and needs its text', async () => {
  await show(survey('single_choice', 'multi_choice'));
  await page.getByRole('radio', { name: 'Something else' }).click();
  const field = page.getByRole('textbox', { name: 'Something else' });
  assert.ok(await field.evaluate((node) => node.getRootNode().activeElement === node));
  await page.getByRole('button', { name: 'Next' }).click();
  assert.match(await page.getByRole('alert').textContent(), /Please answer/);
  await field.fill('The weather');
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('checkbox', { name: 'The light' }).click();
  await page.getByRole('checkbox', { name: 'Something else' }).click();
  await page.getByRole('textbox').fill('An owl');
  await page.getByRole('button', { name: 'Send' }).click();
  assert.deepEqual(await values(), [{ other: 'The weather' }, ['light', { other: 'An owl' }]]);
  await done();
});

test('shuffled options: another order for another offer, the same for the same', async () => {
  const options = Array.from({ length: 12 }, (_, i) => 'option ' + i);
  const one = survey({ type: 'single_choice', text: 'Which?', options, shuffle: true, other: { text: 'Else' } });
  await show(one);
  const order = () => page.getByRole('radio').allTextContents();
  const first = await order();
  assert.notDeepEqual(first, [...options, 'Else']);
  assert.deepEqual([...first].sort(), [...options, 'Else'].sort());
  assert.equal(first.at(-1), 'Else', '`other` stays last');
  const kept = [...server.decisions.values()][0];
  await page.evaluate((decision) => (window.askwhen.close(), window.askwhen.show(decision)), kept);
  assert.deepEqual(await order(), first);
  await page.evaluate(() => window.askwhen.close());
  await trigger(page);
  assert.notDeepEqual(await order(), first);
  await done();
});

test('branching with back: the path follows the answers, what is left behind is not in the end', async () => {
  await show(
    survey(
      { ...TYPES.nps, next: [{ when: { op: 'lte', value: 6 }, goto: 'q3' }] },
      { type: 'text', text: 'What do you like?' },
      { type: 'single_choice', text: 'What is wrong?', options: ['price', 'bugs'], next: [{ when: { op: 'eq', value: 'price' }, goto: 'end' }] },
      { type: 'text', text: 'Never reached so' },
    ),
    { progress: true },
  );
  const heading = () => page.getByRole('heading', { level: 2 }).textContent();
  const score = (n) => page.getByRole('radio', { name: n + '', exact: true }).click();
  const next = () => page.getByRole('button', { name: 'Next' }).click();
  assert.equal(await page.getByRole('button', { name: 'Back' }).count(), 0);
  await score(9);
  await next();
  assert.equal(await heading(), 'What do you like?');
  await page.getByRole('textbox').fill('Everything');
  await next();
  assert.equal(await heading(), 'What is wrong?');
  await page.getByRole('button', { name: 'Back' }).click();
  assert.equal(await page.getByRole('textbox').inputValue(), 'Everything');
  await page.getByRole('button', { name: 'Back' }).click();
  assert.equal(await page.getByRole('radio', { checked: true }).getAttribute('aria-label'), '9');
  await score(4);
  await next();
  assert.equal(await heading(), 'What is wrong?');
  await page.getByRole('radio', { name: 'price' }).click();
  assert.equal(await page.getByRole('progressbar').getAttribute('value'), '3');
  await page.getByRole('button', { name: 'Send' }).click();
  assert.deepEqual(await values(), [4, 'price']);
  const told = server.calls('/answers').map((e) => e.body.answers.map((a) => `${a.question_id}=${a.value}`).join());
  assert.deepEqual(told, ['q1=9', 'q2=Everything', 'q1=4', 'q1=4,q3=price']);
  await done();
});

test('a path may end early: the button says Send as soon as the answer ends it', async () => {
  await show(survey({ ...TYPES.rating_star, next: [{ when: { op: 'gte', value: 4 }, goto: 'end' }] }, 'text'));
  await page.getByRole('radio', { name: '2' }).click();
  assert.equal(await page.getByRole('button', { name: 'Next' }).count(), 1);
  await page.getByRole('radio', { name: '5' }).click();
  await page.getByRole('button', { name: 'Send' }).click();
  assert.deepEqual(await values(), [5]);
  await done();
});

test('an ending of its own, with a link', async () => {
  await show({ ...survey({ ...TYPES.nps, next: [{ goto: 'fans' }] }), endings: [{ ending_id: 'fans', text: 'Tell others!', link: 'https://shop.example/review' }] });
  await page.getByRole('radio', { name: '10' }).click();
  await page.getByRole('button', { name: 'Send' }).click();
  assert.equal(await page.getByRole('heading', { name: 'Tell others!' }).count(), 1);
  assert.equal(await page.getByRole('link').getAttribute('href'), 'https://shop.example/review');
  await done();
});

test('an anonymous survey says so, in words of its own where it has any', async () => {
  const said = (text) => page.getByText(text).count();
  await show({ ...survey('nps'), anonymous: true });
  assert.equal(await said('passed on without your name'), 1);
  await done();
  await show({ ...survey('nps'), anonymous: true }, { labels: { anonymous: 'Nobody knows <b>you</b>' } });
  assert.equal(await said('Nobody knows <b>you</b>'), 1);
  await done();
  await show(survey('nps'));
  assert.equal(await said('passed on without your name'), 0);
  await done();
});

test('a link that is not http is not one', async () => {
  const script = { ...survey({ ...TYPES.info, next: [{ goto: 'x' }] }), endings: [{ ending_id: 'x', text: 'Bye', link: 'javascript:alert(1)' }] };
  // askwhen takes no such survey; whoever draws it must not rely on that.
  if (server.program) return assert.equal((await server.program.send('PUT', '/v1/surveys/script', { name: 'x', show_on: [{ trigger: 'x' }], ...script })).status, 422);
  await show(script);
  await page.getByRole('button', { name: 'Send' }).click();
  assert.equal(await page.getByRole('heading', { name: 'Bye' }).count(), 1);
  assert.equal(await page.getByRole('link').count(), 0);
  await done();
});

test('texts, labels and thanks are those of the decision, and only text', async () => {
  const evil = '<img src=x onerror=alert(1)><b>bold</b>';
  await show(
    { ...survey({ type: 'single_choice', text: evil, options: [{ value: 'a', text: evil }] }, 'info'), locale: 'de' },
    { labels: { next: 'Weiter', back: 'Zurück', submit: 'Senden', close: 'Schließen' }, thank_you: { text: 'Danke', close_after: null } },
  );
  assert.equal(await page.getByRole('heading', { level: 2 }).textContent(), evil);
  await page.getByRole('radio', { name: evil }).click();
  await page.getByRole('button', { name: 'Weiter' }).click();
  assert.equal(await page.getByRole('button', { name: 'Zurück' }).count(), 1);
  await page.getByRole('button', { name: 'Senden' }).click();
  assert.equal(await page.getByRole('heading', { name: 'Danke' }).count(), 1);
  await page.waitForTimeout(3300);
  assert.equal(await page.getByRole('heading', { name: 'Danke' }).count(), 1, 'it stays until it is closed');
  await page.getByRole('button', { name: 'Schließen' }).click();
  assert.equal(await dialog(page).count(), 0);
  assert.equal(server.calls('/dismissed').length, 0, 'what is completed is not dismissed');
  await done();
});

test('a changed text and an emptied one are told as they are', async () => {
  await show(survey({ ...TYPES.text, required: false }, 'info'));
  await page.getByRole('textbox').fill('first');
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('button', { name: 'Back' }).click();
  await page.getByRole('textbox').fill('');
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('button', { name: 'Send' }).click();
  assert.deepEqual(await values(), ['']);
  assert.deepEqual(server.calls('/answers').map((e) => e.body.answers[0]?.value), ['first', '', '']);
  await done();
});

test("what is typed does not set off the page's shortcuts; Enter and Ctrl+Enter go on", async () => {
  server.page('/keys', html(server.origin, { tag: 'data-user="u"' }));
  server.offer('T', survey('single_choice', 'text'));
  page = await fresh();
  await page.goto(server.origin + '/keys');
  await loaded(page);
  await page.evaluate(() => {
    window.heard = [];
    for (const name of ['keydown', 'keyup', 'keypress']) document.addEventListener(name, (e) => window.heard.push(e.key));
  });
  await trigger(page);
  await page.getByRole('radio', { name: 'Something else' }).click();
  await page.keyboard.type('jkl');
  await press('Enter');
  await page.keyboard.type('two');
  await press('Enter');
  await page.keyboard.type('lines');
  await press('Control+Enter');
  assert.deepEqual(await values(), [{ other: 'jkl' }, 'two\nlines']);
  assert.deepEqual(await page.evaluate(() => window.heard), []);
  await done();
});
