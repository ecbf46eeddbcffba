// Networks, servers, storage, tabs and clocks that fail: nothing is lost, sent
// twice, or thrown into the page.
import { after, before, beforeEach, test } from 'node:test';
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { start, KEY } from './server.mjs';
import { LAUNCH, dialog, fresh, html, loaded, shut, survey, tab, trigger, until } from './browser.mjs';

let server;
before(async () => {
  server = await start();
  // The page comes from one origin, askwhen from the other: so askwhen can fail alone.
  server.page('/p', html(server.other, { tag: 'data-user="u"', body: '<button id="b">0</button>' }));
});
after(async () => {
  await shut();
  server.stop();
});
beforeEach(() => server.clear());

async function at(path = '/p', options) {
  const page = await fresh(options);
  await page.goto(server.origin + path);
  await loaded(page);
  return page;
}
const score = async (page, n = 9) => {
  await page.getByRole('radio', { name: n + '', exact: true }).click();
  await page.getByRole('button', { name: 'Send' }).click();
};
const waiting = (page) => page.evaluate(() => Object.keys(localStorage).filter((key) => key.includes(':q:')).length);
const uncaught = (page) => page.errors.filter((e) => /uncaught|unhandled/i.test(e));
/** Completions that the server took. */
const responses = () => server.responses();

test('offline, the tab killed, the browser opened again: exactly one response', async () => {
  const profile = mkdtempSync(join(tmpdir(), 'askwhen-profile-'));
  const launch = () => chromium.launchPersistentContext(profile, LAUNCH);
  server.offer('T', { ...survey('nps', 'text'), once: true });
  const first = await launch();
  let page = await tab(first);
  await page.goto(server.origin + '/p');
  await loaded(page);
  await trigger(page);
  await until('it is displayed', () => server.calls('/displayed').length === 1);
  await first.setOffline(true);
  await page.getByRole('radio', { name: '7', exact: true }).click();
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('textbox').fill('Told without a network');
  await page.getByRole('button', { name: 'Send' }).click();
  assert.equal(await waiting(page), 2);
  // The renderer process is killed, not closed: no event of the page runs any more.
  const crashed = page.waitForEvent('crash');
  page.goto('chrome://crash').catch(() => {});
  await crashed;
  assert.equal(server.calls('/answers').length, 0);
  await first.close();
  const second = await launch();
  page = await tab(second);
  await page.goto(server.origin + '/p');
  await loaded(page);
  await until('it is completed', async () => (await responses()).length === 1);
  assert.deepEqual((await responses())[0].answers, { q1: 7, q2: 'Told without a network' });
  await until('nothing waits', async () => (await waiting(page)) === 0);
  assert.deepEqual(server.calls('/answers').map((e) => e.body.completed), [false, true], 'in order, once each');
  assert.equal(server.offers.size, 1);
  await page.reload();
  await loaded(page);
  await page.waitForTimeout(300);
  assert.equal(server.calls('/answers').length, 2);
  await second.close();
  rmSync(profile, { recursive: true });
});

test('coming online sends at once what waits', async () => {
  server.offer('T', survey('nps'));
  const page = await at();
  await trigger(page);
  await until('it is displayed', () => server.calls('/displayed').length === 1);
  await page.context().setOffline(true);
  await score(page);
  await page.waitForTimeout(500);
  await page.context().setOffline(false);
  await until('it is completed', async () => (await responses()).length === 1, 1500);
  assert.deepEqual(uncaught(page), []);
  await page.context().close();
});

test('the last word gets out as the page goes, and is not counted twice when it comes back', async () => {
  server.offer('T', { ...survey('nps', 'text'), once: true });
  const page = await at();
  await trigger(page);
  await until('it is displayed', () => server.calls('/displayed').length === 1);
  // The first answer hangs, so that the second still waits when the page goes.
  server.fault = { kind: 'slow', ms: 400, path: '/answers' };
  await page.getByRole('radio', { name: '9', exact: true }).click();
  await page.getByRole('button', { name: 'Next' }).click();
  await page.getByRole('textbox').fill('bye');
  await page.getByRole('button', { name: 'Send' }).click();
  await page.goto('about:blank');
  await until('it is completed', async () => (await responses()).length === 1);
  assert.match(server.calls('/answers').at(-1).headers['content-type'], /^text\/plain/);
  server.fault = null;
  await page.goto(server.origin + '/p');
  await loaded(page);
  await until('nothing waits', async () => (await waiting(page)) === 0);
  assert.equal((await responses()).length, 1);
  assert.deepEqual((await responses())[0].answers, { q1: 9, q2: 'bye' });
  await page.context().close();
});

for (const fault of [
  { kind: 'status', status: 500 },
  { kind: 'status', status: 503, after: 1 },
  { kind: 'status', status: 429, after: 1 },
  { kind: 'nonsense' },
  { kind: 'pending' },
  { kind: 'reset' },
  { kind: 'lost' },
  { kind: 'status', status: 500, done: true },
])
  test(`told while the server answers ${JSON.stringify(fault)}: once in the end, in order`, async () => {
    server.offer('T', { ...survey('nps'), once: true });
    const page = await at();
    await trigger(page);
    await until('it is displayed', () => server.calls('/displayed').some((e) => e.status === 200));
    server.fault = fault;
    await score(page, 3);
    await until('it was tried', () => server.calls('/answers').length >= 1);
    await page.waitForTimeout(300);
    assert.ok((await waiting(page)) >= 1, 'it is kept until the server has said that it has it');
    server.fault = null;
    await until('nothing waits', async () => (await waiting(page)) === 0);
    assert.equal((await responses()).length, 1);
    assert.deepEqual((await responses())[0].answers, { q1: 3 });
    assert.deepEqual(uncaught(page), []);
    await page.context().close();
  });

test('Retry-After is kept to, also by what is told meanwhile', async () => {
  server.offer('T', survey('nps', 'text'));
  const page = await at();
  await trigger(page);
  await until('it is displayed', () => server.calls('/displayed').some((e) => e.status === 200));
  server.fault = { kind: 'status', status: 429, after: 2 };
  await page.getByRole('radio', { name: '9', exact: true }).click();
  await page.getByRole('button', { name: 'Next' }).click();
  await until('it was tried', () => server.calls('/answers').length === 1);
  server.fault = null;
  await page.getByRole('textbox').fill('x');
  await page.getByRole('button', { name: 'Send' }).click();
  await until('it is completed', async () => (await responses()).length === 1);
  const [refused, again] = server.calls('/answers');
  assert.ok(again.at - refused.at >= 1900, `tried again after ${again.at - refused.at} ms`);
  await page.context().close();
});

test('what is refused for good is dropped, said, and keeps nothing else back', async () => {
  server.offer('T', survey('nps'));
  const page = await at();
  await page.evaluate((key) => window.askwhen.init({ key, onError: (e) => (window.errors ??= []).push(e.message) }), KEY);
  await trigger(page);
  server.forget();
  await score(page);
  await until('nothing waits', async () => (await waiting(page)) === 0);
  assert.ok((await page.evaluate(() => window.errors)).some((e) => /answers: 404 unknown_offer/.test(e)));
  await page.context().close();
});

for (const fault of [
  { kind: 'status', status: 500 },
  { kind: 'status', status: 429, after: 1 },
  { kind: 'status', status: 401 },
  { kind: 'status', status: 422 },
  { kind: 'nonsense' },
  { kind: 'reset' },
  { kind: 'slow', ms: 3000 },
  { kind: 'never' },
])
  test(`asked while the server answers ${JSON.stringify(fault)}: the page goes on`, async () => {
    server.offer('T', survey('nps'));
    const page = await at();
    await page.evaluate(() => {
      window.long = [];
      new PerformanceObserver((list) => window.long.push(...list.getEntries().map((e) => e.duration))).observe({ type: 'longtask' });
    });
    server.fault = fault;
    const asked = page.evaluate(() => Promise.race([window.askwhen.trigger('T'), new Promise((done) => setTimeout(done, 9000, 'still waiting'))]));
    await page.evaluate(() => (document.querySelector('#b').onclick = (e) => e.target.textContent++));
    for (let i = 0; i < 5; i++) await page.locator('#b').click();
    assert.equal(await page.locator('#b').textContent(), '5');
    const decision = await asked;
    if (fault.kind === 'slow') assert.equal(decision.reason, 'offered');
    else if (fault.kind === 'never') assert.equal(decision, 'still waiting');
    else assert.equal(decision, null);
    const ids = new Set(server.calls('/triggers/T').map((e) => e.body?.event_id));
    assert.equal(ids.size, 1, 'asked again under the same id');
    if ([401, 422].includes(fault.status)) assert.equal(server.calls('/triggers/T').length, 1);
    assert.deepEqual(uncaught(page), []);
    assert.deepEqual(await page.evaluate(() => window.long), []);
    server.fault = null;
    await page.context().close();
  });

test('a trigger that fails first is answered by the next try', async () => {
  server.offer('T', survey('nps'));
  const page = await at();
  server.fault = { kind: 'lost' };
  const asked = trigger(page);
  await until('it was tried', () => server.calls('/triggers/T').length === 1);
  server.fault = null;
  assert.equal((await asked).reason, 'offered');
  assert.equal(server.offers.size, 1, 'one offer for one event id');
  await page.context().close();
});

test('the renderer that cannot be fetched is fetched again next time', async () => {
  server.offer('T', survey('nps'));
  const page = await at();
  await page.route('**/sdk/survey.mjs', (route) => route.abort());
  assert.equal((await trigger(page)).reason, 'offered');
  assert.equal(await dialog(page).count(), 0);
  assert.equal(server.calls('/displayed').length, 0, 'what is not shown is not told as displayed');
  await page.unroute('**/sdk/survey.mjs');
  await trigger(page);
  await dialog(page).waitFor();
  assert.equal(server.offers.size, 1, 'the offer that was not seen is given again');
  assert.deepEqual(uncaught(page), []);
  await page.context().close();
});

for (const [name, shutStorage] of [
  ['throws', () => {
    for (const area of ['localStorage', 'sessionStorage'])
      Object.defineProperty(window, area, { get() { throw new DOMException('denied', 'SecurityError'); } });
  }],
  ['is full', () => {
    Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };
  }],
  ['is missing, with locks and crypto.randomUUID', () => {
    for (const area of ['localStorage', 'sessionStorage']) Object.defineProperty(window, area, { value: undefined });
    Object.defineProperty(navigator, 'locks', { value: undefined });
    Object.defineProperty(crypto, 'randomUUID', { value: undefined });
  }],
])
  test(`storage that ${name} means memory, not an error`, async () => {
    server.page('/anon', html(server.other));
    server.offer('T', { ...survey('nps'), once: true });
    const page = await fresh();
    await page.addInitScript(shutStorage);
    await page.goto(server.origin + '/anon');
    await loaded(page);
    await trigger(page);
    await score(page);
    await until('it is completed', async () => (await responses()).length === 1);
    assert.equal((await trigger(page)).reason, 'not_offered', 'the same anonymous user within the page');
    assert.equal(new Set(server.calls('/triggers/T').map((e) => e.path)).size, 1);
    assert.equal(new Set(server.calls('/triggers/T').map((e) => e.body.context.session_id)).size, 1);
    assert.match(server.calls('/triggers/T')[0].path, /anon-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab]/);
    await page.evaluate(() => window.askwhen.reset());
    assert.deepEqual(page.errors, []);
    await page.context().close();
  });

test('a sandboxed frame, where storage and locks are shut by the browser', async () => {
  server.page('/framed', `<!doctype html><html lang="en"><title>f</title><h1>f</h1><iframe sandbox="allow-scripts" title="frame" width="600" height="600" src="/p"></iframe>`);
  server.offer('T', survey('nps'));
  const page = await fresh();
  await page.goto(server.origin + '/framed');
  const frame = page.frames()[1];
  await frame.waitForFunction(() => window.askwhen?.trigger);
  await frame.evaluate(() => window.askwhen.trigger('T'));
  await frame.getByRole('radio', { name: '5', exact: true }).click();
  await frame.getByRole('button', { name: 'Send' }).click();
  await until('it is completed', async () => (await responses()).length === 1);
  assert.deepEqual(uncaught(page), []);
  await page.context().close();
});

for (const locks of [true, false])
  test(`two tabs do not send twice${locks ? '' : ', without locks'}`, async () => {
    server.offer('T', survey('nps', 'text'));
    const context = (await fresh()).context();
    if (!locks) await context.addInitScript(() => Object.defineProperty(navigator, 'locks', { value: undefined }));
    const pages = [await tab(context), await tab(context)];
    for (const page of pages) {
      await page.goto(server.origin + '/p');
      await loaded(page);
      await trigger(page);
    }
    await until('both are displayed', () => server.calls('/displayed').filter((e) => e.status === 200).length === 2);
    await until('nothing waits', async () => (await waiting(pages[0])) === 0);
    await context.setOffline(true);
    for (const page of pages) {
      await page.getByRole('radio', { name: '8', exact: true }).click();
      await page.getByRole('button', { name: 'Next' }).click();
      await page.getByRole('textbox').fill('from a tab');
      await page.getByRole('button', { name: 'Send' }).click();
    }
    assert.equal(await waiting(pages[1]), 4, 'one queue for both');
    await context.setOffline(false);
    await Promise.all(pages.map((page) => page.evaluate(() => window.askwhen.flush())));
    await until('both are completed', async () => (await responses()).length === 2, 12_000);
    await until('nothing waits', async () => (await waiting(pages[0])) === 0);
    assert.equal(server.calls('/answers').length, 4, 'each entry once');
    await context.close();
  });

test('two tabs that fail one after the other go on for each other', async () => {
  server.offer('T', survey('nps'));
  const context = (await fresh()).context();
  const page = await tab(context);
  await page.goto(server.origin + '/p');
  await loaded(page);
  await trigger(page);
  await until('it is displayed', () => server.calls('/displayed').some((e) => e.status === 200));
  await context.setOffline(true);
  await score(page);
  const second = await tab(context);
  await page.close();
  await context.setOffline(false);
  await second.goto(server.origin + '/p');
  await until('the other tab sends it', async () => (await responses()).length === 1);
  await context.close();
});

for (const days of [-1, 1])
  test(`a clock that is wrong by ${days} day: times fit each other, nothing is stale or lost`, async () => {
    server.offer('T', survey('nps'));
    const page = await fresh();
    await page.addInitScript((ms) => {
      const Real = Date;
      window.Date = class extends Real {
        constructor(...given) {
          if (given.length) super(...given);
          else super(Real.now() + ms);
        }
        static now() {
          return Real.now() + ms;
        }
      };
    }, days * 864e5);
    await page.goto(server.origin + '/p');
    await loaded(page);
    assert.equal((await trigger(page)).reason, 'offered');
    await until('it is displayed', () => server.calls('/displayed').some((e) => e.status === 200));
    server.fault = { kind: 'status', status: 503 };
    await score(page);
    await until('it was tried', () => server.calls('/answers').length === 1);
    server.fault = null;
    await until('it is completed', async () => (await responses()).length === 1);
    for (const { body, at } of [...server.calls('/displayed'), ...server.calls('/answers'), ...server.calls('/triggers/T')]) {
      assert.ok(Math.abs(Date.parse(body.sent_at) - at - days * 864e5) < 5000, 'sent_at is the clock of the device at sending');
      const event = body.occurred_at ?? body.answers[0].answered_at;
      const age = Date.parse(body.sent_at) - Date.parse(event);
      assert.ok(age >= 0 && age < 8000, `the age is right: ${age} ms`);
    }
    await page.context().close();
  });

test('a clock put back between two answers does not change their order', async () => {
  server.offer('T', survey('nps', 'text'));
  const page = await at();
  await trigger(page);
  await until('it is displayed', () => server.calls('/displayed').some((e) => e.status === 200));
  await page.context().setOffline(true);
  await page.getByRole('radio', { name: '8', exact: true }).click();
  await page.getByRole('button', { name: 'Next' }).click();
  await page.evaluate(() => {
    const now = Date.now;
    Date.now = () => now() - 864e5;
  });
  await page.getByRole('textbox').fill('x');
  await page.getByRole('button', { name: 'Send' }).click();
  await page.context().setOffline(false);
  await until('it is completed', async () => (await responses()).length === 1);
  assert.deepEqual(server.calls('/answers').map((e) => e.body.completed), [false, true]);
  await page.context().close();
});

test('the queue is bounded: 100 entries, 7 days; what is no entry is thrown away', async () => {
  const page = await at();
  await page.evaluate((key) => {
    const old = JSON.stringify({ path: '/v1/users/u/offers/old/dismissed', body: {}, at: Date.now() - 8 * 864e5 });
    localStorage.setItem(`askwhen:${key}:q:0000old.a`, old);
    localStorage.setItem(`askwhen:${key}:q:0000bad.a`, '{"half');
    window.askwhen.init({ key, onError: (e) => (window.errors ??= []).push(e.message) });
    window.answer = async (offer_id) => {
      const survey = { offer_id, questions: [{ question_id: 'q', type: 'info', text: 'T' }] };
      await window.askwhen.show({ user_id: 'u', survey });
      document.querySelector('askwhen-survey').shadowRoot.querySelector('.next').click();
      window.askwhen.close();
    };
    return window.answer('first');
  }, KEY);
  await until('nothing waits', async () => (await waiting(page)) === 0);
  assert.ok(!server.log.some((e) => e.path.includes('/old/')));
  await page.context().setOffline(true);
  await page.evaluate(async () => {
    for (let i = 0; i < 70; i++) await window.answer('o' + i);
  });
  assert.equal(await waiting(page), 100);
  const kept = await page.evaluate(() => Object.values(localStorage).map((v) => /o\d+/.exec(v)?.[0]));
  assert.ok(!kept.includes('o0') && kept.includes('o69'), 'the oldest go');
  assert.ok((await page.evaluate(() => window.errors)).some((e) => /queue is full/.test(e)));
  await page.context().close();
});
