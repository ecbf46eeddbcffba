// What the widget does, driven through its API on a real page.
import { after, before, beforeEach, test } from 'node:test';
import assert from 'node:assert/strict';
import { start, KEY } from './server.mjs';
import { dialog, fresh, html, loaded, shut, survey, tab, trigger, until } from './browser.mjs';

let server;
let page;
before(async () => {
  server = await start();
  server.page('/p', html(server.origin, { tag: 'data-user="user/1 ä"' }));
  server.page('/anon', html(server.origin));
  server.page('/bare', html(server.origin, { key: '' }));
});
after(async () => {
  await shut();
  server.stop();
});
beforeEach(() => server.clear());

async function at(path, options) {
  page = await fresh(options);
  await page.goto(server.origin + path);
  await loaded(page);
  return page;
}
const done = async () => {
  assert.deepEqual(page.errors, []);
  await page.context().close();
};
const paths = (since = 0) =>
  server.log.slice(since).map((entry) => `${entry.method} ${entry.path}`);
const sent = (ending) => until(`${ending} is told`, () => server.calls(ending).find((entry) => entry.status === 200));

test('one request before an offer, two after, and no preflight', async () => {
  server.offer('T', survey('nps'));
  await at('/p');
  assert.deepEqual(paths(), ['GET /p', 'GET /sdk/askwhen.js']);
  const none = await trigger(page, 'Elsewhere');
  assert.equal(none.reason, 'not_offered');
  assert.equal(paths().length, 3);
  const from = server.log.length;
  const decision = await trigger(page, 'T', { plan: 'pro' });
  await dialog(page).waitFor();
  await sent('/displayed');
  const user = '/v1/users/user%2F1%20%C3%A4';
  assert.deepEqual(paths(from), [
    `POST ${user}/triggers/T`,
    'GET /sdk/survey.mjs',
    `POST ${user}/offers/${decision.survey.offer_id}/displayed`,
  ]);
  const { body, headers } = server.calls('/triggers/T')[0];
  assert.match(headers['content-type'], /^text\/plain/);
  assert.equal(body.key, KEY);
  assert.deepEqual(body.properties, { plan: 'pro' });
  assert.deepEqual(Object.keys(body.context).sort(), ['locale', 'platform', 'session_id']);
  assert.equal(body.context.platform, 'web');
  assert.match(body.event_id, /^[0-9a-f-]{36}$/);
  assert.ok(Math.abs(Date.parse(body.sent_at) - Date.now()) < 60_000);
  await done();
});

test('answers are told as they are given, the last with completed and the whole path', async () => {
  server.offer('T', survey('nps', 'text'));
  await at('/p');
  await page.evaluate((key) => {
    window.seen = [];
    const note = (name) => (...given) => window.seen.push([name, ...given]);
    window.askwhen.init({ key, onShow: note('show'), onAnswer: note('answer'), onClose: note('close'), onDecision: note('decision') });
  }, KEY);
  await trigger(page);
  await page.getByRole('radio', { name: '9', exact: true }).click();
  assert.equal(server.calls('/answers').length, 0, 'choosing is not telling');
  await page.getByRole('button', { name: 'Next' }).click();
  const first = await sent('/answers');
  assert.equal(first.body.completed, false);
  assert.equal(first.body.key, KEY);
  assert.equal(first.body.answers.length, 1);
  assert.equal(first.body.answers[0].value, 9);
  await page.getByRole('textbox').fill('  More ponies  ');
  await page.getByRole('button', { name: 'Send' }).click();
  await until('it is completed', async () => (await server.completed()) === 1);
  const last = server.calls('/answers').at(-1).body;
  assert.equal(last.completed, true);
  assert.deepEqual(last.answers.map((a) => [a.question_id, a.value]), [['q1', 9], ['q2', 'More ponies']]);
  assert.deepEqual(last.answers[0].answered_at, first.body.answers[0].answered_at);
  for (const answer of last.answers) assert.ok(Number.isInteger(answer.duration_ms) && answer.duration_ms >= 0);
  assert.match(await dialog(page).textContent(), /Thank you/);
  await until('it has closed by itself', async () => !(await dialog(page).count()));
  assert.equal(server.calls('/dismissed').length, 0);
  const seen = await page.evaluate(() => window.seen.map(([name, ...given]) => [name, name === 'answer' ? given[1] : name === 'close' ? given[0] : null]));
  assert.deepEqual(seen, [['decision', null], ['show', null], ['answer', false], ['answer', true], ['close', 'completed']]);
  await done();
});

test('close and Escape dismiss, once, and only what was seen', async () => {
  server.offer('T', survey('nps'));
  await at('/p');
  await trigger(page);
  await sent('/displayed');
  await page.getByRole('button', { name: 'Close' }).click();
  await sent('/dismissed');
  await trigger(page);
  await dialog(page).waitFor();
  await page.keyboard.press('Escape');
  await until('two are dismissed', () => server.calls('/dismissed').length === 2);
  assert.equal(server.calls('/displayed').length, 2);
  await trigger(page);
  await page.evaluate(() => window.askwhen.close());
  assert.equal(await dialog(page).count(), 0);
  await page.waitForTimeout(100);
  assert.ok(server.calls('/dismissed').length <= server.calls('/displayed').length);
  await done();
});

test("Escape in the page's own fields is the page's", async () => {
  server.page('/field', html(server.origin, { tag: 'data-user="u"', body: '<label>Name <input id="name"></label><button id="b">Go</button>' }));
  server.offer('T', survey('nps'));
  await at('/field');
  await page.locator('#name').focus();
  await trigger(page);
  await dialog(page).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), 'name', 'the focus stays where it was');
  await page.keyboard.press('Escape');
  assert.equal(await dialog(page).count(), 1);
  await page.locator('#b').focus();
  await page.keyboard.press('Escape');
  assert.equal(await dialog(page).count(), 0);
  await done();
});

test('displayed is told when the first question is half visible, not before', async () => {
  server.page('/long', html(server.origin, { tag: 'data-user="u"', body: '<div style="height:2000px"></div><div id="here"></div>' }));
  server.offer('T', { ...survey('nps'), ui: { layout: 'inline' } });
  await at('/long');
  await page.evaluate(() => window.askwhen.trigger('T', {}, '#here'));
  await page.waitForTimeout(300);
  assert.equal(server.calls('/displayed').length, 0);
  await page.evaluate(() => {
    const question = document.querySelector('askwhen-survey').shadowRoot.querySelector('[part=question]').getBoundingClientRect();
    scrollBy(0, question.top - innerHeight + question.height * 0.4);
  });
  await page.waitForTimeout(300);
  assert.equal(server.calls('/displayed').length, 0, 'two fifths are less than half');
  await page.evaluate(() => scrollBy(0, 60));
  await sent('/displayed');
  await done();
});

test('calls made before the script is there are done in their order', async () => {
  server.page('/queued', html(server.origin, {
    head: '<script>window.askwhen = window.askwhen || {queue: []}; askwhen.queue.push(["identify", "u2"]); askwhen.queue.push(["trigger", "T", {plan: "pro"}]);</script>',
    body: '<script>const early = askwhen.queue; setTimeout(() => { askwhen.queue.push(["trigger", "After", {}]); early.push(["trigger", "Early"]); }, 800)</script>',
  }));
  server.offer('T', survey('info'));
  await at('/queued');
  await dialog(page).waitFor();
  assert.equal(server.calls('/triggers/T')[0].path, '/v1/users/u2/triggers/T');
  assert.deepEqual(server.calls('/triggers/T')[0].body.properties, { plan: 'pro' });
  await sent('/triggers/After');
  await sent('/triggers/Early');
  await done();
});

test('without data-key it waits for init; the queue may bring it', async () => {
  server.offer('T', survey('info'));
  await at('/bare');
  const early = page.evaluate(() => window.askwhen.trigger('T'));
  await page.waitForTimeout(100);
  assert.equal(server.calls('/triggers/T').length, 0);
  await page.evaluate((key) => window.askwhen.queue.push(['init', { key, user: 'late' }]), KEY);
  assert.equal((await early).reason, 'offered');
  assert.equal(server.calls('/triggers/T')[0].path, '/v1/users/late/triggers/T');
  await done();
});

test('the module has the same API and finds its server', async () => {
  server.page('/module', `<!doctype html><html lang="en"><title>m</title><h1>m</h1><script type="module">
    import askwhen, { init, trigger } from '${server.other}/sdk/askwhen.mjs';
    init({ key: '${KEY}', user: 'm' });
    window.done = trigger('T');
    window.askwhen = askwhen;
  </script>`);
  server.offer('T', survey('info'));
  page = await fresh();
  await page.goto(server.origin + '/module');
  await dialog(page).waitFor();
  assert.equal((await page.evaluate(() => window.done)).survey.survey_id, 's-T');
  const names = ['close', 'flush', 'identify', 'init', 'queue', 'reset', 'show', 'trigger'];
  assert.deepEqual(await page.evaluate(() => Object.keys(window.askwhen).sort()), names);
  await done();
});

test('under a base path', async () => {
  server.base = '/ask';
  server.page('/based', html(server.origin + '/ask', { tag: 'data-user="u"' }));
  server.offer('T', survey('info'));
  await at('/based');
  await trigger(page);
  await dialog(page).waitFor();
  assert.deepEqual(await page.evaluate(() => performance.getEntriesByType('resource').map((e) => new URL(e.name).pathname).filter((p) => !p.startsWith('/ask/') && p !== '/favicon.ico')), []);
  server.base = '';
  await done();
});

test('an anonymous id is kept, and becomes the user by one alias', async () => {
  server.offer('T', { ...survey('nps'), once: true });
  await at('/anon');
  await trigger(page);
  const anon = server.calls('/triggers/T')[0].path.split('/')[3];
  assert.match(anon, /^anon-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  await page.getByRole('radio', { name: '4', exact: true }).click();
  await page.getByRole('button', { name: 'Send' }).click();
  await page.evaluate(() => window.askwhen.identify('anna'));
  const decision = await trigger(page);
  assert.equal(decision.reason, 'not_offered', 'the alias and the answer were there before the trigger');
  assert.equal(decision.user_id, 'anna');
  assert.deepEqual(server.calls('/aliases').map((entry) => [entry.path, entry.body.alias]), [['/v1/users/anna/aliases', anon]]);
  await page.evaluate(() => window.askwhen.identify('anna'));
  await page.reload();
  await loaded(page);
  await trigger(page);
  assert.equal(server.calls('/triggers/T').at(-1).path.split('/')[3], anon, 'the same browser');
  await page.evaluate(() => window.askwhen.identify('anna'));
  await trigger(page);
  assert.equal(server.calls('/aliases').length, 1);
  await page.evaluate(() => {
    window.askwhen.reset();
    return window.askwhen.trigger('Other');
  });
  const next = server.calls('/triggers/Other')[0].path.split('/')[3];
  assert.match(next, /^anon-/);
  assert.notEqual(next, anon);
  await done();
});

test('a second person on one browser is not joined with the first', async () => {
  await at('/anon');
  await trigger(page, 'A');
  await page.evaluate(() => window.askwhen.identify('anna'));
  await trigger(page, 'A');
  await page.evaluate(() => window.askwhen.identify('ben'));
  await trigger(page, 'A');
  assert.equal(server.calls('/aliases').length, 1);
  assert.deepEqual(server.calls('/triggers/A').map((e) => e.path.split('/')[3].replace(/^anon-.*/, 'anon')), ['anon', 'anna', 'ben']);
  await done();
});

test('a session lasts for the tab, and for 30 minutes without use', async () => {
  await at('/p');
  const session = async () => {
    await trigger(page, 'S');
    return server.calls('/triggers/S').at(-1).body.context.session_id;
  };
  const first = await session();
  await page.reload();
  await loaded(page);
  assert.equal(await session(), first);
  const second = await tab(page.context());
  await second.goto(server.origin + '/p');
  await loaded(second);
  await trigger(second, 'S');
  assert.notEqual(server.calls('/triggers/S').at(-1).body.context.session_id, first);
  const later = (minutes) =>
    page.evaluate((ms) => {
      const now = Date.now;
      Date.now = () => now() + ms;
    }, minutes * 60_000);
  await later(29);
  assert.equal(await session(), first);
  await later(31);
  assert.notEqual(await session(), first);
  await page.evaluate((key) => window.askwhen.init({ key, session: 'my-own' }), KEY);
  assert.equal(await session(), 'my-own');
  await done();
});

test('a decision that is kept back can be shown later; one survey at a time', async () => {
  server.offer('T', survey('nps'));
  await at('/p');
  await page.evaluate((key) => window.askwhen.init({ key, onDecision: (d) => ((window.kept = d), false) }), KEY);
  await trigger(page);
  assert.equal(await dialog(page).count(), 0);
  assert.equal(await page.evaluate(() => window.askwhen.show(window.kept)), true);
  assert.equal(await page.evaluate(() => window.askwhen.show(window.kept)), false);
  assert.equal(await dialog(page).count(), 1);
  await page.evaluate((key) => window.askwhen.init({ key, onDecision: () => true }), KEY);
  await trigger(page);
  assert.equal(await dialog(page).count(), 1);
  await done();
});

test('two triggers at once show one survey', async () => {
  server.offer('T', survey('nps'));
  server.offer('U', survey('nps'));
  await at('/p');
  await page.evaluate(() => Promise.all([window.askwhen.trigger('T'), window.askwhen.trigger('U')]));
  assert.equal(await dialog(page).count(), 1);
  await done();
});

test('single-page apps: a second init, a second script, an unmount', async () => {
  server.page('/spa', html(server.origin, { tag: 'data-user="u"', body: '<div id="view"></div>' }));
  server.offer('T', { ...survey('nps', 'text'), ui: { layout: 'inline' } });
  await at('/spa');
  await page.evaluate(async (key) => {
    window.askwhen.init({ key, container: '#view', onClose: (reason) => (window.reason = reason) });
    window.askwhen.init({ key });
    const again = document.createElement('script');
    again.src = document.querySelector('script[src]').src;
    const api = window.askwhen;
    await new Promise((done) => {
      again.onload = done;
      document.head.append(again);
    });
    window.same = api === window.askwhen;
  }, KEY);
  assert.equal(await page.evaluate(() => window.same), true);
  await trigger(page);
  await sent('/displayed');
  assert.equal(await page.locator('#view askwhen-survey').count(), 1);
  await page.getByRole('radio').nth(3).click();
  await page.getByRole('button', { name: 'Next' }).click();
  await page.evaluate(() => {
    history.pushState({}, '', '/elsewhere');
    document.querySelector('#view').replaceChildren();
  });
  await until('the unmount is noticed', () => page.evaluate(() => window.reason === 'unmounted'));
  assert.equal(server.calls('/dismissed').length, 0);
  await trigger(page);
  await dialog(page).waitFor();
  await done();
});

test('without its container an inline survey is a popover, and onError says so', async () => {
  server.offer('T', { ...survey('nps'), ui: { layout: 'inline' } });
  await at('/p');
  await page.evaluate((key) => window.askwhen.init({ key, container: '#missing', onError: (e) => (window.error = e.message) }), KEY);
  await trigger(page);
  await dialog(page).waitFor();
  assert.match(await page.evaluate(() => window.error), /container/);
  await done();
});

test('nothing that the page or a caller does wrong is thrown', async () => {
  server.offer('T', survey('nps'));
  await at('/p');
  const result = await page.evaluate(async (key) => {
    const errors = [];
    const askwhen = window.askwhen;
    const throws = () => {
      throw new Error('of the page');
    };
    askwhen.init({ key, onDecision: throws, onShow: throws, onAnswer: throws, onClose: throws, onError: (e) => (errors.push(e.message), throws()) });
    askwhen.init();
    askwhen.init({});
    askwhen.init({ key: 'another' });
    await askwhen.show();
    await askwhen.show({ survey: { questions: 1 } });
    await askwhen.show({ user_id: 'u', survey: { offer_id: 'o', questions: [] } });
    await askwhen.show({ user_id: 'u', survey: { offer_id: 'o', questions: [{ question_id: 'q', type: 'hologram', text: '?' }] } });
    await askwhen.show(null, '#nowhere');
    const left = document.querySelectorAll('askwhen-survey').length;
    askwhen.queue.push(['nothing'], [], ['identify']);
    askwhen.queue.push(null, 'trigger', 7);
    askwhen.identify('u');
    await askwhen.trigger();
    const cyclic = {};
    cyclic.self = cyclic;
    const none = await askwhen.trigger('T', cyclic);
    await askwhen.trigger('T');
    askwhen.close();
    askwhen.close();
    await askwhen.flush();
    return { errors, none, left };
  }, KEY);
  assert.equal(result.none, null);
  assert.equal(result.left, 0);
  assert.ok(result.errors.some((e) => /question type hologram/.test(e)));
  assert.ok(result.errors.includes('of the page'));
  await done();
});

test('asked while the page is still being read, it waits for its place', async () => {
  server.page('/reading', html(server.origin, { tag: 'data-user="u"', body: '<script src="/late.js"></script><div id="here"></div>' }));
  server.offer('T', { ...survey('nps'), ui: { layout: 'inline' } });
  page = await fresh();
  let go;
  const late = new Promise((done) => (go = done));
  await page.route('**/late.js', async (route) => {
    await late;
    await route.fulfill({ contentType: 'text/javascript', body: '' });
  });
  await page.goto(server.origin + '/reading', { waitUntil: 'commit' });
  await loaded(page);
  const asked = page.evaluate(() => window.askwhen.trigger('T', {}, '#here'));
  await until('it is answered', () => server.calls('/triggers/T').some((e) => e.status === 200));
  await page.waitForTimeout(100);
  assert.equal(await dialog(page).count(), 0);
  go();
  await asked;
  assert.equal(await page.locator('#here askwhen-survey').count(), 1);
  await done();
});

test('a page that is prepared in advance asks when it is looked at', async () => {
  page = await fresh();
  await page.addInitScript(() => Object.defineProperty(document, 'prerendering', { value: true, configurable: true }));
  await page.goto(server.origin + '/p');
  await loaded(page);
  const asked = trigger(page);
  await page.waitForTimeout(200);
  assert.equal(server.calls('/triggers/T').length, 0);
  await page.evaluate(() => {
    Object.defineProperty(document, 'prerendering', { value: false });
    document.dispatchEvent(new Event('prerenderingchange'));
  });
  assert.equal((await asked).reason, 'not_offered');
  await done();
});

test('what was asked before a reset is shown to nobody', async () => {
  server.offer('T', survey('nps'));
  await at('/p');
  server.fault = { kind: 'slow', ms: 400, path: '/triggers' };
  const asked = trigger(page);
  await until('it is asked', () => server.calls('/triggers/T').length === 1);
  await page.evaluate(() => window.askwhen.reset());
  assert.equal((await asked).reason, 'offered');
  assert.equal(await dialog(page).count(), 0);
  await done();
});

test('an init that lacks something says so on the console, and works when it is made good', async () => {
  server.offer('T', survey('nps'));
  await at('/bare');
  await page.evaluate(() => window.askwhen.init({ user: 'u' }));
  assert.match(page.errors.join(), /askwhen: init needs a key/);
  page.errors.length = 0;
  await page.evaluate((key) => window.askwhen.init({ key, user: 'u' }), KEY);
  await trigger(page);
  await dialog(page).waitFor();
  await done();
});

test('debug shows the last decision and its reason', async () => {
  server.page('/debug', html(server.origin, { tag: 'data-user="u" data-debug' }));
  await at('/debug');
  await trigger(page, 'Nowhere');
  assert.match(await page.locator('askwhen-debug details').textContent(), /Nowhere: not_offered/);
  server.offer('T', survey('nps'));
  await trigger(page);
  assert.match(await page.locator('askwhen-debug details').textContent(), /T: offered.*survey s-T, version 1/);
  await done();
});

test('with an identity signature it goes as a header, kept with what waits', async () => {
  const { createHmac } = await import('node:crypto');
  const guarded = await start({ identitySecret: '4e8aa2130ebafd7bbebcd615a66beec1' });
  const signature = createHmac('sha256', '4e8aa2130ebafd7bbebcd615a66beec1').update('anna').digest('hex');
  guarded.page('/p', html(guarded.other, { tag: `data-user="anna" data-signature="${signature}"` }));
  guarded.offer('T', survey('nps'));
  page = await fresh();
  await page.goto(guarded.origin + '/p');
  await loaded(page);
  assert.equal((await trigger(page)).reason, 'offered');
  await page.getByRole('radio').nth(7).click();
  await page.getByRole('button', { name: 'Send' }).click();
  await until('it is completed', async () => (await guarded.completed()) === 1);
  assert.ok(guarded.log.filter((e) => e.method === 'POST').every((e) => e.headers['x-user-signature'] === signature));
  await done();
  guarded.stop();
});
