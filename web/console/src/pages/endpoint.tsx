/** One endpoint: its state in words, its definition, and what can be done about it. */
import { useState } from 'preact/hooks';
import { all, call, query as queryOf, route } from '../api';
import { Bars, Series } from '../charts';
import { count, number, since, words } from '../format';
import { SLOW_MS, useLoaded } from '../live';
import { go, href } from '../route';
import { useCanChange } from '../session';
import type { Delivery, Endpoint } from '../types';
import { Await, Badge, Button, Choice, Code, Dialog, Empty, Notice, Page, Section, Time, Trouble, useAction } from '../ui';
import { definitionOf, EndpointForm } from './endpoint-form';
import { PERIODS } from './failures';
import { BulkJob } from './jobs';

/** What a state means, and what to do about it. */
function stateInWords(endpoint: Endpoint): string {
  if (!endpoint.enabled) return 'It is switched off. Messages for it are cancelled; after you enable it, Recover sends them.';
  const why = endpoint.state_reason ? ` Why: ${words(endpoint.state_reason)}.` : '';
  switch (endpoint.state) {
    case 'healthy': return 'It takes what it is sent.';
    case 'degraded': return 'It refuses some of what it is sent; those messages are tried again.' + why;
    case 'half_open': return 'It was failing, and is being tried with single messages.' + why;
    case 'open': return 'It fails, so nothing is sent for a while; messages wait.' + why;
    case 'disabled': return 'The server has disabled it after too many failures. Mend the receiver, enable it, and recover what was missed.' + why;
    default: return words(endpoint.state) + '.' + why;
  }
}

export function EndpointPage({ id }: { id: string }) {
  const canChange = useCanChange();
  const loaded = useLoaded(id, async (signal) => {
    const { data, etag } = await call<Endpoint>('GET', route`/v1/endpoints/${id}`, { signal });
    return { endpoint: data, etag };
  }, ['endpoints', 'definitions']);
  return (
    <Page title={id} back={<a href={href('/endpoints')}>Endpoints</a>} about={loaded.data && <span class="long" dir="auto">{loaded.data.endpoint.url}</span>}
      actions={<a class="button" href={href('/deliveries?endpoint_id=' + encodeURIComponent(id))}>Deliveries</a>}>
      <Await of={loaded} what="Loading the endpoint">
        {({ endpoint, etag }) => (
          <>
            <Section title="State">
              <p><Badge name={endpoint.enabled ? endpoint.state : 'disabled'} /> {stateInWords(endpoint)} {endpoint.state_since && <span class="quiet">It has been so since <Time at={endpoint.state_since} />.</span>}</p>
              {canChange && <Actions endpoint={endpoint} onChanged={loaded.reload} />}
            </Section>
            <Last id={id} />
            <Section title="Definition">
              {canChange
                ? <EndpointForm given={definitionOf(endpoint)} etag={etag} onSaved={loaded.reload} onSwitched={loaded.reload} />
                : <Code text={JSON.stringify(definitionOf(endpoint), null, 2)} label="endpoint as JSON" />}
            </Section>
          </>
        )}
      </Await>
    </Page>
  );
}

type Doing = 'rotate' | 'recover' | 'backfill' | 'remove';

function Actions({ endpoint, onChanged }: { endpoint: Endpoint; onChanged: () => void }) {
  const id = endpoint.endpoint_id;
  const action = useAction();
  const [tried, setTried] = useState<{ delivery_id: string; http_status: number | null; outcome: string; error?: string }>();
  const [doing, setDoing] = useState<Doing>();
  const test = async () => setTried((await call<NonNullable<typeof tried>>('POST', route`/v1/endpoints/${id}/test`)).data);
  return (
    <>
      <div class="actions">
        <Button busy={action.busy} onClick={() => void action.run(test)}>Test</Button>
        {(endpoint.state === 'disabled' || endpoint.state === 'open') && endpoint.enabled && <Button look="main" busy={action.busy} onClick={() => void action.run(async () => { await call('POST', route`/v1/endpoints/${id}/enable`); onChanged(); })}>Enable</Button>}
        <Button onClick={() => setDoing('rotate')}>Rotate secret</Button>
        <Button onClick={() => setDoing('recover')}>Recover</Button>
        <Button onClick={() => setDoing('backfill')}>Backfill</Button>
        <Button look="danger" onClick={() => setDoing('remove')}>Remove</Button>
      </div>
      {action.error && <Trouble error={action.error} />}
      {tried && (
        <Notice tone={tried.outcome === 'delivered' ? 'good' : 'bad'} title={tried.outcome === 'delivered' ? `The receiver took it with ${tried.http_status}.` : `The test failed: ${words(tried.outcome)}${tried.http_status ? ' ' + tried.http_status : ''}.`}>
          {tried.error && <p dir="auto">{tried.error}</p>}
          <p><a href={href(`/deliveries?endpoint_id=${encodeURIComponent(id)}&delivery=${encodeURIComponent(tried.delivery_id)}`)}>Show the delivery</a></p>
        </Notice>
      )}
      {doing === 'rotate' && <Rotate id={id} onClose={() => setDoing(undefined)} />}
      {(doing === 'recover' || doing === 'backfill') && <Span id={id} kind={doing} onClose={() => { setDoing(undefined); onChanged(); }} />}
      {doing === 'remove' && (
        <Dialog title="Remove endpoint" onClose={() => setDoing(undefined)}>
          <p>Nothing more is sent to <strong dir="auto">{endpoint.url}</strong>. What waits for it is given up. The list keeps its past deliveries.</p>
          {action.error && <Trouble error={action.error} />}
          <div class="actions">
            <Button look="danger" busy={action.busy} onClick={() => void action.run(() => call('DELETE', route`/v1/endpoints/${id}`)).then((done) => done && go('/endpoints'))}>Remove</Button>
            <Button onClick={() => setDoing(undefined)}>Cancel</Button>
          </div>
        </Dialog>
      )}
    </>
  );
}

function Rotate({ id, onClose }: { id: string; onClose: () => void }) {
  const [overlap, setOverlap] = useState('24h');
  const [secret, setSecret] = useState('');
  const action = useAction();
  return (
    <Dialog title="Rotate secret" onClose={onClose}>
      {secret ? (
        <Notice tone="good" title="This is the new secret. It is shown this once.">
          <Code text={secret} label="new secret" />
          <Button look="main" onClick={onClose}>I have kept it</Button>
        </Notice>
      ) : (
        <>
          <Choice label="The old secret signs on for" value={overlap} options={[['0s', 'no time: it ends at once'], ['1h', 'an hour'], ['24h', 'a day'], ['7d', 'a week']]} onValue={setOverlap} />
          {action.error && <Trouble error={action.error} />}
          <div class="actions">
            <Button look="main" busy={action.busy} onClick={() => void action.run(async () => setSecret((await call<{ secret: string }>('POST', route`/v1/endpoints/${id}/rotate-secret`, { body: { overlap } })).data.secret))}>Rotate</Button>
            <Button onClick={onClose}>Cancel</Button>
          </div>
        </>
      )}
    </Dialog>
  );
}

const SPANS = {
  recover: ['Recover', 'Sends again what this endpoint has missed: dead messages, and those cancelled while it was disabled.'],
  backfill: ['Backfill', 'Sends what this endpoint would have been told if it had been there.'],
} as const;

/** From when on, and then the exact number. */
function Span({ id, kind, onClose }: { id: string; kind: 'recover' | 'backfill'; onClose: () => void }) {
  const [period, setPeriod] = useState('24h');
  const [begun, setBegun] = useState(false);
  const [title, about] = SPANS[kind];
  if (begun)
    return <BulkJob title={title} verb={title} onClose={onClose} body={{ kind, endpoint_id: id, since: since(period) }} ask={(n) => `${count(n, 'message')} will be sent to ${id}, oldest first.`} />;
  return (
    <Dialog title={title} onClose={onClose}>
      <p>{about}</p>
      <Choice label="Period" value={period} options={PERIODS.filter(([name]) => name !== 'all')} onValue={setPeriod} />
      <div class="actions"><Button look="main" onClick={() => setBegun(true)}>Count</Button><Button onClick={onClose}>Cancel</Button></div>
    </Dialog>
  );
}

const HOURS = 24;
const HOUR_MS = 3_600_000;

/** Rate and success of the last day, from the list of deliveries. */
function Last({ id }: { id: string }) {
  const loaded = useLoaded('last:' + id, (signal) => all<Delivery>('/v1/deliveries' + queryOf({ endpoint_id: id, since: since('24h') }), 'deliveries', 2000, signal), ['deliveries', 'attempts'], SLOW_MS);
  return (
    <Section title="The last 24 hours">
      <Await of={loaded} what="Loading deliveries">
        {(rows) => {
          if (!rows.length) return <Empty title="Nothing was sent to it in this time."><p>Try it with <em>Test</em>.</p></Empty>;
          const now = Date.now();
          const hours = Array.from({ length: HOURS }, (_, i) => {
            const from = now - (HOURS - i) * HOUR_MS;
            const inside = rows.filter((row) => +new Date(row.created_at) >= from && +new Date(row.created_at) < from + HOUR_MS);
            return { label: new Date(from).toISOString().slice(11, 13) + 'h', value: inside.length };
          });
          const statuses = [...new Set(rows.map((row) => row.status))].map((status) => ({ label: words(status), value: rows.filter((row) => row.status === status).length }));
          const tries = rows.reduce((sum, row) => sum + row.attempt_count, 0);
          return (
            <div class="pair">
              <Series title="Messages per hour (UTC)" points={hours} unit="Messages" />
              <div>
                <Bars title="How they stand" points={statuses} of={rows.length} unit="Messages" />
                <p class="quiet">{number(tries)} attempts for {number(rows.length)} messages{rows.length >= 2000 ? ', the newest 2,000' : ''}.</p>
              </div>
            </div>
          );
        }}
      </Await>
    </Section>
  );
}
