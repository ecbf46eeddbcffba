// Receives webhooks and verifies them: node receive.mjs
import crypto from 'node:crypto';
import { createServer } from 'node:http';

function verify(secret, headers, body) {
  if (Math.abs(Date.now() / 1000 - Number(headers['webhook-timestamp'])) > 300) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
  const hmac = crypto.createHmac('sha256', key);
  hmac.update(`${headers['webhook-id']}.${headers['webhook-timestamp']}.`).update(body);
  const expected = Buffer.from('v1,' + hmac.digest('base64'));
  return headers['webhook-signature'].split(' ').some((given) => {
    const bytes = Buffer.from(given);
    return bytes.length === expected.length && crypto.timingSafeEqual(bytes, expected);
  });
}

const secret = process.env.ASKWHEN_WEBHOOK_SECRET;
if (!secret) throw new Error('ASKWHEN_WEBHOOK_SECRET: the secret of the endpoint');
const MAX_BODY_BYTES = 1 << 20;
const seen = new Set(); // in earnest: a table of the last days' ids

createServer(async (request, response) => {
  const answer = (status) => response.writeHead(status).end();
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) return answer(413);
    chunks.push(chunk);
  }
  const body = Buffer.concat(chunks);
  const names = ['webhook-id', 'webhook-timestamp', 'webhook-signature'];
  if (!names.every((name) => request.headers[name]) || !verify(secret, request.headers, body)) return answer(401);
  answer(204);
  const id = request.headers['webhook-id'];
  if (seen.has(id)) return;
  seen.add(id);
  const message = JSON.parse(body);
  console.log('verified', message.type, message.data.user_id);
}).listen(Number(process.env.PORT ?? 9000), '127.0.0.1');
