// askwhen itself, on loopback and in a directory of its own. ASKWHEN_BINARY names the
// program, else it is the one that cargo has built last.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { until } from './browser.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
export const binary = process.env.ASKWHEN_BINARY ?? join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'debug/askwhen');
assert.ok(existsSync(binary), `${binary} is not there: cargo build makes it, ASKWHEN_BINARY names another`);

const children = new Set();
/** Nothing is left behind, whatever becomes of the test. */
process.on('exit', () => children.forEach((child) => child.kill('SIGKILL')));

/** Starts the program; gives it and what it wrote, when there are so many lines or a JSON value. */
export function run(args, lines = 1) {
  const child = spawn(binary, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  children.add(child);
  return new Promise((done, failed) => {
    let text = '';
    child.stdout.on('data', (data) => {
      text += data;
      if (text.startsWith('{') ? text.includes('}') : text.split('\n').length > lines) done({ child, text });
    });
    child.on('exit', (code) => {
      children.delete(child);
      failed(new Error(`${args} ended with ${code}: ${text}`));
    });
  });
}

export async function end(child) {
  if (child.exitCode !== null || child.signalCode) return;
  const over = new Promise((done) => child.once('exit', done));
  child.kill();
  await over;
}

/** What a command prints as JSON. */
export function print(...args) {
  return new Promise((done, failed) => {
    const child = spawn(binary, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let [text, wrong] = ['', ''];
    child.stdout.on('data', (data) => (text += data));
    child.stderr.on('data', (data) => (wrong += data));
    child.on('close', (code) => (code ? failed(new Error(`${args} ended with ${code}: ${wrong}`)) : done(JSON.parse(text))));
  });
}

/** A server of its own, ready. `config` is its file, in TOML. */
export async function serve(config = '') {
  const dir = mkdtempSync(join(tmpdir(), 'askwhen-real-'));
  const file = join(dir, 'askwhen.toml');
  writeFileSync(file, config);
  const data = join(dir, 'data');
  const { child, text } = await run(['--config', file, '--data-dir', data, 'serve', '--dev', '--listen', '127.0.0.1:0'], 3);
  const origin = text.split('\n')[0].replace('askwhen listens on ', '');
  const keys = Object.fromEntries(
    [...readFileSync(join(data, 'keys.toml'), 'utf8').matchAll(/kind = "(\w+)"[^[]*?key = "([^"]+)"/g)].map(([, kind, key]) => [kind, key]),
  );
  await until('it is ready', async () => (await fetch(origin + '/readyz').catch(() => null))?.ok, 30_000);

  async function send(method, path, body, key = keys.admin) {
    const headers = { authorization: `Bearer ${key}`, ...(body !== undefined && { 'content-type': 'application/json' }) };
    const answer = await fetch(origin + path, { method, headers, ...(body !== undefined && { body: JSON.stringify(body) }) });
    const text = await answer.text();
    return { status: answer.status, ok: answer.ok, data: text && /json/.test(answer.headers.get('content-type')) ? JSON.parse(text) : text };
  }
  return {
    origin, keys, data, child,
    console: origin + '/console',
    /** The link that signs in once. */
    link: /http\S+once=\S+/.exec(text)?.[0],
    send,
    /** What must be done. */
    async api(method, path, body, key) {
      const { ok, status, data } = await send(method, path, body, key);
      assert.ok(ok, `${method} ${path}: ${status} ${JSON.stringify(data)}`);
      return data;
    },
    async stop() {
      await end(child);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** A receiver of webhooks; `answer` says with what it answers. */
export async function receiver() {
  const self = { got: [], answer: () => 200 };
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (data) => (body += data));
    request.on('end', () => {
      const message = { path: request.url, id: request.headers['webhook-id'], headers: request.headers, body };
      self.got.push(message);
      response.writeHead(self.answer(message));
      response.end('said the receiver');
    });
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  self.url = `http://127.0.0.1:${server.address().port}`;
  self.stop = () => {
    server.close();
    server.closeAllConnections();
  };
  return self;
}

/** Runs so many of the jobs at a time. */
export async function atOnce(count, jobs) {
  const rest = jobs.values();
  await Promise.all(Array.from({ length: count }, async () => {
    for (const job of rest) await job();
  }));
}
