// Every installed package must be under a licence that asks for nothing but its
// notice, and the lock file must name no host.
import { readFileSync, existsSync } from 'node:fs';

const allowed = new Set(['MIT', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', 'ISC', '0BSD', '(MIT OR CC0-1.0)']);
// These test pages and make types, and are in nothing that we build.
const only = new Map([['axe-core', 'MPL-2.0'], ['argparse', 'Python-2.0']]);
const wrong = [];
let count = 0;

function look(root) {
  const json = (path) => JSON.parse(readFileSync(new URL(path, root), 'utf8'));
  for (const [path, entry] of Object.entries(json('package-lock.json').packages)) {
    if (entry.resolved) wrong.push(`${path}: the lock file names where it is from; npm install with web/.npmrc leaves that out`);
    if (!path || !existsSync(new URL(path + '/package.json', root))) continue;
    const { name, license } = json(path + '/package.json');
    count++;
    if (!allowed.has(license) && only.get(name) !== license) wrong.push(`${name}: ${license} is not among the licences that we take`);
  }
  for (const [name, version] of Object.entries(json('package.json').devDependencies))
    if (!/^\d+\.\d+\.\d+$/.test(version)) wrong.push(`${name}: ${version} is no exact version`);
}
look(new URL('.', import.meta.url));
look(new URL('openapi/', import.meta.url));
for (const line of wrong) console.error(line);
console.log(`licences of ${count} packages looked at`);
process.exitCode = wrong.length || !count ? 1 : 0;
