// Builds what the server hands out (dist/, console/dist/) and what npm gets
// (npm/dist/), and holds every size against its bound. `--check` writes nothing and compares.
import { build, transform } from 'esbuild';
import { mkdirSync, readFileSync, writeFileSync, existsSync, readdirSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('.', import.meta.url));
const check = process.argv.includes('--check');
const read = (path) => readFileSync(root + path, 'utf8');
const minified = async (path) => (await transform(read(path), { loader: 'css', minify: true })).code.trim();

/** Style sheets are built in as text; minified as style sheets, which no JavaScript minifier does. */
const sheets = {
  name: 'sheets',
  setup: (esbuild) =>
    esbuild.onLoad({ filter: /\.css$/ }, async ({ path }) => ({
      contents: await minified(path.slice(root.length)),
      loader: 'text',
    })),
};
const common = {
  absWorkingDir: root,
  bundle: true,
  minify: true,
  write: false,
  target: ['es2022'],
  charset: 'utf8',
  legalComments: 'none',
  plugins: [sheets],
  banner: { js: '/*! askwhen, Apache-2.0 */' },
};
const bundle = async (entry, format, more = {}) => {
  const result = await build({ ...common, entryPoints: ['src/' + entry], format, ...more });
  return result.outputFiles[0].text;
};
const page = (path) => read(path).trim().replace(/\n\s*/g, '\n') + '\n';

const outputs = {
  'dist/askwhen.js': await bundle('classic.ts', 'iife'),
  'dist/askwhen.mjs': await bundle('module.ts', 'esm'),
  'dist/survey.mjs': await bundle('render.ts', 'esm'),
  'dist/page.js': await bundle('page.ts', 'iife'),
  'dist/page.css': (await minified('src/page.css')) + '\n',
  'dist/page.html': page('src/page.html'),
  'dist/notice.html': page('src/notice.html'),
  'dist/embed.js': await bundle('embed.ts', 'iife'),
  'dist/embed.html': page('src/embed.html'),
};
outputs['console/dist/index.html'] = page('console/src/index.html');
outputs['console/dist/console.css'] = (await minified('console/src/console.css')) + '\n';
outputs['console/dist/console.js'] = await bundle('../console/src/main.tsx', 'iife', { jsx: 'automatic', jsxImportSource: 'preact' });
// The preview shows a survey with what pages show it with.
outputs['console/dist/survey.mjs'] = outputs['dist/survey.mjs'];
const packaged = await build({
  ...common,
  entryPoints: { askwhen: 'src/package.ts' },
  format: 'esm',
  splitting: true,
  outdir: 'npm/dist',
  chunkNames: 'survey',
  outExtension: { '.js': '.mjs' },
});
for (const file of packaged.outputFiles) outputs[file.path.slice(root.length)] = file.text;
for (const name of ['react', 'vue']) {
  const more = { external: ['react', 'vue', 'askwhen-browser'] };
  outputs[`npm/dist/${name}.mjs`] = await bundle('../bindings/' + name + '.ts', 'esm', more);
}
const declared = [
  read('src/types.ts').trim(),
  '',
  'declare const askwhen: Askwhen;',
  'export default askwhen;',
  ...['init', 'identify', 'trigger', 'show', 'close', 'flush', 'reset', 'queue'].map(
    (name) => `export declare const ${name}: Askwhen['${name}'];`,
  ),
  '',
].join('\n');
outputs['dist/askwhen.d.ts'] = declared;
outputs['npm/dist/askwhen.d.ts'] = declared;
for (const name of ['react', 'vue']) outputs[`npm/dist/${name}.d.ts`] = read(`bindings/${name}.d.mts`);
outputs['npm/LICENSE'] = read('../LICENSE');

const gz = (...names) => names.reduce((sum, name) => sum + gzipSync(outputs[name], { level: 9 }).length, 0);
const sizes = [
  ['askwhen.js', gz('dist/askwhen.js'), 4096],
  ['askwhen.mjs', gz('dist/askwhen.mjs'), 4096],
  ['survey.mjs', gz('dist/survey.mjs'), 9216],
  ['survey page in all', gz('dist/page.html', 'dist/page.js', 'dist/page.css'), 15360],
  ['console in all', gz('console/dist/console.js', 'console/dist/survey.mjs'), 92160],
  ['react.mjs', gz('npm/dist/react.mjs'), 512],
  ['vue.mjs', gz('npm/dist/vue.mjs'), 512],
];
let failed = false;
for (const [name, bytes, most] of sizes) {
  console.log(`${name}: ${bytes} bytes of at most ${most} (gzip -9)`);
  if (bytes > most) {
    failed = true;
    console.error(`${name} is ${bytes - most} bytes too large`);
  }
}
for (const [name, text] of Object.entries(outputs)) {
  if (check) {
    if (!existsSync(root + name) || read(name) !== text) {
      failed = true;
      console.error(`${name} is not what its sources build; run script/web build and commit it`);
    }
  } else {
    mkdirSync(root + name.replace(/[^/]*$/, ''), { recursive: true });
    writeFileSync(root + name, text);
  }
}
for (const folder of ['dist', 'console/dist', 'npm/dist'])
  for (const name of readdirSync(root + folder))
    if (!(`${folder}/${name}` in outputs)) {
      failed = true;
      console.error(`${folder}/${name} is built by nothing; remove it`);
    }
process.exitCode = failed ? 1 : 0;
