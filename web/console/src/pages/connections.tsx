/** How backends, pages and Kafka are connected, filled in, with the first event as it arrives. */
import { useState } from 'preact/hooks';
import { all, base, call } from '../api';
import { useGet, useInterval, useLoaded } from '../live';
import { useCanChange } from '../session';
import type { ApiKey, Trigger } from '../types';
import { Await, Button, Choice, Code, Facts, Notice, Page, Section, Time, Trouble, useAction } from '../ui';

const WAITING_MS = 2000;

/** What the page reads of the configuration. */
interface Configuration {
  http?: { listen?: string; admin_listen?: string };
  log?: { kind?: string; prefix?: string };
  kafka?: { brokers?: string };
}

/** Where backends and apps reach the server: here, unless the console has a listener of its own. */
function originOf({ http }: Configuration): string {
  if (!http?.admin_listen || !http.listen) return location.origin + base;
  const [, host, port] = /^(.*):(\d+)$/.exec(http.listen) ?? ['', http.listen, '80'];
  // A listener of all addresses is reached at the one that this page was.
  return `http://${['0.0.0.0', '[::]'].includes(host!) ? location.hostname : host}:${port}${base}`;
}
/** Kinds of triggers that a backend reports, and those that an app does. */
const EVENTS = ['backend', 'custom'];
const PLACES = ['frontend'];

function snippets(origin: string, key: string): Record<string, string> {
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

const widget = (origin: string, key: string) => `<script async src="${origin}/sdk/askwhen.js" data-key="${key}" data-user="user_123"></script>
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
  const configuration = useGet<Configuration>('/v1/config');
  return (
    <Page title="Connections" about="How your backend, your page and Kafka reach this server.">
      <Await of={configuration} what="Asking where the server is reached">
        {(config) => {
          const origin = originOf(config);
          return (
            <>
              <Section title="Backend trigger">
                <h3>URL</h3>
                <Code text={`${origin}/v1/events`} label="URL" />
                {config.http?.admin_listen && <p class="hint">Events and widgets have a listener of their own, <code>[http] listen</code>. Where a proxy stands before it, the proxy’s address is the one to use.</p>}
                <details class="twin">
                  <summary>URLs for code that was written for Blitzllama or Reward</summary>
                  <Code text={`${origin}/api/v1/connections/backend/event`} label="URL for Blitzllama's body" />
                  <Code text={`${origin}/v1/triggers/TRIGGER/users/USER/events`} label="URL for Reward's body" />
                  <p class="hint">They take the same key, as <code>x-api-key</code> or <code>authorization: Bearer</code>.</p>
                </details>
                <Keys kind="server" made={serverKey} onMade={setServerKey} />
                <div class="narrow"><Choice label="Language" value={language} options={[['curl', 'curl'], ['Node', 'Node'], ['Python', 'Python']]} onValue={setLanguage} /></div>
                <Code text={snippets(origin, serverKey || 'YOUR_SERVER_KEY')[language]!} label={`${language} snippet`} />
                <Await of={triggers} what="Listening">
                  {(list) => <First of="event" triggers={list} kinds={EVENTS} nothing="Run the snippet. The event appears here as soon as it arrives." />}
                </Await>
              </Section>
              <Section title="Widget">
                <p>These lines show surveys on a page. A key of kind client may stand in public.</p>
                <Keys kind="client" made={clientKey} onMade={setClientKey} />
                <Code text={widget(origin, clientKey || 'YOUR_CLIENT_KEY')} label="widget snippet" />
                <Await of={triggers} what="Listening">
                  {(list) => <First of="trigger" triggers={list} kinds={PLACES} nothing="Open the page with the snippet. The trigger appears here as soon as it is reported." />}
                </Await>
              </Section>
              <Section title="Kafka"><Kafka of={config} /></Section>
            </>
          );
        }}
      </Await>
    </Page>
  );
}

function Kafka({ of: { log, kafka } }: { of: Configuration }) {
  const topic = (log?.prefix ?? 'askwhen.') + 'events';
  if (log?.kind !== 'kafka')
    return <p>This server keeps its journal itself, so there is no Kafka to write to: send events to the URL above. With <code>kind = "kafka"</code> under <code>[log]</code>, producers write to topic <code>{topic}</code>, and its addresses stand here.</p>;
  return (
    <>
      <p>Any producer may write to the journal. The key of a record is the user’s ID, so that one user’s records stay in order.</p>
      <Facts of={[['Topic', <code>{topic}</code>], ['Addresses', <code>{kafka?.brokers}</code>]]} />
      <Code label="kcat command" text={`echo 'user_123:{"user_id": "user_123", "event_name": "ended_sleep", "properties": {}}' \\\n  | kcat -P -b ${kafka?.brokers} -t ${topic} -K:`} />
    </>
  );
}
