// The routes behind the console, in memory, for tests: sessions, definitions with
// versions and `If-Match`, lists with cursors and filters, jobs, and changes. It
// fills in `{{base}}` and sends the console's policy, as the server does.
import { createServer } from 'node:http';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';

export const ADMIN = 'ak_admin_0123456789abcdef';
export const VIEWER = 'ak_viewer_0123456789abcdef';
export const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; require-trusted-types-for 'script'; trusted-types 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

const dist = new URL('../dist/', import.meta.url);
const KINDS = { js: 'text/javascript', mjs: 'text/javascript', css: 'text/css' };
const id = (prefix) => prefix + randomBytes(8).toString('hex');
const NONE = { considered: 0, offered: 0, displayed: 0, dismissed: 0, answered: 0, completed: 0, not_offered: {} };
/** A moment so many minutes back. */
export const back = (minutes) => new Date(Date.now() - minutes * 60_000).toISOString();

/** What a survey has when it says nothing, as GET shows it. */
const DEFAULTS = {
  status: 'draft', test_users: [], priority: 0, link: false, platforms: [], locales: [], app_version: null, delay: '0s', on_repeat: 'refresh', show_on: [],
  frequency: { repeat: 'once', max_displays: null, cooldown: '0s', global_cooldown: 'respect' }, limits: { max_completed: null },
  holdout: { percent: 0 }, expose: [], ui: {},
};
const whole = (surveyId, { version: _, ...body }) => ({
  survey_id: surveyId, ...DEFAULTS, sampling: { percent: 100, salt: surveyId }, ...body,
});

/** The faults that tests need: what stands in the way of any survey. */
function faultsOf(survey) {
  const faults = [];
  const fault = (pointer, detail, code = 'invalid') => faults.push({ code, pointer, detail });
  if (!survey.name) fault('/name', 'name must have 1 to 1024 bytes');
  if (!['draft', 'test', 'shadow', 'active', 'paused', 'archived'].includes(survey.status)) fault('/status', 'status must be one of draft, test, shadow, active, paused, archived');
  if (!survey.show_on.length && !survey.link) fault('/show_on', 'show_on is required: name at least one trigger, or set link: true', 'missing_field');
  if (survey.activate && !survey.expires_after) fault('/expires_after', 'expires_after is required with activate', 'missing_field');
  if (/^\d+h$/.test(survey.expires_after ?? '') && parseInt(survey.expires_after) > 100) fault('/expires_after', 'expires_after must be at most 100h');
  if (!survey.questions?.length) fault('/questions', 'questions is required', 'missing_field');
  for (const [i, question] of (survey.questions ?? []).entries()) if (!question.text) fault(`/questions/${i}/text`, 'text is required', 'missing_field');
  return faults;
}

export async function start({ base = '' } = {}) {
  const self = { base, log: [], sessions: new Map(), surveys: new Map(), endpoints: new Map(), triggers: [], deliveries: [], causes: [], keys: [], jobs: [], config: {}, users: new Map(), timelines: new Map(), results: new Map(), stats: new Map(), decisions: [], fault: null, text: null, settings: { global_cooldown: '7d', max_per_session: 1, offer_ttl: '10m', allowed_lateness: '100h' }, settingsVersion: 1, slow: 0, streams: new Set(), once: new Set(), withoutChanges: false };
  const sockets = new Set();

  const problem = (status, code, detail = code, errors = []) => ({ status, body: { type: `urn:askwhen:problem:${code}`, title: code, status, code, detail, request_id: 'req_' + code, ...(errors.length && { errors }) } });
  const ok = (body, headers = {}, status = 200) => ({ status, body, headers });
  const missing = () => problem(404, 'not_found', 'there is no such path');

  /** Tells every open console which lists have moved. */
  self.moved = (...lists) => {
    for (const stream of self.streams) stream.write(`event: changes\ndata: ${JSON.stringify({ lists })}\n\n`);
  };
  self.put = (survey, actor = 'anna') => {
    const versions = self.surveys.get(survey.survey_id) ?? [];
    versions.push({ version: versions.length + 1, changed_at: new Date().toISOString(), actor, definition: whole(survey.survey_id, survey) });
    self.surveys.set(survey.survey_id, versions);
  };
  self.survey = (surveyId) => self.surveys.get(surveyId)?.at(-1).definition;
  const shown = (versions) => ({ ...versions.at(-1).definition, version: versions.at(-1).version });

  function putSurvey(surveyId, body, query, headers, actor) {
    const survey = whole(surveyId, Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null)));
    const faults = faultsOf(survey);
    if (faults.length) return problem(422, 'invalid', faults[0].detail, faults);
    const versions = self.surveys.get(surveyId);
    const current = versions?.at(-1).definition;
    const changed = JSON.stringify(current) !== JSON.stringify(survey);
    if (query.get('dry_run') === 'true')
      return ok({ valid: true, created: !current, changed, version: versions?.length ?? null, current: current ?? null, body: survey,
        ...(self.openWindows !== undefined && { open_windows: self.openWindows }),
        warnings: survey.show_on.filter(({ trigger }) => !self.triggers.some((t) => t.trigger_id === trigger)).map(({ trigger }) => `the trigger ${trigger} has not been seen yet`) });
    if (headers['if-none-match'] === '*' && current) return problem(412, 'precondition_failed', 'there is one of this id already');
    if (headers['if-match'] && headers['if-match'] !== `"${versions?.length}"`) return problem(412, 'precondition_failed', 'another version is in force');
    if (changed) self.put(survey, actor);
    self.moved('surveys');
    return ok({ version: self.surveys.get(surveyId).length, changed }, {}, current ? 200 : 201);
  }

  function putEndpoint(endpointId, body, headers) {
    if (!/^https?:\/\/\S+$/.test(body.url ?? '')) return problem(422, 'invalid', 'url must be an address', [{ code: 'invalid', pointer: '/url', detail: 'url must be an address' }]);
    const old = self.endpoints.get(endpointId);
    if (headers['if-none-match'] === '*' && old) return problem(412, 'precondition_failed', 'there is one of this id already');
    if (headers['if-match'] && headers['if-match'] !== `"${old?.version}"`) return problem(412, 'precondition_failed', 'another version is in force');
    const { secret, ...rest } = body;
    self.endpoints.set(endpointId, {
      profile: 'standard', enabled: true, events: ['response.*'], surveys: ['*'], rate_limit: null, concurrency: 10, headers: {},
      ...rest, endpoint_id: endpointId, version: (old?.version ?? 0) + 1, state: 'healthy', state_reason: null, state_since: new Date().toISOString(),
    });
    return ok({ version: (old?.version ?? 0) + 1, changed: true, ...(!old && !secret && { secret: 'whsec_' + randomBytes(24).toString('base64') }) }, {}, old ? 200 : 201);
  }

  /** One page of a list, newest first; the cursor is where the next begins. */
  function page(name, rows, query) {
    const from = Number(query.get('cursor') ?? 0);
    const limit = Number(query.get('limit') ?? 50);
    return ok({ [name]: rows.slice(from, from + limit), next_cursor: from + limit < rows.length ? String(from + limit) : null });
  }
  const matches = (row, filter) =>
    Object.entries(filter).every(([name, value]) =>
      name === 'since' ? row.created_at >= value : name === 'until' ? row.created_at < value : String(row[name] ?? '') === value);
  const matching = (filter) => self.deliveries.filter((row) => matches(row, filter));

  function job(body) {
    const rows = body.kind === 'resend' ? matching(body.filter ?? {}) : self.deliveries.filter((row) => row.endpoint_id === body.endpoint_id && row.status === 'dead');
    if (body.dry_run) return ok({ count: rows.length });
    const made = { job_id: id('job_'), kind: body.kind, state: 'running', done: 0, total: rows.length, started_at: new Date().toISOString(), eta: null, body };
    if (body.kind === 'backtest') Object.assign(made, { state: 'done', done: 100, total: 100, result: self.report });
    self.jobs.unshift(made);
    return ok({ job_id: made.job_id }, {}, 202);
  }
  /** Moves every running job forward; a test says when. */
  self.work = (share) => {
    for (const one of self.jobs) if (one.state === 'running') {
      one.done = Math.min(one.total, Math.ceil(one.total * share));
      if (one.done === one.total) one.state = 'done';
    }
    self.moved('jobs');
  };

  /** The route's answer, for whoever may ask. */
  function answer(method, parts, query, body, headers, session) {
    const [first, second, third] = parts;
    const read = method === 'GET';
    if (!read && session.kind !== 'admin') return problem(403, 'forbidden', 'this needs a key of kind admin');
    switch (first) {
      case 'triggers':
        if (read) return page('triggers', self.triggers, query);
        if (method === 'DELETE') {
          self.triggers = self.triggers.filter((one) => one.trigger_id !== second);
          return ok({});
        }
        if (self.triggers.some((one) => one.trigger_id === body.trigger_id)) return problem(409, 'taken', 'there is a trigger of this id');
        self.triggers.unshift({ trigger_id: body.trigger_id ?? body.name, name: body.name, kind: body.kind ?? 'custom', first_seen_at: null });
        return ok(self.triggers[0], {}, 201);
      case 'surveys': {
        if (!second) return page('surveys', [...self.surveys.values()].map(shown), query);
        const versions = self.surveys.get(second);
        if (third === 'stats') return ok(self.stats.get(second) ?? NONE);
        if (third === 'results') return ok(self.results.get(second) ?? { survey_id: second, responses: 0, completed: 0, completion_rate: null, median_duration_ms: null, questions: [], series: [] });
        if (third?.startsWith('responses.')) return { status: 200, text: 'response_id,q1\r\nr1,9\r\n', type: 'text/csv' };
        if (third === 'versions') return versions ? ok({ versions: [...versions].reverse() }) : missing();
        if (method === 'PUT') return putSurvey(second, body, query, headers, session.name);
        if (!versions) return problem(404, 'not_found', 'there is no such definition');
        if (method === 'DELETE') {
          self.put({ ...versions.at(-1).definition, status: 'archived' }, session.name);
          return ok({ version: versions.length, changed: true });
        }
        return ok(shown(versions), { etag: `"${versions.length}"` });
      }
      case 'endpoints': {
        if (!second) return page('endpoints', [...self.endpoints.values()], query);
        const endpoint = self.endpoints.get(second);
        if (method === 'PUT') return putEndpoint(second, body, headers);
        if (!endpoint) return problem(404, 'not_found', 'there is no such endpoint');
        if (third === 'test') return ok({ delivery_id: 'dlv_test', http_status: 200, outcome: 'delivered' });
        if (third === 'enable') return ok(Object.assign(endpoint, { state: 'healthy', state_reason: null }));
        if (third === 'rotate-secret') return ok({ secret: 'whsec_' + randomBytes(24).toString('base64') });
        if (method === 'DELETE') return ok(self.endpoints.delete(second));
        return ok(endpoint, { etag: `"${endpoint.version}"` });
      }
      case 'deliveries': {
        if (!second) return page('deliveries', matching(Object.fromEntries([...query].filter(([name]) => !['limit', 'cursor'].includes(name)))), query);
        if (second === 'causes') return ok({ causes: self.causes });
        const delivery = self.deliveries.find((row) => row.delivery_id === second);
        if (!delivery) return problem(404, 'not_found', 'there is no such delivery');
        if (third === 'resend') {
          const again = { ...delivery, delivery_id: id('dlv_'), status: 'pending', attempt_count: 0, attempts: [], created_at: new Date().toISOString() };
          self.deliveries.unshift(again);
          self.moved('deliveries');
          return ok({ delivery_id: again.delivery_id }, {}, 202);
        }
        return ok(delivery);
      }
      case 'decisions': return page('decisions', self.decisions, query);
      case 'users': {
        const user = self.users.get(second) ?? { user: { user_id: second, known: false, attributes: {}, windows: [], offers: [], counters: {}, surveys: [] }, decision: null };
        if (third === 'explain') return ok({ user_id: second, at: query.get('at') ?? new Date().toISOString(), ...user, decision: query.get('trigger') ? user.decision : null });
        if (third === 'timeline') return page('items', self.timelines.get(second) ?? [], query);
        if (method === 'DELETE') return ok({ status: 'accepted' }, {}, 202);
        return ok(user.user);
      }
      case 'jobs': {
        if (!second) return read ? ok({ jobs: self.jobs }) : job(body);
        const one = self.jobs.find(({ job_id }) => job_id === second);
        if (!one) return missing();
        if (method === 'DELETE') one.state = 'cancelled';
        return ok(one);
      }
      case 'keys': {
        if (read) return ok({ keys: self.keys });
        if (method === 'DELETE') return ok((self.keys = self.keys.filter((key) => key.key_id !== second)));
        const key = `ak_${body.kind}_${randomBytes(16).toString('hex')}`;
        const made = { key_id: id('key_'), name: body.name, kind: body.kind, prefix: key.slice(0, 14), created_at: new Date().toISOString(), last_used_at: null, source: 'runtime' };
        self.keys.push(made);
        return ok({ ...made, key }, {}, 201);
      }
      case 'settings': {
        if (read) return ok(self.settings, { etag: `"${self.settingsVersion}"` });
        const faults = ['global_cooldown', 'offer_ttl'].filter((name) => name in body && !/^(\d+[dhms])+$/.test(body[name]))
          .map((name) => ({ code: 'bad_time', pointer: '/' + name, detail: `${name} must be a duration such as 30s` }));
        if (faults.length) return problem(422, 'bad_time', faults[0].detail, faults);
        const changed = JSON.stringify(body) !== JSON.stringify(self.settings);
        if (query.get('dry_run') === 'true') return ok({ valid: true, created: false, changed, version: self.settingsVersion, current: self.settings, body, warnings: [] });
        if (headers['if-match'] && headers['if-match'] !== `"${self.settingsVersion}"`) return problem(412, 'precondition_failed', 'another version is in force');
        self.settings = body;
        self.settingsVersion++;
        return ok({ version: self.settingsVersion, changed });
      }
      case 'config': return ok(self.config);
      case 'snapshots': return ok({ partitions: 8 });
      default: return missing();
    }
  }

  function sessionRoute(method, body, headers, token) {
    const cookie = (value) => ({ 'set-cookie': `askwhen_session=${value}; Path=${base || '/'}; HttpOnly; SameSite=Strict` });
    if (method === 'DELETE') {
      self.sessions.delete(token);
      return ok({}, cookie('; Max-Age=0'));
    }
    if (method === 'GET') return self.sessions.has(token) ? ok(self.sessions.get(token)) : problem(401, 'unauthorized', 'nobody is signed in');
    const kind = body.key === ADMIN || self.once.delete(body.once) ? 'admin' : body.key === VIEWER ? 'viewer' : null;
    if (!kind) return problem(401, 'unauthorized', 'a known key is needed');
    const made = id('s');
    const session = { name: kind === 'admin' ? 'anna' : 'vera', kind, project: 'default', expires_at: back(-720) };
    self.sessions.set(made, session);
    return ok(session, cookie(made));
  }

  function file(path) {
    const name = path.slice((base + '/console/').length);
    const [, kind] = /^(?:console\.(js|css)|survey\.(?:mjs))$/.exec(name) ? [0, name.split('.').pop()] : [];
    const text = readFileSync(new URL(kind ? name : 'index.html', dist), 'utf8');
    return { status: 200, text: kind ? text : text.replaceAll('{{base}}', base), type: KINDS[kind] ?? 'text/html; charset=utf-8', headers: { 'content-security-policy': POLICY } };
  }

  const server = createServer(async (request, response) => {
    const url = new URL(request.url, 'http://localhost');
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const sent = Buffer.concat(chunks).toString();
    self.log.push({ method: request.method, path: url.pathname, query: url.search, body: sent, host: request.headers.host });
    const token = /askwhen_session=(\w+)/.exec(request.headers.cookie ?? '')?.[1];
    const session = request.headers['x-askwhen-console'] === '1' ? self.sessions.get(token) : undefined;
    const path = url.pathname.startsWith(base) ? url.pathname.slice(base.length) : '';
    let out;
    if (self.fault && path.startsWith('/v1') && (out = self.fault(request.method, path, url.searchParams))) {
      if (out === 'drop') return response.destroy();
    } else if (path === '/') out = { status: 303, text: '', headers: { location: base + '/console/' } };
    else if (path === '/console/session') out = sessionRoute(request.method, sent ? JSON.parse(sent) : {}, request.headers, token);
    else if (path.startsWith('/console')) out = file(url.pathname);
    else if (path === '/readyz') out = ok({ ready: true, reasons: [], partitions: 8, owned: { engine: [0, 1, 2, 3, 4, 5, 6, 7] }, version: '0.1.0' });
    else if (path === '/metrics') out = { status: 200, text: self.metrics ?? '', type: 'text/plain' };
    else if (path.startsWith('/v1/') && !session) out = problem(401, 'unauthorized', 'a known key is needed');
    else if (path === '/v1/changes' && !self.withoutChanges) {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(': here\n\n');
      self.streams.add(response);
      return response.on('close', () => self.streams.delete(response));
    } else if (path.startsWith('/v1/')) {
      if (self.slow) await new Promise((done) => setTimeout(done, self.slow));
      out = answer(request.method, path.slice(4).split('/').map(decodeURIComponent), url.searchParams, sent ? JSON.parse(sent) : {}, request.headers, session);
    } else out = missing();
    const whole = out.text ?? JSON.stringify(out.body);
    const text = self.text?.(whole) ?? whole;
    response.writeHead(out.status, { 'content-type': out.type ?? (out.status >= 400 ? 'application/problem+json' : 'application/json'), 'cache-control': 'no-store', ...out.headers });
    response.end(text);
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  self.origin = `http://127.0.0.1:${server.address().port}`;
  self.console = self.origin + base + '/console';
  self.stop = () => {
    server.close();
    sockets.forEach((socket) => socket.destroy());
  };
  return self;
}
