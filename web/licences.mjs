// Every installed package must be under a licence that asks for nothing but its
// notice, and the lock file must name no host.
import { readFileSync, existsSync } from 'node:fs';

const allowed = new Set(['MIT', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', 'ISC', '0BSD']);
// MPL-2.0 asks for its own files' sources only. It tests pages and is in nothing that we build.
const only = new Map([['axe-core', 'MPL-2.0']]);
const root = new URL('.', import.meta.url);
const lock = JSON.parse(readFileSync(new URL('package-lock.json', root), 'utf8'));
const wrong = [];
let count = 0;
for (const [path, entry] of Object.entries(lock.packages)) {
  if (entry.resolved) wrong.push(`${path}: the lock file names where it is from; npm install with web/.npmrc leaves that out`);
  if (!path || !existsSync(new URL(path + '/package.json', root))) continue;
  const { name, license } = JSON.parse(readFileSync(new URL(path + '/package.json', root), 'utf8'));
  count++;
  if (!allowed.has(license) && only.get(name) !== license) wrong.push(`${name}: ${license} is not among the licences that we take`);
}
const own = JSON.parse(readFileSync(new URL('package.json', root), 'utf8'));
for (const [name, version] of Object.entries(own.devDependencies))
  if (!/^\d+\.\d+\.\d+$/.test(version)) wrong.push(`${name}: ${version} is no exact version`);
for (const line of wrong) console.error(line);
console.log(`licences of ${count} packages looked at`);
process.exitCode = wrong.length || !count ? 1 : 0;
