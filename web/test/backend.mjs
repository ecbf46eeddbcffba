// askwhen itself behind the tests' server. Each test has users, surveys and triggers of its
// own: their names get the number of the test before they go out, and lose it on the way back.
import assert from 'node:assert/strict';
import { KEY } from './server.mjs';

/** `self` is the tests' server, whose lists it fills with what the program answers. */
export async function backend(self, identitySecret) {
  const { serve } = await import('./program.mjs');
  const program = await serve(identitySecret ? `[[projects]]\nproject = "default"\nidentity_secret = ["${identitySecret}"]\n` : '');
  await program.api('PUT', '/v1/settings', { global_cooldown: '0s', max_per_session: 100_000 });
  let turn = 0;
  let forgotten = false;
  /** Definitions that are on their way; requests wait for them. */
  let defined = Promise.resolve();
  // Signatures are made of the user's own id.
  const prefix = () => (identitySecret ? '' : `t${turn}~`);
  const outer = (name) => (name.startsWith('anon-') ? name : prefix() + name);

  async function forward({ method, path, headers }, sent) {
    await defined;
    const [, , , user, kind, id, ...rest] = path.split('/').map(decodeURIComponent);
    const named = id === undefined ? [] : [kind === 'triggers' || kind === 'surveys' ? outer(id) : forgotten ? 'off_unknown' : id];
    const target = ['', 'v1', 'users', outer(user), kind, ...named, ...rest].map(encodeURIComponent).join('/');
    const given = Object.fromEntries(['content-type', 'x-user-signature', 'idempotency-key'].flatMap((name) => (headers[name] ? [[name, headers[name]]] : [])));
    for (const name of ['x-api-key', 'authorization']) if (headers[name]) given[name] = headers[name].replace(KEY, program.keys.client);
    const body = JSON.stringify({ ...sent, ...(sent.key && { key: sent.key.replace(KEY, program.keys.client) }) });
    const answer = await fetch(program.origin + target, { method, headers: given, body });
    const text = (await answer.text()).replaceAll(`"${prefix()}`, '"');
    const parsed = JSON.parse(text || '{}');
    if (kind === 'triggers' && answer.status === 200) {
      self.decisions.set(parsed.event_id, parsed);
      if (parsed.survey) self.offers.set(parsed.survey.offer_id, { user: outer(user), survey: parsed.survey });
    }
    const after = answer.headers.get('retry-after');
    return { status: answer.status, body: parsed, headers: after ? { 'retry-after': after, 'access-control-expose-headers': 'retry-after' } : {} };
  }

  return {
    forward,
    clear() {
      turn++;
      forgotten = false;
      defined = Promise.resolve();
    },
    stop: () => program.stop(),
    methods: {
      program,
      offer(trigger, { once, dir, ...survey }) {
        const mine = prefix();
        const definition = { name: 'Test', status: 'active', show_on: [{ trigger: mine + trigger }], frequency: { repeat: once ? 'until_completed' : 'every_activation' }, ...(dir === 'rtl' && { locale: 'ar' }), ...survey };
        defined = defined.then(() => program.api('PUT', `/v1/surveys/${encodeURIComponent(`${mine}s-${trigger}`)}`, definition));
        // Whoever waits for it fails; until then it is nobody's.
        defined.catch(() => {});
      },
      async responses() {
        const all = [...self.offers].map(async ([id, { user }]) => {
          const { status, data } = await program.send('GET', `/v1/users/${encodeURIComponent(user)}/offers/${encodeURIComponent(id)}`, undefined, program.keys.server);
          assert.equal(status, 200, JSON.stringify(data));
          return { completed: data.completed, answers: Object.fromEntries(data.answers.map((one) => [one.question_id, one.value])) };
        });
        return (await Promise.all(all)).filter((one) => one.completed);
      },
      forget: () => (forgotten = true),
    },
  };
}
