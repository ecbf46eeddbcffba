// The editor's model without a browser: what is set and taken back is as before,
// YAML is read back as it was, and differences and merges say what has changed.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { build } from 'esbuild';
import { parse } from 'yaml';

const { outputFiles } = await build({
  stdin: { contents: `export * from './model'; export { yaml } from './yaml'; export { csvField, idOf } from '../format'; export { parse as metrics } from '../metrics'; export { sentence, GATES } from '../gates'; export { plain } from '../plain';`, resolveDir: new URL('../src/survey', import.meta.url).pathname, loader: 'ts' },
  bundle: true, format: 'esm', write: false, define: { document: '{"querySelector":null}' }, platform: 'neutral',
  plugins: [{ name: 'api', setup: (b) => b.onLoad({ filter: /src\/api\.ts$/ }, () => ({ contents: 'export const send = null; export const isRaw = () => false; export const parseJson = JSON.parse;' })) }],
});
const m = await import('data:text/javascript,' + encodeURIComponent(outputFiles[0].text));

/** A generator with a seed, so that what fails can be tried again. */
function random(seed) {
  return () => ((seed = (seed * 1_103_515_245 + 12_345) & 0x7fffffff) / 0x7fffffff);
}
const TEXTS = ['', 'a', 'no', 'null', '23:00', '- x', '#', 'a: b', ' lead', 'trail ', '"', "it's", 'ü ✓', 'a\nb', '{', '1', '1e3', '0x1', '~', 'true', '@x', '%', '*a', '&b', '!c', '|', '>', '?', 'x #y', 'key:', '\u2028', '\t'];
function value(next, depth) {
  const kind = Math.floor(next() * (depth ? 7 : 5));
  if (kind === 0) return TEXTS[Math.floor(next() * TEXTS.length)];
  if (kind === 1) return Math.round((next() - 0.5) * 1e6) / (next() < 0.5 ? 1 : 1000);
  if (kind === 2) return next() < 0.5;
  if (kind === 3) return null;
  if (kind === 4) return TEXTS[Math.floor(next() * TEXTS.length)] + TEXTS[Math.floor(next() * TEXTS.length)];
  if (kind === 5) return Array.from({ length: Math.floor(next() * 4) }, () => value(next, depth - 1));
  return Object.fromEntries(Array.from({ length: Math.floor(next() * 4) }, (_, i) => [TEXTS[Math.floor(next() * TEXTS.length)] + i, value(next, depth - 1)]));
}
function places(at, path = []) {
  if (Array.isArray(at)) return [path, ...at.flatMap((one, i) => places(one, [...path, i]))];
  if (m.isObject(at)) return [path, ...Object.entries(at).flatMap(([name, one]) => places(one, [...path, name]))];
  return [path];
}

test('300 generated definitions: YAML is read back as it was; what is changed and changed back is as before', () => {
  for (let seed = 1; seed <= 300; seed++) {
    const next = random(seed);
    const def = { survey_id: 's', a: value(next, 4), b: value(next, 4) };
    assert.deepEqual(parse(m.yaml(def)), def, `seed ${seed}`);
    for (const path of places(def).filter((one) => one.length)) {
      const old = m.getAt(def, path);
      assert.deepEqual(m.setAt(m.setAt(def, path, 'other'), path, old), def, `seed ${seed} at ${m.pointer(path)}`);
    }
    assert.deepEqual(m.differences(def, structuredClone(def)), []);
  }
});

test('a condition’s value is shown and read without becoming another', () => {
  for (const [shown, op] of [[180, 'gte'], ['180', 'eq'], ['pro', 'eq'], [['pro', 'trial'], 'in'], [['a, b', 'c'], 'in'], [[1, 2], 'between'], [true, 'eq'], ['true', 'eq'], [null, 'eq'], ['"x"', 'eq'], [{ a: 1 }, 'eq'], [['1', 2], 'not_in']])
    assert.deepEqual(m.parseValue(m.valueText(shown, op), op), shown, JSON.stringify(shown));
  assert.deepEqual(m.parseValue('pro, trial', 'in'), ['pro', 'trial']);
});

test('durations in words', () => {
  for (const [typed, meant] of [['2 hours', '2h'], ['2h', '2h'], ['1 day 12 hours', '1d12h'], ['90 min', '90m'], ['2 weeks', '14d'], ['soon', 'soon'], ['never', 'never'], ['2', '2']]) assert.equal(m.duration(typed), meant, typed);
});

test('differences and merges', () => {
  const base = { survey_id: 's', name: 'A', questions: [{ question_id: 'q1', text: 'x' }, { question_id: 'q2', text: 'y' }], ui: { a: 1 } };
  const moved = { ...base, questions: [base.questions[1], { ...base.questions[0], text: 'z' }] };
  assert.deepEqual(m.differences(base, moved).map((one) => one.path.join('/')), ['questions/order', 'questions/q1/text']);
  assert.deepEqual(m.merge(base, { ...base, name: 'B', ui: { a: 1, b: 2 } }, { ...base, name: 'C', ui: { a: 3 } }), { ...base, name: 'C', ui: { a: 3, b: 2 } });
  assert.deepEqual(m.merge(base, { ...base, name: 'B' }, moved), { ...moved, name: 'B' });
});

test('removing the last member of an object removes the object, but never a row of a list', () => {
  assert.deepEqual(m.setAt({ survey_id: 's', frequency: { cooldown: '1d' } }, ['frequency', 'cooldown'], undefined), { survey_id: 's' });
  assert.deepEqual(m.setAt({ survey_id: 's', show_on: [{ trigger: 'x' }] }, ['show_on', 0, 'trigger'], undefined), { survey_id: 's', show_on: [{}] });
});

test('ids, CSV fields and metrics', () => {
  assert.equal(m.idOf('Successful payment'), 'successful_payment');
  assert.equal(m.idOf('  Über-Größe! ', '-'), 'uber-große');
  for (const [given, field] of [['=1', "'=1"], ['-1', "'-1"], [-1, '-1'], ['a,b', '"a,b"'], ['@x"y', `"'@x""y"`], [null, '']]) assert.equal(m.csvField(given), field);
  assert.deepEqual(m.metrics('# HELP x\nx{a="1",b="c\\"d"} 2\ny 3\n'), [{ name: 'x', labels: { a: '1', b: 'c\\"d' }, value: 2 }, { name: 'y', labels: {}, value: 3 }]);
});

test('each gate of docs/surveys.md has a sentence, and what it saw is told in words', () => {
  const page = readFileSync(new URL('../../../docs/surveys.md', import.meta.url), 'utf8').split('## Why not')[1].split('\nTo ask why')[0];
  const gates = [...page.matchAll(/^\| (`\w+`[^|]*) \|/gm)].flatMap(([, names]) => [...names.matchAll(/`(\w+)`/g)].map(([, name]) => name)).filter((name) => name !== 'gate');
  assert.ok(gates.length > 20, gates.join());
  assert.deepEqual(gates.filter((gate) => !m.GATES.includes(gate)), []);
  const at = '2026-03-01T08:00:00.000Z';
  for (const [gate, actual, part] of [
    ['targeting_failed', { attribute: 'plan', actual: 'free' }, 'the attribute plan is free'],
    ['targeting_failed', { attribute: 'plan', actual: null }, 'the attribute plan is not there'],
    ['excluded', { attribute: 'n', actual: 3.5 }, 'the attribute n is 3.5'],
    ['targeting_failed', { survey: 'nps', did: 'displayed', at, count: 4 }, 'nps was displayed 4 times, last at'],
    ['targeting_failed', { tag: 'relational', did: 'completed', at: null }, 'a survey with the tag relational was completed never'],
    ['targeting_failed', { event: 'used', count: 2, at }, 'used has come 2 times, last at'],
    ['targeting_failed', { survey: 'nps', question_id: 'q1', answer: 9, at }, 'the answer to q1 of nps is 9'],
    ['targeting_failed', { survey: 'nps', question_id: 'q1', answer: null, at: null }, 'the answer to q1 of nps is not there'],
    ['show_on_mismatch', { property: 'tab', actual: 'plans' }, 'tab is plans'],
    ['out_of_schedule', { except: { start_at: at, end_at: at } }, 'the span from'],
    ['out_of_schedule', { timezone: null }, 'timezone is not known'],
    ['other_arm', { experiment: 'wording', arm: 'b' }, 'b of wording'],
    ['quota_full', { max_completed: 2 }, 'at most 2'],
    ['cap_reached', { cap: { count: 'displayed', max: 1, within: '7d', per: { attribute: 'company_id' } }, count: 1, value: 'acme' }, 'displayed at most 1 within 7d for company_id acme; 1 are counted or held'],
    ['cap_reached', { cap: { count: 'completed', max: 200 }, count: null, of: 'settings' }, 'of the settings, completed at most 200'],
    ['max_displays', 3, '3 times'], ['cooldown', at, 'last at 1 Mar 2026'], ['made_up', { odd_thing: [1] }, 'odd thing [1]'],
  ]) {
    const text = m.sentence({ gate, actual });
    assert.ok(text.includes(part) && !/[{}]/.test(text), `${gate}: ${text}`);
  }
});

test('marks of direction are shown where they would turn around letters or what stands beside the text', () => {
  const [rlo, lre, pdf, fsi, pdi] = ['\u202e', '\u202a', '\u202c', '\u2068', '\u2069'];
  for (const text of ['plain', 'لا شيء', '\u200f!', `${lre}+49 30${pdf}`, `a ${fsi}b ${lre}c${pdf}${pdi} d`]) assert.equal(m.plain(text), text);
  for (const [text, shown] of [[`${rlo}evil`, '⟨U+202E⟩evil'], [`${rlo}evil${pdf}`, '⟨U+202E⟩evil⟨U+202C⟩'], [`${fsi}x`, '⟨U+2068⟩x'], [`x${pdi}`, 'x⟨U+2069⟩'], [`${fsi}${lre}x${pdi}${pdf}`, '⟨U+2068⟩⟨U+202A⟩x⟨U+2069⟩⟨U+202C⟩']])
    assert.equal(m.plain(text), shown);
});
