// The widget's path logic against the vectors that the server runs, too.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));

/** A source module as Node can import it. */
async function source(name) {
  const built = await build({ absWorkingDir: root, entryPoints: [name], bundle: true, write: false, format: 'esm' });
  return import('data:text/javascript,' + encodeURIComponent(built.outputFiles[0].text));
}
const { walk, isValidValue, holds, isMissing } = await source('src/path.ts');
const json = (name) => JSON.parse(readFileSync(root + 'vectors/' + name, 'utf8'));
const expand = (text) =>
  JSON.parse(text, (_, v) => (Array.isArray(v?.repeat) ? v.repeat[0].repeat(v.repeat[1]) + v.repeat[2] : v));

test('10,000 surveys and answers lead where the vectors say', () => {
  let count = 0;
  for (const { questions, cases } of json('path.json'))
    for (const { answers, path, missing, end } of cases) {
      const walked = walk(questions, answers);
      const ids = (indices) => indices.map((i) => questions[i].question_id);
      assert.deepEqual({ path: ids(walked.path), missing: ids(walked.missing), end: walked.end }, { path, missing, end });
      for (const question of questions)
        if (question.question_id in answers) assert.ok(isValidValue(question, answers[question.question_id]), JSON.stringify([question, answers]));
      count++;
    }
  assert.equal(count, 10_000);
});

test('a value fits exactly where the vectors say', () => {
  const vectors = expand(readFileSync(root + 'vectors/values.json', 'utf8'));
  for (const { question, value, valid: expected } of vectors)
    assert.equal(isValidValue(question, value), expected, JSON.stringify([question, value]).slice(0, 300));
  assert.ok(vectors.length > 700);
  assert.ok(vectors.some((v) => v.value?.other?.length === 16385 && !v.valid));
});

test('the vectors are what their seed makes', () => {
  execFileSync(process.execPath, [root + 'vectors/generate.mjs', '--check']);
});

test('conditions at their edges, written by hand from the contract', () => {
  for (const [op, wanted, actual, expected] of [
    ['lte', 6, 6, true],
    ['lte', 6, 7, false],
    ['lte', 6, undefined, false],
    ['gt', 6, '7', false],
    ['between', [1, 3], 3, true],
    ['between', [1, 3], 4, false],
    ['between', ['a', 'c'], 'b', true],
    ['in', ['price', 2], 2, true],
    ['in', ['price'], 'bugs', false],
    ['not_in', ['price'], 'bugs', true],
    ['not_in', ['price'], undefined, false],
    ['contains', 'oo', 'too', true],
    ['contains', 'light', ['noise', 'light'], true],
    ['contains', 'x', 7, false],
    ['not_contains', 'x', 7, false],
    ['not_contains', 'x', ['y'], true],
    ['neq', 'a', undefined, false],
    ['exists', undefined, 0, true],
    ['exists', undefined, '', true],
    ['not_exists', undefined, undefined, true],
    ['eq', 'x', { other: 'x' }, false],
    ['eq_ci', 'PRICE', 'price', true],
    ['ends_with_ci', 'CORP.example', 'a@corp.example', true],
    ['lt', '\u{1f600}', '\ufb01', true],
    ['within', '7d', '2026-11-01T00:00:00Z', false],
    ['no_such_operator', 1, 1, false],
  ])
    assert.equal(holds(op, wanted, actual), expected, JSON.stringify([op, wanted, actual]));
});

test('an earlier goto ends the path instead of going round for ever', () => {
  const questions = [
    { question_id: 'a', type: 'info', text: '' },
    { question_id: 'b', type: 'info', text: '', next: [{ goto: 'a' }] },
  ];
  assert.deepEqual(walk(questions, {}).path, [0, 1]);
});

test('required: empty is missing, info never is', () => {
  assert.ok(isMissing({ type: 'text' }, ''));
  assert.ok(isMissing({ type: 'multi_choice' }, []));
  assert.ok(!isMissing({ type: 'nps' }, 0));
  assert.ok(!isMissing({ type: 'text', required: false }, undefined));
  assert.ok(!isMissing({ type: 'info' }, undefined));
});
