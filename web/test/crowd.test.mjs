// A thousand clients at once against askwhen itself, each with the widget's own core, queue and
// identity; the network loses some of what they ask and some of what they are told. In the end
// each has answered exactly once. CLIENTS names another number.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { build } from 'esbuild';
import { random } from '../console/test/generate.mjs';
import { until } from './browser.mjs';
import { atOnce, receiver, serve } from './program.mjs';

const CLIENTS = Number(process.env.CLIENTS ?? 1000);
const LOST = 0.05;
const ARRIVAL_MS = 5;
const { outputFiles: [core] } = await build({ entryPoints: [new URL('../src/core.ts', import.meta.url).pathname], bundle: true, format: 'iife', globalName: 'core', write: false });
/** What a page has; each client gets its own. */
const GLOBALS = ['document', 'navigator', 'localStorage', 'sessionStorage', 'addEventListener', 'fetch'];
const make = new Function(...GLOBALS, core.text + '\nreturn core.create;');

/** Storage as browsers have it: its entries are its own members. */
function storage() {
  const entries = {};
  const methods = { getItem: (name) => entries[name] ?? null, setItem: (name, value) => void (entries[name] = String(value)), removeItem: (name) => void delete entries[name] };
  Object.entries(methods).forEach(([name, value]) => Object.defineProperty(entries, name, { value }));
  return entries;
}

let server, hooks;
before(async () => {
  server = await serve();
  hooks = await receiver();
  await server.api('PUT', '/v1/settings', { global_cooldown: '0s' });
  await server.api('PUT', '/v1/endpoints/crm', { url: hooks.url, events: ['response.completed'], concurrency: 50 });
  await server.api('PUT', '/v1/surveys/crowd', {
    name: 'Crowd', status: 'active', show_on: [{ trigger: 'Home' }], frequency: { repeat: 'until_completed' },
    questions: [{ question_id: 'q1', type: 'nps', text: 'How likely?' }, { question_id: 'q2', type: 'text', text: 'Why?' }],
  });
});
after(async () => {
  hooks?.stop();
  await server?.stop();
});

test(`${CLIENTS} clients on a network that loses one in ten: each has answered exactly once`, { timeout: 240_000 }, async () => {
  let [sent, lost] = [0, 0];
  const local = [];
  const errors = [];
  const times = [];
  async function client(n) {
    const next = random(n + 1);
    async function fetchOrLose(url, options) {
      sent++;
      if (next() < LOST) {
        lost++;
        throw new TypeError('lost on the way there');
      }
      const answer = await fetch(url, options);
      if (next() >= LOST) return answer;
      lost++;
      await answer.text();
      throw new TypeError('lost on the way back');
    }
    const document = { readyState: 'complete', hidden: false, addEventListener() {}, querySelector: () => null };
    const answers = [{ question_id: 'q1', value: n % 11 }, { question_id: 'q2', value: `of client ${n}` }];
    let shown = 0;
    /** In the renderer's place: a user who answers at once. */
    const renderer = {
      debug() {},
      mount(survey, mount) {
        shown++;
        mount.displayed();
        mount.answered(answers.slice(0, 1), false);
        mount.answered(answers, true);
        setTimeout(() => mount.closed('completed'));
        return { host: { isConnected: true }, close() {} };
      },
    };
    local[n] = storage();
    const askwhen = make(document, { language: 'de-AT', sendBeacon: () => true }, local[n], storage(), () => {}, fetchOrLose)(async () => renderer, server.origin);
    askwhen.init({ key: server.keys.client, ...(n % 2 && { user: `client-${n}` }), onError: (error) => errors.push(error.message) });
    const begun = performance.now();
    let decision = null;
    // A trigger is given up after four tries; a user who goes on comes by the next.
    for (let view = 0; view < 5 && !decision; view++) decision = await askwhen.trigger('Home', { n, view });
    times.push(performance.now() - begun);
    assert.equal(decision?.reason, 'offered', `client ${n}`);
    assert.equal(shown, 1);
    await until(`client ${n} has been told that all is kept`, async () => {
      await askwhen.flush();
      return !Object.keys(local[n]).some((name) => name.includes(':q:')) || new Promise((over) => setTimeout(over, 200));
    }, 120_000);
    await askwhen.flush();
    return decision;
  }
  const begun = Date.now();
  const decisions = await Promise.all(Array.from({ length: CLIENTS }, async (_, n) => {
    await new Promise((over) => setTimeout(over, n * ARRIVAL_MS));
    return client(n);
  }));
  times.sort((a, b) => a - b);
  console.log(`# ${CLIENTS} clients in ${Math.round((Date.now() - begun) / 1000)} s: ${sent} requests, ${lost} lost; decisions after ${Math.round(times[CLIENTS >> 1])} ms (median), ${Math.round(times.at(-1))} ms (the last)`);
  const results = () => server.api('GET', '/v1/surveys/crowd/results');
  await until('the results have them', async () => (await results()).completed >= CLIENTS, 30_000);
  const { responses, completed, questions } = await results();
  assert.deepEqual([responses, completed, questions[0].answered, questions[1].answered], [CLIENTS, CLIENTS, CLIENTS, CLIENTS]);
  const answered = new Map();
  await atOnce(8, decisions.map((decision) => async () => {
    const offer = await server.api('GET', `/v1/users/${encodeURIComponent(decision.user_id)}/offers/${decision.survey.offer_id}`);
    answered.set(decision.user_id, offer.answers.map((one) => one.value));
    assert.ok(offer.completed && offer.displayed_at);
  }));
  assert.equal(answered.size, CLIENTS, 'nobody is somebody else');
  for (const [n, { user_id }] of decisions.entries()) assert.deepEqual(answered.get(user_id), [n % 11, `of client ${n}`]);
  // Each message reaches the receiver; one whose answer came too late may come again, and says so.
  const told = () => new Map(hooks.got.map((one) => [one.id, one]));
  await until('the receiver has them', () => told().size >= CLIENTS, 60_000);
  assert.deepEqual([told().size, new Set([...told().values()].map((one) => JSON.parse(one.body).data.user_id)).size], [CLIENTS, CLIENTS]);
  assert.equal(new Set(hooks.got.map((one) => `${one.id} ${one.headers['webhook-attempt']}`)).size, hooks.got.length, 'as another attempt');
  console.log(`# ${hooks.got.length} webhooks for ${CLIENTS} messages`);
  // What was lost is said, and nothing else.
  assert.deepEqual(errors.filter((message) => !message.endsWith('no answer')), []);
});
