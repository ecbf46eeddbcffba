// The npm package as it arrives: its files, on a server, in a bundle, in React and Vue.
import { after, before, beforeEach, test } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { start, KEY } from './server.mjs';
import { dialog, fresh, shut, survey, until } from './browser.mjs';

const web = fileURLToPath(new URL('..', import.meta.url));
const root = mkdtempSync(join(tmpdir(), 'askwhen-package-'));
const installed = join(root, 'node_modules/askwhen-browser');
let files;
let server;

before(async () => {
  server = await start();
  const packed = execFileSync('npm', ['pack', '--json', '--pack-destination', root], { cwd: web + 'npm', stdio: ['ignore', 'pipe', 'ignore'] });
  files = JSON.parse(packed);
  const name = readdirSync(root).find((file) => file.endsWith('.tgz'));
  mkdirSync(installed, { recursive: true });
  execFileSync('tar', ['xzf', join(root, name), '-C', installed, '--strip-components=1']);
  for (const name of ['react', 'react-dom', 'scheduler', 'vue', '@vue']) symlinkSync(web + 'node_modules/' + name, join(root, 'node_modules', name));
});
after(async () => {
  await shut();
  server.stop();
  rmSync(root, { recursive: true });
});
beforeEach(() => server.clear());

/** Bundles an entry of the project at `root`, and serves it as a page. */
async function serve(entry, path, body, mode = 'production') {
  const { outputFiles } = await build({
    absWorkingDir: root, entryPoints: { main: entry }, bundle: true, splitting: true, write: false, outdir: 'out', format: 'esm', minify: true,
    jsx: 'automatic', define: { 'process.env.NODE_ENV': JSON.stringify(mode), __VUE_OPTIONS_API__: 'true', __VUE_PROD_DEVTOOLS__: 'false', __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: 'false' },
  });
  for (const { path: file, text } of outputFiles) server.page('/' + file.split('/').pop(), text, { 'content-type': 'text/javascript' });
  server.page(path, `<!doctype html><html lang="en"><title>app</title>${body}<script type="module" src="/main.js"></script>`);
  return outputFiles;
}
const config = () => ({ server: server.other, key: KEY, user: 'u' });

test('the tarball holds what is needed and nothing else', () => {
  const names = readdirSync(installed, { recursive: true }).filter((name) => /\.\w+$|LICENSE/.test(name)).sort();
  assert.deepEqual(names, [
    'LICENSE', 'README.md', 'dist/askwhen.d.ts', 'dist/askwhen.mjs', 'dist/react.d.ts', 'dist/react.mjs', 'dist/survey.mjs', 'dist/vue.d.ts', 'dist/vue.mjs', 'package.json',
  ]);
  assert.ok(files);
  const manifest = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8'));
  assert.equal(manifest.license, 'Apache-2.0');
  assert.equal(manifest.sideEffects, false);
  assert.equal(manifest.dependencies, undefined);
  for (const { types, default: code } of Object.values(manifest.exports).filter((e) => e.types)) {
    readFileSync(join(installed, types));
    readFileSync(join(installed, code));
  }
  const server = /^version = "(.*)"/m.exec(readFileSync(web + '../Cargo.toml', 'utf8'))[1];
  assert.equal(manifest.version, server, 'the package has the version of its server');
});

test('imported on a server it does nothing, and so do its functions', () => {
  const script = `
    import askwhen, { init, trigger } from 'askwhen-browser';
    const before = Object.keys(globalThis).join();
    init({ key: 'k', server: 'http://127.0.0.1:1' });
    askwhen.identify('u'); askwhen.close(); askwhen.reset(); await askwhen.flush();
    console.log(await trigger('T'), await askwhen.show({ survey: {} }), Object.keys(globalThis).join() === before);
    await import('askwhen-browser/react'); await import('askwhen-browser/vue');`;
  writeFileSync(join(root, 'ssr.mjs'), script);
  const said = execFileSync(process.execPath, ['--unhandled-rejections=strict', join(root, 'ssr.mjs')], { encoding: 'utf8', timeout: 10_000 });
  assert.equal(said.trim(), 'null false true');
});

test('what is imported and not used is left out of a bundle; the renderer is a chunk of its own', async () => {
  writeFileSync(join(root, 'unused.js'), `import { init } from 'askwhen-browser'; console.log(1);`);
  const [unused] = await serve('unused.js', '/unused', '');
  assert.ok(unused.text.length < 60, unused.text);
  writeFileSync(join(root, 'used.js'), `import askwhen from 'askwhen-browser'; askwhen.init(${JSON.stringify(config())}); askwhen.trigger('T');`);
  const chunks = await serve('used.js', '/used', '');
  const main = chunks.find((file) => file.path.endsWith('main.js'));
  assert.ok(gzipSync(main.text).length < 4300, `${gzipSync(main.text).length}`);
  server.offer('T', survey('nps'));
  const page = await fresh();
  await page.goto(server.origin + '/used');
  await dialog(page).waitFor();
  assert.deepEqual(page.errors, []);
  await page.context().close();
});

test('without a server it says so', async () => {
  writeFileSync(join(root, 'wrong.js'), `import askwhen from 'askwhen-browser'; askwhen.init({ key: 'k', onError: (e) => (window.error = e.message) });`);
  await serve('wrong.js', '/wrong', '');
  const page = await fresh();
  await page.goto(server.origin + '/wrong');
  await page.waitForFunction(() => window.error);
  assert.match(await page.evaluate(() => window.error), /needs a server/);
  await page.context().close();
});

test('the React example: strict mode, a trigger for a view, a survey in its place, a view that goes', async () => {
  cpSync(web + '../examples/react/src', join(root, 'react'), { recursive: true });
  await serve('react/main.jsx', '/react', `<div id="app"></div><script type="application/json" id="config">${JSON.stringify(config())}</script>`, 'development');
  server.offer('Home', survey('nps'));
  server.offer('Checkout', { ...survey('rating_star'), ui: { layout: 'inline' } });
  const page = await fresh();
  await page.goto(server.origin + '/react');
  await dialog(page).waitFor();
  assert.equal(await dialog(page).count(), 1, 'once, although strict mode mounts twice');
  await page.getByRole('button', { name: 'Close' }).click();
  await page.getByRole('button', { name: 'Checkout' }).click();
  await page.locator('.survey').getByRole('radio').nth(3).click();
  await page.getByRole('button', { name: 'Home' }).click();
  await until('the survey of the view is gone', async () => (await page.locator('.survey').count()) === 0);
  // Home asks again; one survey at a time.
  await page.getByRole('button', { name: 'Close' }).click();
  await page.getByRole('button', { name: 'Checkout' }).click();
  await page.locator('.survey').getByRole('radio').nth(4).click();
  await page.getByRole('button', { name: 'Send' }).click();
  await until('it is completed', async () => (await server.completed()) === 1);
  assert.deepEqual(server.calls('/triggers/Checkout')[0].body.properties, { amount: 20 });
  assert.deepEqual(page.errors, []);
  await page.context().close();
});

test('Vue: the plugin, a trigger for a view, a survey in its place', async () => {
  writeFileSync(join(root, 'vue.js'), `
    import { createApp, h, ref } from 'vue';
    import { askwhenPlugin, InlineSurvey, useTrigger } from 'askwhen-browser/vue';
    const Home = { setup() { useTrigger('Home'); return () => h('p', 'Home'); } };
    createApp({ setup() {
      const view = ref('home');
      return () => h('main', [h('h1', 'App'), h('button', { onClick: () => (view.value = 'checkout') }, 'Checkout'),
        view.value === 'home' ? h(Home) : h('section', { class: 'place' }, h(InlineSurvey, { trigger: 'Checkout', properties: { amount: 20 } }))]);
    } }).use(askwhenPlugin, ${JSON.stringify(config())}).mount('#app');`);
  await serve('vue.js', '/vue', '<div id="app"></div>');
  server.offer('Home', survey('nps'));
  server.offer('Checkout', { ...survey('rating_star'), ui: { layout: 'inline' } });
  const page = await fresh();
  await page.goto(server.origin + '/vue');
  await dialog(page).waitFor();
  await page.getByRole('button', { name: 'Close' }).click();
  await page.getByRole('button', { name: 'Checkout' }).click();
  await page.locator('.place').getByRole('radio').nth(3).click();
  await page.getByRole('button', { name: 'Send' }).click();
  await until('it is completed', async () => (await server.completed()) === 1);
  assert.deepEqual(server.calls('/triggers/Checkout')[0].body.properties, { amount: 20 });
  assert.deepEqual(page.errors, []);
  await page.context().close();
});

test('the plain example asks at the start, and in its place when something is bought', async () => {
  const page = readFileSync(web + '../examples/web/index.html', 'utf8');
  server.page('/example', page.replace('http://127.0.0.1:8080', server.other).replace(/data-key="[^"]*"/, `data-key="${KEY}"`));
  server.offer('ShopHome', survey('nps'));
  server.offer('Bought', { ...survey('rating_star'), ui: { layout: 'inline' } });
  const shop = await fresh();
  await shop.goto(server.origin + '/example');
  await dialog(shop).waitFor();
  await shop.getByRole('button', { name: 'Close' }).click();
  await shop.getByRole('button', { name: 'Buy' }).click();
  await shop.locator('#opinion').getByRole('radio').nth(4).click();
  await shop.getByRole('button', { name: 'Send' }).click();
  await until('it is completed', async () => (await server.completed()) === 1);
  assert.deepEqual(shop.errors, []);
  await shop.context().close();
});
