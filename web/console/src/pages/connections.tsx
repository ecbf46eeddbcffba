/** How backends, pages and Kafka are connected, filled in, with the first event as it arrives. */
import { useState } from 'preact/hooks';
import { all, base, call } from '../api';
import { useGet, useInterval, useLoaded } from '../live';
import { href } from '../route';
import { useCanChange } from '../session';
import type { ApiKey, Trigger } from '../types';
import { Await, Button, Choice, Code, Notice, Page, Section, Time, Trouble, useAction } from '../ui';

const origin = location.origin + base;
const WAITING_MS = 2000;
/** Kinds of triggers that a backend reports, and those that an app does. */
const EVENTS = ['backend', 'custom'];
const PLACES = ['frontend'];

function snippets(key: string): Record<string, string> {
  return {
    curl: `curl -X POST ${origin}/v1/events \\
  -H 'authorization: Bearer ${key}' \\
  -H 'content-type: application/json' \\
  -d '{"user_id": "user_123", "event_name": "ended_sleep", "properties": {"duration_min": 430}}'`,
    Node: `await fetch('${origin}/v1/events', {
  method: 'POST',
  headers: { authorization: 'Bearer ${key}', 'content-type': 'application/json' },
  body: JSON.stringify({
    user_id: 'user_123',
    event_name: 'ended_sleep',
    properties: { duration_min: 430 },
  }),
});`,
    Python: `import json, urllib.request

request = urllib.request.Request(
    "${origin}/v1/events",
    data=json.dumps({
        "user_id": "user_123",
        "event_name": "ended_sleep",
        "properties": {"duration_min": 430},
    }).encode(),
    headers={"authorization": "Bearer ${key}", "content-type": "application/json"},
)
urllib.request.urlopen(request)`,
  };
}

const widget = (key: string) => `<script async src="${origin}/sdk/askwhen.js" data-key="${key}" data-user="user_123"></script>
<script>
  window.askwhen = window.askwhen || {queue: []};
  askwhen.queue.push(["trigger", "MainActivity", {plan: "pro"}]);
</script>`;

/** Keys of one kind, by prefix, and a new one on request. */
function Keys({ kind, made, onMade }: { kind: 'server' | 'client'; made: string; onMade: (key: string) => void }) {
  const canChange = useCanChange();
  const keys = useGet<{ keys: ApiKey[] }>('/v1/keys', ['keys', 'definitions']);
  const action = useAction();
  const create = async () => {
    const { data } = await call<{ key: string }>('POST', '/v1/keys', { body: { name: kind === 'server' ? 'backend' : 'web', kind } });
    onMade(data.key);
    keys.reload();
  };
  return (
    <div>
      <h3>Key of kind {kind}</h3>
      <Await of={keys} what="Loading keys">
        {({ keys: list }) => {
          const mine = list.filter((key) => key.kind === kind);
          return mine.length
            ? <ul class="plain">{mine.map((key) => <li key={key.key_id}><code>{key.prefix}…</code> {key.name} <span class="quiet">last used <Time at={key.last_used_at} empty="never" /></span></li>)}</ul>
            : <p>There is no key of kind {kind} yet.</p>;
        }}
      </Await>
      {made && <Notice tone="good" title="This is the new key. It is shown this once."><Code text={made} label={`new ${kind} key`} /></Notice>}
      {action.error && <Trouble error={action.error} />}
      {canChange && !made && <Button busy={action.busy} onClick={() => void action.run(create)}>New {kind} key</Button>}
    </div>
  );
}

function First({ of, triggers, kinds, nothing }: { of: string; triggers: Trigger[]; kinds: string[]; nothing: string }) {
  const seen = triggers.filter((trigger) => trigger.first_seen_at && kinds.includes(trigger.kind));
  const first = seen.sort((a, b) => a.first_seen_at!.localeCompare(b.first_seen_at!))[0];
  return first
    ? <Notice tone="good" title={`First ${of} received`}><p><code>{first.trigger_id}</code> <Time at={first.first_seen_at} /></p></Notice>
    : <Notice title={`Waiting for the first ${of}`}><p>{nothing}</p></Notice>;
}

export function Connections() {
  const triggers = useLoaded('connections', (signal) => all<Trigger>('/v1/triggers', 'triggers', 2000, signal), ['triggers', 'definitions']);
  // Somebody who waits for a first event looks at this page; a new name is in the list within a second.
  const waits = ![EVENTS, PLACES].every((kinds) => triggers.data?.some((trigger) => kinds.includes(trigger.kind) && trigger.first_seen_at));
  useInterval(waits ? WAITING_MS : null, triggers.reload);
  const [language, setLanguage] = useState('curl');
  const [serverKey, setServerKey] = useState('');
  const [clientKey, setClientKey] = useState('');
  return (
    <Page title="Connections" about="How your backend, your page and Kafka reach this server.">
      <Section title="Backend trigger">
        <h3>URL</h3>
        <Code text={`${origin}/v1/events`} label="URL" />
        <details class="twin">
          <summary>URLs for code that was written for Blitzllama or Reward</summary>
          <Code text={`${origin}/api/v1/connections/backend/event`} label="URL for Blitzllama's body" />
          <Code text={`${origin}/v1/triggers/TRIGGER/users/USER/events`} label="URL for Reward's body" />
          <p class="hint">They take the same key, as <code>x-api-key</code> or <code>authorization: Bearer</code>.</p>
        </details>
        <Keys kind="server" made={serverKey} onMade={setServerKey} />
        <div class="narrow"><Choice label="Language" value={language} options={[['curl', 'curl'], ['Node', 'Node'], ['Python', 'Python']]} onValue={setLanguage} /></div>
        <Code text={snippets(serverKey || 'YOUR_SERVER_KEY')[language]!} label={`${language} snippet`} />
        <Await of={triggers} what="Listening">
          {(list) => <First of="event" triggers={list} kinds={EVENTS} nothing="Run the snippet. The event appears here as soon as it arrives." />}
        </Await>
      </Section>
      <Section title="Widget">
        <p>These lines show surveys on a page. A key of kind client may stand in public.</p>
        <Keys kind="client" made={clientKey} onMade={setClientKey} />
        <Code text={widget(clientKey || 'YOUR_CLIENT_KEY')} label="widget snippet" />
        <Await of={triggers} what="Listening">
          {(list) => <First of="trigger" triggers={list} kinds={PLACES} nothing="Open the page with the snippet. The trigger appears here as soon as it is reported." />}
        </Await>
      </Section>
      <Section title="Kafka">
        <p>Any producer may write to the journal. The key of a record is the user’s ID, so that one user’s records stay in order.</p>
        <Kafka />
      </Section>
    </Page>
  );
}

function Kafka() {
  const ready = useGet<{ kafka?: { brokers?: string }; log?: string | { kind?: string; prefix?: string; brokers?: string } }>('/readyz?verbose');
  const log = typeof ready.data?.log === 'object' ? ready.data.log : undefined;
  const brokers = log?.brokers ?? ready.data?.kafka?.brokers;
  const topic = (log?.prefix ?? 'askwhen.') + 'events';
  return (
    <>
      <dl class="facts">
        <div><dt>Topic</dt><dd><code>{topic}</code></dd></div>
        <div><dt>Addresses</dt><dd>{brokers ? <code>{brokers}</code> : <>those of <code>[kafka] brokers</code> in the configuration; with the embedded log there is no Kafka (see <a href={href('/system')}>System</a>)</>}</dd></div>
      </dl>
      <Code label="kcat command" text={`echo 'user_123:{"user_id": "user_123", "event_name": "ended_sleep", "properties": {}}' \\\n  | kcat -P -b ${brokers ?? 'HOST:9092'} -t ${topic} -K:`} />
    </>
  );
}
