// A server with something on every page, for pictures and tests of looks.
import { back } from './server.mjs';

export const SLEEP = {
  survey_id: 'sleep-quality', name: 'Sleep quality', status: 'active', priority: 50,
  activate: { event: 'ended_sleep', where: [{ property: 'duration_min', op: 'gte', value: 180 }] }, expires_after: '2h',
  show_on: [{ trigger: 'MainActivity' }], targeting: { all: [{ attribute: 'plan', op: 'in', value: ['pro', 'trial'] }, { not: { survey: 'nps', did: 'completed', within: '30d' } }] },
  frequency: { repeat: 'until_completed', max_displays: 3, cooldown: '14d', global_cooldown: 'respect' },
  questions: [
    { question_id: 'q1', type: 'rating_star', text: 'How did you sleep?', required: true, next: [{ when: { op: 'lte', value: 2 }, goto: 'q2' }, { goto: 'end' }] },
    { question_id: 'q2', type: 'multi_choice', text: 'What woke you?', required: true, options: ['noise', { value: 'light', text: 'The light' }], other: { text: 'Something else' } },
    { question_id: 'q3', type: 'text', text: 'Anything else?', required: false },
  ],
  translations: { de: { questions: { q1: { text: 'Wie hast du geschlafen?' } } } },
};

const NPS = {
  survey_id: 'nps', name: 'How likely to recommend', status: 'paused', show_on: [{ trigger: 'Home' }], tags: ['nps', 'relational'],
  questions: [{ question_id: 'q1', type: 'nps', text: 'How likely are you to recommend us?', required: true }],
};

function delivery(n) {
  const status = ['delivered', 'delivered', 'waiting', 'dead', 'delivered', 'cancelled'][n % 6];
  const bad = status === 'waiting' || status === 'dead';
  return {
    delivery_id: `dlv_${String(n).padStart(8, '0')}aaaabbbb`, message_id: `msg_${n}`, endpoint_id: n % 3 ? 'crm' : 'warehouse', type: n % 2 ? 'response.completed' : 'response.answered',
    survey_id: n % 4 ? 'sleep-quality' : 'nps', user_id: `user_${n % 40}`, status, attempt_count: bad ? 4 : status === 'cancelled' ? 0 : 1, next_attempt_at: status === 'waiting' ? back(-5) : null,
    reason: status === 'dead' ? 'attempts_exhausted' : status === 'cancelled' ? 'endpoint_disabled' : null, created_at: back(3 + n * 7),
    outcome: bad ? 'bad_status' : 'delivered', http_status: bad ? 503 : 200, cause: bad ? 'c1' : null,
    body: JSON.stringify({ type: 'response.completed', timestamp: back(3 + n * 7), data: { survey_id: 'sleep-quality', user_id: `user_${n % 40}`, answers: [{ question_id: 'q1', value: 4 }] } }),
    headers: { 'content-type': 'application/json', 'user-agent': 'askwhen/0.1.0', 'webhook-id': `msg_${n}`, authorization: '(sealed)' },
    attempts: Array.from({ length: bad ? 4 : status === 'cancelled' ? 0 : 1 }, (_, i) => ({
      attempt: i + 1, started_at: back(3 + n * 7 - i), duration_ms: 87, http_status: bad ? 503 : 200, outcome: bad ? 'bad_status' : 'delivered', ...(bad && { response: 'upstream is down' }),
      headers: { 'webhook-attempt': String(i + 1), 'webhook-timestamp': String(1_790_000_000 + 60 * i), 'webhook-signature': `v1,${'c2lnbmF0dXJl'}${i}` }, body_sha256: 'f00d', same_body: !bad || i > 0,
    })),
  };
}

const STATS = { considered: 5120, offered: 1893, displayed: 1710, dismissed: 402, answered: 911, completed: 874, not_offered: { global_cooldown: 1480, not_activated: 1122, targeting_failed: 403, max_displays: 222 } };

const REPORT = {
  from: back(10_080), to: back(0), records: 18_220, seconds: 1.4, assumed: { displayed: true, answered: 0, alone: false },
  versions: [{
    name: 'sleep-quality',
    surveys: [{ survey_id: 'sleep-quality', considered: 4200, offered: 1200, not_offered: { global_cooldown: 2000, expired: 1000 }, offers: 1100, displayed: 1100, dismissed: 0, answered: 0, completed: 0, users_considered: 900, users_reached: 610, per_day: Object.fromEntries(Array.from({ length: 7 }, (_, i) => [back(1440 * (7 - i)).slice(0, 10), { offers: 120 + i * 13, users: 80 + i * 11, new_users: 40 }])) }],
    others: [{ survey_id: 'nps', offers_without: 300, offers_with: 240, users_without: 290, users_with: 235, lost: 60, gained: 0, lost_by: { preempted: 60 }, users_in_both: 120 }],
  }],
};

/** Metrics as the server writes them, with a fault to show where `bad`. */
const metrics = (bad) => [
  ...Array.from({ length: 8 }, (_, n) => `askwhen_engine_lag_records{partition="${n}"} ${bad && n === 3 ? 812 : 0}\naskwhen_engine_lag_seconds{partition="${n}"} ${bad && n === 3 ? 42 : 0}`),
  `askwhen_disk_free_bytes ${bad ? 5e8 : 4e10}`, 'askwhen_memory_bytes{part="bound"} 6442450944', 'askwhen_memory_bytes{part="resident"} 82235392', 'askwhen_memory_bytes{part="stores"} 8653710', 'askwhen_delivery_waiting{class="retry"} 12', 'askwhen_delivery_inflight 2',
  ...['events', 'decisions', 'responses', 'deliveries'].map((topic, i) => `askwhen_log_bytes{topic="${topic}"} ${(i + 1) * 1_422_000}`),
  `askwhen_store_snapshot_age_seconds ${bad ? 9000 : 240}`, 'askwhen_store_snapshot_seconds_count 14', `askwhen_store_snapshot_failures_total ${bad ? 1 : 0}`, `askwhen_engine_rejects_total{kind="invalid_json"} ${bad ? 3 : 0}`, '',
].join('\n');

function person() {
  const user = {
    user_id: 'user_7', known: true, attributes: { plan: 'pro', country: 'DE', first_name: 'Ann' },
    windows: [{ survey_id: 'sleep-quality', opens_at: back(30), expires_at: back(-90), activation: { event_name: 'ended_sleep' } }],
    offers: [{ offer_id: 'off_1', survey_id: 'nps', version: 1, trigger: 'Home', offered_at: back(4000), displayed_at: back(4000), dismissed_at: null, answered: true, completed: true }],
    counters: { last_display_at: back(4000) }, aliases: [{ alias: 'anon-5d0c', since: back(500) }],
    surveys: [{ survey_id: 'nps', eligible: false, gate: 'not_active', until: null }, { survey_id: 'sleep-quality', eligible: false, gate: 'global_cooldown', until: back(-6000) }],
  };
  const decision = {
    decision_id: 'dec_1', user_id: 'user_7', trigger: 'MainActivity', decided_at: back(20), reason: 'global_cooldown', survey: null,
    evaluations: [{ survey_id: 'sleep-quality', pass: false, gate: 'global_cooldown', actual: back(4000), until: back(-6000) }],
  };
  return { user, decision };
}

const TIMELINE = [
  { at: back(19), kind: 'delivery', delivery_id: 'dlv_00000001aaaabbbb', endpoint_id: 'crm', type: 'response.completed', status: 'delivered' },
  { at: back(20), kind: 'decision', trigger: 'MainActivity', reason: 'global_cooldown', survey: null },
  { at: back(30), kind: 'event', event_name: 'ended_sleep', properties: { duration_min: 430 } },
  { at: back(1000), kind: 'dismissed', offer_id: 'off_2' },
  { at: back(1001), kind: 'decision', trigger: 'MainActivity', reason: 'offered', survey: { survey_id: 'sleep-quality', offer_id: 'off_2' } },
  { at: back(3999), kind: 'answers', offer_id: 'off_1', answers: [{ question_id: 'q1', value: 9 }], completed: true },
  { at: back(4000), kind: 'displayed', offer_id: 'off_1' },
  { at: back(4100), kind: 'attributes', attributes: { plan: 'pro', country: 'DE', first_name: 'Ann' } },
];

const RESULTS = {
  survey_id: 'sleep-quality', responses: 911, completed: 874, completion_rate: 0.959, median_duration_ms: 12_400,
  questions: [
    { question_id: 'q1', type: 'nps', text: 'How likely are you to recommend us?', answered: 900, skipped: 11, distribution: Array.from({ length: 11 }, (_, n) => ({ value: n, text: String(n), count: [4, 3, 8, 11, 20, 44, 60, 120, 210, 220, 200][n] })), mean: 7.9, nps: { score: 30, promoters: 420, passives: 330, detractors: 150, margin: 4.8 } },
    { question_id: 'q2', type: 'multi_choice', text: 'What woke you?', answered: 211, skipped: 0, distribution: [{ value: 'noise', text: 'noise', count: 133 }, { value: 'light', text: 'The light', count: 71 }] },
    { question_id: 'q3', type: 'text', text: 'Anything else?', answered: 3, skipped: 871, distribution: [], texts: ['Slept like a stone.', 'The app woke me up twice, which is ironic.', 'لا شيء'].map((text) => ({ text })) },
  ],
  series: Array.from({ length: 14 }, (_, i) => ({ day: back(1440 * (14 - i)).slice(0, 10), responses: 40 + ((i * 37) % 50) })),
};

const CONFIG = {
  roles: ['bridge', 'engine', 'delivery', 'console'], data_dir: '/var/lib/askwhen', log: { kind: 'embedded' },
  snapshots: { every: '10m' }, http: { listen: '0.0.0.0:8080', base_path: '', cors_origins: ['https://shop.example'] }, retention: { events: '30d', responses: '365d' },
  projects: [{ name: 'default', identity_secret: '(set)' }],
};

export function fill(server, { bad = true } = {}) {
  server.put(SLEEP, 'ben');
  server.put({ ...SLEEP, name: 'Sleep quality', priority: 60 }, 'anna');
  server.put(NPS, 'anna');
  server.put({ survey_id: 'draft-churn', name: 'Why did you leave?', status: 'draft', show_on: [{ trigger: 'Cancel' }], questions: [{ question_id: 'q1', type: 'text', text: 'Why?', required: true }] });
  server.triggers = [
    { trigger_id: 'MainActivity', name: 'MainActivity', kind: 'frontend', first_seen_at: back(200) },
    { trigger_id: 'Home', name: 'Home', kind: 'frontend', first_seen_at: back(5000) },
    { trigger_id: 'ended_sleep', name: 'Ended sleep', kind: 'backend', first_seen_at: back(9000) },
    { trigger_id: 'successful_payment', name: 'Successful payment', kind: 'custom', first_seen_at: null },
  ];
  const endpoint = { profile: 'standard', enabled: true, events: ['response.*'], surveys: ['*'], rate_limit: null, concurrency: 10, headers: {}, retry: { preset: 'standard' }, version: 1 };
  server.endpoints.set('crm', { ...endpoint, endpoint_id: 'crm', url: 'https://crm.example/hooks', state: bad ? 'open' : 'healthy', state_reason: bad ? 'failing' : null, state_since: back(42) });
  server.endpoints.set('warehouse', { ...endpoint, endpoint_id: 'warehouse', url: 'https://warehouse.example/in', state: 'healthy', state_reason: null, state_since: back(90_000) });
  server.deliveries = Array.from({ length: 260 }, (_, n) => delivery(n));
  server.causes = bad ? [
    { cause: 'c1', endpoint_id: 'crm', outcome: 'bad_status', http_status: 503, error: null, count: 86, resent: 0, first_at: back(1700), last_at: back(5), example: 'dlv_00000002aaaabbbb' },
    { cause: 'c2', endpoint_id: 'warehouse', outcome: 'tls_failed', http_status: null, error: 'certificate expired on 2026-11-01', count: 1, resent: 0, first_at: back(600), last_at: back(600), example: 'dlv_00000003aaaabbbb' },
  ] : [];
  server.keys = [
    { key_id: 'k1', name: 'anna', kind: 'admin', prefix: 'ak_admin_0123', created_at: null, last_used_at: back(1), source: 'file' },
    { key_id: 'k2', name: 'backend', kind: 'server', prefix: 'ak_server_77', created_at: back(9000), last_used_at: back(3), source: 'runtime' },
    { key_id: 'k3', name: 'web', kind: 'client', prefix: 'ak_client_1f', created_at: back(9000), last_used_at: null, source: 'runtime' },
  ];
  for (const survey of ['sleep-quality', 'nps']) {
    server.stats.set(survey, STATS);
    server.results.set(survey, { ...RESULTS, survey_id: survey });
  }
  server.users.set('user_7', person());
  server.timelines.set('user_7', TIMELINE);
  server.decisions = [{ decision_id: 'dec_1', user_id: 'user_7', trigger: 'MainActivity', decided_at: back(20), reason: 'global_cooldown', survey: null, evaluations: person().decision.evaluations }];
  server.metrics = metrics(bad);
  server.report = REPORT;
  server.config = CONFIG;
}
