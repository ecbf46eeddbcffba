// Surveys of every shape that the file can say, from a seed: each is one that the server takes.

/** A generator with a seed, so that what fails can be tried again. */
export function random(seed) {
  let state = (seed * 2_654_435_761) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

const TEXTS = ['Wie geht es?', 'no', '23:00', 'a, b', '- x', '# not a comment', "it's", '"quoted"', 'ü ✓ 漢字', 'two\nlines', '{brace}', '1', '<b>bold</b>', 'لا شيء', ' lead'];
const NAMES = ['plan', 'country', 'duration_min', 'address.city', 'a b', 'ü', '1', 'email'];
const EVENTS = ['ended_sleep', 'order paid', 'checkout', 'é', 'x/y'];

/** `features`: members that not every server has. */
export function generate(seed, features = []) {
  const next = random(seed);
  const int = (from, to) => from + Math.floor(next() * (to - from + 1));
  const chance = (share) => next() < share;
  const pick = (list) => list[int(0, list.length - 1)];
  const some = (list, least = 0) => [...list].sort(() => next() - 0.5).slice(0, int(least, list.length));
  const many = (from, to, make) => Array.from({ length: int(from, to) }, (_, i) => make(i));
  /** The members whose chance has come. */
  const maybe = (share, members) => Object.fromEntries(Object.entries(members).flatMap(([name, make]) => (chance(share) ? [[name, make()]] : [])));
  const hours = (from, to) => int(from, to) + 'h';
  const time = () => `2026-${String(int(1, 12)).padStart(2, '0')}-${String(int(1, 28)).padStart(2, '0')}T${String(int(0, 23)).padStart(2, '0')}:${pick(['00:00', '30:00', '59:59'])}Z`;
  const span = () => ({ start_at: '2026-01-' + pick(['01T00:00:00Z', '05T23:59:59Z']), end_at: '2026-02-' + pick(['01T00:00:00Z', '03T12:30:00Z']) });

  function test() {
    const op = pick(['eq', 'neq', 'gt', 'gte', 'lt', 'lte', 'between', 'in', 'not_in', 'contains', 'not_contains', 'starts_with', 'ends_with', 'eq_ci', 'contains_ci', 'ends_with_ci', 'exists', 'not_exists', 'before', 'after', 'within', 'in_next']);
    const number = () => pick([0, 1, -3, 180, 2.5, 1e6]);
    const value =
      ['exists', 'not_exists'].includes(op) ? undefined
      : ['eq', 'neq'].includes(op) ? pick([...TEXTS, number(), true, false, '180', 'true', 'null'])
      : ['gt', 'gte', 'lt', 'lte'].includes(op) ? pick([number(), 'b'])
      : op === 'between' ? [1, int(2, 9)]
      : ['in', 'not_in'].includes(op) ? some([...TEXTS.slice(0, 5), 'pro', 'trial', 1, 2.5, '1', true], 1)
      : ['before', 'after', 'within'].includes(op) ? pick(['2h', '30d', ...(op === 'within' ? [] : ['2026-03-01', '2026-03-01T00:00:00Z'])])
      : op === 'in_next' ? '90d'
      : pick(TEXTS.filter((text) => text.trim() === text));
    return { op, ...(value !== undefined && { value }) };
  }
  const where = () => many(1, 3, () => ({ property: pick(NAMES), ...test() }));
  const event = () => ({ event: pick(EVENTS), ...maybe(0.4, { where }) });
  const distinct = () => pick(['day', 'session']);

  function activation() {
    const form = pick(['event', 'event', 'any', 'all', 'sequence', 'absence']);
    const count = () => ({ at_least: int(2, 9), within: hours(1, 99), ...maybe(0.3, { distinct }) });
    const activate =
      form === 'event' ? { ...event(), ...maybe(0.3, { count }) }
      : form === 'any' ? { any: many(2, 3, event), ...maybe(0.3, { count }) }
      : form === 'all' ? { all: many(2, 3, event), within: hours(1, 99) }
      : form === 'sequence' ? { sequence: { steps: many(2, 3, event), within: pick(['60m', '2h30m']) } }
      : { absence: { after: event(), without: event(), for: '30m' } };
    return {
      activate: { ...activate, ...maybe(0.2, { match: () => 'ticket_id' }) }, expires_after: hours(2, 100),
      ...maybe(0.3, { delay: () => pick(['10m', '1h30m']), cancel_on: () => many(1, 2, event), on_repeat: () => pick(['refresh', 'keep_first']) }),
    };
  }
  function rule(depth) {
    const kind = pick(depth ? ['attribute', 'survey', 'tag', 'answer', 'event', 'not', 'all', 'any'] : ['attribute', 'survey', 'tag', 'answer', 'event']);
    const within = () => pick(['30d', '14d', '12h']);
    const did = () => pick(['displayed', 'answered', 'completed', 'dismissed']);
    switch (kind) {
      case 'attribute': return { attribute: pick(NAMES), ...test() };
      case 'survey': return { survey: pick(['nps', 'other']), did: did(), ...maybe(0.5, { within }), ...maybe(0.3, { at_least: () => int(2, 5), distinct: () => 'day' }) };
      case 'tag': return { tag: pick(['*', 'relational']), did: did(), ...maybe(0.5, { within, at_least: () => int(2, 5) }) };
      case 'answer': return { survey: 'nps', answer: { question_id: 'q1', ...test() }, ...maybe(0.5, { within }) };
      case 'event': return { event: pick(EVENTS), within: within(), at_least: int(1, 3), ...maybe(0.5, { where, at_most: () => int(4, 9), distinct }) };
      case 'not': return { not: rule(depth - 1) };
      default: return { [kind]: many(1, 3, () => rule(depth - 1)) };
    }
  }
  function schedule(begins) {
    return {
      ...(begins && { start_at: '2026-01-01T00:00:00Z' }),
      ...maybe(0.5, {
        end_at: () => '2027-' + pick(['01-01T00:00:00Z', '12-31T23:59:59Z']), timezone: () => pick(['Europe/Berlin', 'user', 'UTC', 'America/New_York']), days: () => some(['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'], 1),
        hours: () => pick([['06:00', '23:00'], ['22:00', '02:00']]), windows: () => [span()], except: () => [span(), span()].slice(0, int(1, 2)), month_days: () => some([1, 15, 'last'], 1),
      }),
    };
  }
  const by = () => pick(['user', 'activation', { attribute: 'company_id' }]);
  function when(question) {
    switch (question.type) {
      case 'single_choice': return pick([{ op: 'eq', value: 'price' }, { op: 'in', value: ['price', 'bugs'] }, { op: 'not_exists' }]);
      case 'multi_choice': return { op: 'contains', value: 'price' };
      case 'text': return pick([{ op: 'exists' }, { op: 'contains', value: 'x' }]);
      default: return pick([{ op: 'lte', value: 2 }, { op: 'gte', value: 3 }, { op: 'eq', value: 1 }, { op: 'between', value: [1, 2] }]);
    }
  }
  const text = () => pick(TEXTS);
  function question(i) {
    const type = pick(['text', 'nps', 'single_choice', 'multi_choice', 'rating_number', 'rating_star', 'rating_emoji', 'info']);
    const rated = ['nps', 'rating_number', 'rating_star', 'rating_emoji'].includes(type);
    return {
      question_id: pick(['q', 'frage-', 'ü']) + i, type, text: text(), required: type !== 'info' && chance(0.7),
      ...(rated && maybe(0.4, { labels: () => ({ low: text(), ...maybe(0.7, { high: text }) }) })),
      ...(type.endsWith('choice') && { options: ['price', { value: 'bugs', text: 'Too many bugs' }, 'a, b'], ...maybe(0.4, { other: () => ({ text: text() }), shuffle: () => true }) }),
      ...(type === 'rating_number' && { scale: pick([3, 5, 7, 10]) }),
    };
  }
  const questions = many(1, 5, question);
  for (const [i, one] of questions.entries())
    if (i + 1 < questions.length && one.type !== 'info' && chance(0.4)) one.next = many(1, 2, () => ({ when: when(one), goto: pick([...questions.slice(i + 1).map((later) => later.question_id), 'end']) }));
  const translation = () => ({
    ...maybe(0.5, { name: text }),
    questions: Object.fromEntries(some(questions, 1).map((one) => [one.question_id, { text: 'Übersetzt', ...(one.options && chance(0.5) && { options: { price: 'Preis' } }) }])),
    ...maybe(0.4, { ui: () => ({ thank_you: { text: 'Danke' }, labels: { next: 'Weiter' } }) }),
  });
  const armed = chance(0.6);
  const begins = chance(0.4);
  const id = 'generated-' + seed;
  return {
    survey_id: id, name: `Generated ${seed} ${pick(['<i>', 'ü', '"', ''])}`.trim(), status: pick(['draft', 'test', 'shadow', 'active', 'paused']), questions,
    show_on: many(1, 3, (i) => ({ trigger: 'Place ' + i, ...maybe(0.4, { where }) })),
    ...(armed && activation()), ...(chance(0.6) && { targeting: rule(2) }), ...((begins || chance(0.3)) && { schedule: schedule(begins) }),
    ...maybe(0.3, {
      test_users: () => some(['ann', 'bob, the second', 'ü'], 1), priority: () => int(-5, 99), link: () => true, platforms: () => some(['ios', 'android', 'web'], 1), locales: () => some(['de', 'en-GB'], 1), app_version: () => '>=2.1 <4',
      tags: () => some(['relational', 'a b'], 1), settings_targeting: () => 'ignore', locale: () => 'en', expose: () => some(NAMES, 1), translations: () => ({ de: translation(), ...(chance(0.4) && { 'pt-BR': translation() }) }),
      sampling: () => ({ percent: pick([12.5, 50]), from: pick([0, 25]), salt: 'ab', by: by() }), holdout: () => ({ percent: pick([0.5, 5]), group: 'autumn', by: by() }), limits: () => ({ max_completed: int(1, 900) }),
      ui: () => ({ layout: pick(['popover', 'modal', 'inline']), position: 'center', theme: { scheme: 'dark', accent: '#0a7', radius: '3px' }, progress: chance(0.5), labels: { next: 'On' }, thank_you: { text: 'Thanks', close_after: '5s' }, mine: [1, { two: null }] }),
    }),
    ...(begins && chance(0.4) && { spread: '90d' }), ...(chance(0.2) && { experiment: { name: 'wording', arm: id } }),
    frequency: {
      repeat: pick(['once', 'until_responded', 'until_completed', ...(armed ? ['every_activation'] : [])]),
      ...maybe(0.4, { max_displays: () => int(1, 9), per: () => pick(['90d', 'week', 'quarter', { wave: 2 }]), cooldown: () => '14d', after_dismissal: () => pick(['30d', 'never']), global_cooldown: () => pick(['respect', 'ignore', 'exempt', '2d']), session_cap: () => 'ignore', snooze: () => '7d' }),
    },
    ...(features.includes('caps') && chance(0.3) && { limits: { max_completed: 9, caps: [{ count: 'displayed', max: 2, within: '7d', per: { attribute: 'company_id' }, missing: 'shut' }] } }),
    ...(features.includes('anonymous') && chance(0.2) && { anonymous: true }),
    ...(features.includes('retention') && chance(0.2) && { retention: '365d' }),
    ...(features.includes('endings') && chance(0.2) && { endings: [{ ending_id: 'thanks', text: 'Thank you', link: 'https://example.com/' }] }),
  };
}

/** Members that a server may not have yet, each with the least that says it. */
export const FEATURES = {
  caps: { limits: { caps: [{ count: 'displayed', max: 1 }] } },
  anonymous: { anonymous: true },
  retention: { retention: '365d' },
  endings: { endings: [{ ending_id: 'thanks', text: 'Thank you' }] },
};
