// A server of the contract's client routes, for tests: strict about bodies,
// keys and values, in memory, with faults that a test switches on. With REAL=1
// it keeps the faults and hands everything else on to askwhen itself.
import { createServer } from 'node:http';
import { createHmac, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fits, follow } from '../vectors/reference.mjs';
import { backend } from './backend.mjs';

export const KEY = 'pk_test_0123456789abcdef';
const dist = new URL('../dist/', import.meta.url);
const KINDS = { js: 'text/javascript', mjs: 'text/javascript', css: 'text/css', html: 'text/html; charset=utf-8' };
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** `identitySecret`: signatures are asked for, as with `[[projects]] identity_secret`. */
export async function start({ identitySecret } = {}) {
  const surveys = new Map();
  const offers = new Map();
  const decisions = new Map();
  const aliases = new Map();
  const links = new Map();
  const pages = new Map();
  const log = [];
  const sockets = new Set();
  const self = { surveys, offers, decisions, aliases, links, log, pages, fault: null, base: '' };
  const real = process.env.REAL && (await backend(self, identitySecret));

  /** What a trigger offers from now on, to everybody who has not completed it. */
  self.offer = (trigger, survey) => surveys.set(trigger, { survey_id: 's-' + trigger, version: 1, name: 'Test', ui: {}, ...survey });
  self.page = (path, html, headers = {}) => pages.set(path, { html, headers });
  self.calls = (ending) => log.filter((entry) => entry.method === 'POST' && entry.path.endsWith(ending));
  /** Completed responses to offers; with askwhen itself, what it says of them. */
  self.responses = () => [...offers.values()].filter((o) => o.completed);
  self.completed = async () => (await self.responses()).length + [...links.values()].filter((o) => o.completed).length;
  /** From now on no offer is known. */
  self.forget = () => offers.clear();
  if (real) Object.assign(self, real.methods);
  self.clear = () => {
    real?.clear();
    for (const kept of [surveys, offers, decisions, aliases, links]) kept.clear();
    log.length = 0;
    self.fault = null;
  };

  const canonical = (user) => aliases.get(user) ?? user;
  const problem = (status, code, detail = code) => ({ status, body: { type: 'about:blank', title: code, status, code, detail, request_id: 'r' } });
  const ok = (body) => ({ status: 200, body });

  function trigger(user, name, sent) {
    const { event_id = randomUUID(), context = {} } = sent;
    if (decisions.has(event_id)) return ok(decisions.get(event_id));
    const template = surveys.get(name);
    const person = canonical(user);
    const mine = [...offers.values()].filter((o) => canonical(o.user) === person && o.trigger === name);
    let offer = mine.find((o) => !o.displayed && context.session_id && o.session === context.session_id);
    const done = template?.once && mine.some((o) => o.completed);
    if (!offer && template && !done) {
      offer = { offer_id: 'o-' + randomUUID(), user, session: context.session_id, trigger: name, survey: template, answers: {}, at: Date.now() };
      offers.set(offer.offer_id, offer);
    }
    const stale = Date.parse(sent.sent_at) - Date.parse(sent.occurred_at) > 600_000;
    const survey = offer && !stale ? { ...offer.survey, offer_id: offer.offer_id, expires_at: new Date(offer.at + 600_000).toISOString() } : null;
    const decision = {
      decision_id: 'd-' + event_id, event_id, user_id: user, trigger: name, decided_at: new Date().toISOString(),
      reason: stale ? 'stale' : survey ? 'offered' : 'not_offered', survey,
    };
    decisions.set(event_id, decision);
    return ok(decision);
  }

  /** Answers to an offer or a link response, merged by question. */
  function answer(response, sent) {
    const { questions } = response.survey;
    for (const [i, given] of sent.answers.entries()) {
      const question = questions.find((q) => q.question_id === given.question_id);
      if (!question || !fits(question, given.value)) return problem(422, 'invalid', `/answers/${i}/value`);
    }
    const changed = sent.answers.filter((a) => JSON.stringify(response.answers[a.question_id]) !== JSON.stringify(a.value));
    if (response.completed) {
      if (changed.length) return problem(409, 'response_completed');
      response.repeats = (response.repeats ?? 0) + 1;
      return ok({ status: 'duplicate', response_id: response.offer_id });
    }
    const merged = { ...response.answers, ...Object.fromEntries(sent.answers.map((a) => [a.question_id, a.value])) };
    if (sent.completed && follow(questions, merged).missing.length) return problem(422, 'missing_answer');
    response.answers = merged;
    response.displayed ??= 'by answer';
    if (sent.completed) response.completed = true;
    return ok({ status: changed.length || sent.completed ? 'accepted' : 'duplicate', response_id: response.offer_id });
  }

  function client(method, path, sent) {
    const [user, kind, id, what] = path.slice('/v1/users/'.length).split('/').map(decodeURIComponent);
    const unknown = (...known) => Object.keys(sent).find((name) => !known.includes(name));
    const refuse = (...known) => (unknown(...known) ? problem(422, 'unknown_field', unknown(...known)) : null);
    if (kind === 'aliases') {
      const wrong = refuse('alias');
      if (wrong) return wrong;
      if (aliases.has(sent.alias) && aliases.get(sent.alias) !== user) return problem(409, 'taken');
      const known = aliases.has(sent.alias);
      aliases.set(sent.alias, user);
      return ok({ status: known ? 'duplicate' : 'accepted' });
    }
    if (kind === 'triggers') return refuse('event_id', 'properties', 'context', 'occurred_at', 'sent_at') ?? trigger(user, id, sent);
    if (kind === 'surveys' && what === 'responses') {
      const wrong = refuse('answers', 'completed', 'sent_at', 'context', 'response_id', 'token');
      if (wrong) return wrong;
      const survey = [...surveys.values()].find((s) => s.survey_id === id && s.link);
      if (!survey) return problem(404, 'not_found');
      if (survey.closed) return problem(409, 'already_completed');
      const known = links.get(sent.response_id) ?? { offer_id: sent.response_id, user, survey, answers: {} };
      const answered = answer(known, sent);
      if (answered.status === 200) links.set(sent.response_id, known);
      return answered;
    }
    const offer = offers.get(id);
    if (!offer || canonical(offer.user) !== canonical(user)) return problem(404, 'unknown_offer', 'no such offer was made to this user');
    if (what === 'answers') return refuse('answers', 'completed', 'sent_at') ?? answer(offer, sent);
    const wrong = refuse('occurred_at', 'sent_at');
    if (wrong) return wrong;
    const duplicate = !!offer[what];
    offer[what] ??= sent.occurred_at;
    return ok({ status: duplicate ? 'duplicate' : 'accepted' });
  }

  function authorised(request, user, sent) {
    const bearer = request.headers.authorization?.replace(/^Bearer /, '');
    const key = bearer ?? request.headers['x-api-key'] ?? sent.key;
    delete sent.key;
    if (key === undefined && 'token' in sent) return null;
    if (key !== KEY) return problem(401, 'unauthorized');
    const wanted = identitySecret && createHmac('sha256', identitySecret).update(user).digest('hex');
    if (wanted && !user.startsWith('anon-') && request.headers['x-user-signature'] !== wanted) return problem(401, 'identity_required');
    return null;
  }

  async function handle(request, response) {
    const url = new URL(request.url, 'http://x');
    const path = url.pathname.slice(self.base.length);
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    const entry = { method: request.method, path, query: url.search, headers: request.headers, at: Date.now(), text };
    // Browsers ask for it by themselves.
    if (url.pathname !== '/favicon.ico') log.push(entry);
    const send = (status, type, body, headers = {}) => {
      entry.status = status;
      response.writeHead(status, { 'content-type': type, 'access-control-allow-origin': '*', ...headers });
      response.end(body);
    };
    if (url.pathname === '/favicon.ico') return send(200, 'image/x-icon', '');
    const page = pages.get(url.pathname);
    if (page && request.method === 'GET') return send(200, KINDS.html, page.html, page.headers);
    if (path.startsWith('/sdk/')) {
      try {
        const name = path.slice(5);
        return send(200, KINDS[name.split('.').pop()] ?? 'text/plain', readFileSync(new URL(name, dist)), { 'cache-control': 'no-cache' });
      } catch {
        return send(404, 'text/plain', 'no such file');
      }
    }
    if (!path.startsWith('/v1/users/')) return send(404, 'text/plain', 'no such path');
    if (request.method === 'OPTIONS')
      return send(204, 'text/plain', '', {
        'access-control-allow-headers': 'authorization, x-api-key, content-type, idempotency-key, x-user-signature',
        'access-control-allow-methods': 'POST',
      });
    const fault = self.fault && (!self.fault.path || path.includes(self.fault.path)) ? self.fault : null;
    if (fault?.kind === 'never') return;
    if (fault?.kind === 'reset') return request.socket.destroy();
    if (fault?.kind === 'slow') await pause(fault.ms ?? 1500);
    let sent;
    try {
      sent = JSON.parse(text || '{}');
    } catch {
      return send(400, 'application/problem+json', JSON.stringify({ code: 'invalid_json' }));
    }
    entry.body = structuredClone(sent);
    const json = ({ status, body }, headers) =>
      send(status, status < 400 ? 'application/json' : 'application/problem+json', JSON.stringify(body), headers);
    if (fault?.kind === 'status') {
      // The worst case: it is done, and the client is not told.
      if (fault.done) await (real ? real.forward(entry, sent) : client(request.method, path, { ...sent, key: undefined }));
      const headers = fault.after ? { 'retry-after': fault.after + '', 'access-control-expose-headers': 'retry-after' } : {};
      return json(problem(fault.status, 'fault'), headers);
    }
    if (fault?.kind === 'nonsense') return send(200, 'text/html', '<html>captive portal</html>');
    if (fault?.kind === 'pending') return json({ status: 202, body: { status: 'pending', event_id: sent.event_id } });
    const user = decodeURIComponent(path.split('/')[3]);
    const barred = real ? null : authorised(request, user, sent);
    if (barred) return json(barred);
    const answer = real ? await real.forward(entry, sent) : client(request.method, path, sent);
    if (fault?.kind === 'lost') return request.socket.destroy();
    json(answer, answer.headers);
  }

  const listen = () =>
    new Promise((done) => {
      const server = createServer((request, response) =>
        handle(request, response).catch((error) => {
          console.error(error);
          response.destroy();
        }),
      );
      server.on('connection', (socket) => {
        sockets.add(socket);
        socket.on('close', () => sockets.delete(socket));
      });
      server.listen(0, '127.0.0.1', () => done(server));
    });
  const [first, second] = [await listen(), await listen()];
  self.origin = `http://127.0.0.1:${first.address().port}`;
  /** The same server as another origin. */
  self.other = `http://127.0.0.1:${second.address().port}`;
  self.stop = () => {
    void real?.stop();
    for (const socket of sockets) socket.destroy();
    first.close();
    second.close();
  };
  return self;
}
