// Makes the console's types of the API from the schemas that `/openapi.json` serves.
// `--check` writes nothing and compares. The maker of types needs an older TypeScript
// than the one that checks them, so it is installed here, by itself.
import { readFileSync, writeFileSync } from 'node:fs';
import openapiTS, { astToString } from 'openapi-typescript';

const schemas = JSON.parse(readFileSync(new URL('../../src/bridge/openapi/schemas.json', import.meta.url)));
const target = new URL('../console/src/openapi.d.ts', import.meta.url);

/** The part of the document that types are made of; a test holds it against what is served. */
const document = { openapi: '3.1.0', info: { title: 'askwhen', version: '0' }, paths: {}, components: { schemas } };
const made = astToString(await openapiTS(document, { silent: true }));
const [components] = /^export interface components [^]*?^}\n/m.exec(made);
const text = '/** Made by script/web build from src/bridge/openapi/schemas.json, the schemas of /openapi.json. */\n' + components;

if (!process.argv.includes('--check')) writeFileSync(target, text);
else if (readFileSync(target, 'utf8') !== text) {
  console.error('console/src/openapi.d.ts is not what the schemas make; run script/web build and commit it');
  process.exitCode = 1;
}
