// Tells askwhen that a user has woken up: node send.mjs user_123
import { randomUUID } from 'node:crypto';

const url = process.env.ASKWHEN_URL ?? 'http://127.0.0.1:8080';
const key = process.env.ASKWHEN_KEY;
if (!key) throw new Error('ASKWHEN_KEY: a key of kind server');

/** Sends an event. Its id makes a second try harmless. */
async function send(userId, eventName, properties) {
  const body = JSON.stringify({ event_id: randomUUID(), user_id: userId, event_name: eventName, properties });
  for (let attempt = 1; ; attempt++) {
    const response = await fetch(`${url}/v1/events`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body,
      signal: AbortSignal.timeout(10_000),
    });
    if (response.ok) return response.json();
    if (![429, 503].includes(response.status) || attempt === 5)
      throw new Error(`${response.status} ${await response.text()}`);
    const seconds = Number(response.headers.get('retry-after')) || 1;
    await new Promise((done) => setTimeout(done, seconds * 1000));
  }
}

console.log(JSON.stringify(await send(process.argv[2], 'ended_sleep', { duration_min: 415 })));
