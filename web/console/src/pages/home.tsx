/** What needs action first; then how the last day went. */
import { all, call, ofEach, query as queryOf, route } from '../api';
import { Bars } from '../charts';
import { bytes, count, durationMs, number, percent, since, span, words } from '../format';
import { SLOW_MS, useInterval, useLoaded } from '../live';
import { has, metrics, most, sum, type Sample } from '../metrics';
import { href } from '../route';
import { useCanChange } from '../session';
import type { Cause, Endpoint, Stats, SurveyDefinition } from '../types';
import { Await, Empty, Notice, Page, Section } from '../ui';

const LAG_MS = 5000;
const DISK_LOW = 2 ** 30;
/** So many snapshots may be missing. */
const SNAPSHOTS_MISSED = 6;
const SNAPSHOT_EVERY = '10m';
const REFRESH_MS = 15_000;
/** Surveys whose numbers are asked for at a time. */
const AT_ONCE = 6;

interface Urgent {
  tone: 'bad' | 'warn';
  title: string;
  to: string;
  link: string;
}

interface Overview {
  endpoints: Endpoint[];
  surveys: SurveyDefinition[];
  causes: Cause[];
  samples: Sample[];
  ready: { ready: boolean; reasons: unknown[] } | null;
  /** How often snapshots are taken. */
  every: string;
  stats: Stats;
  /** What the server did not say, in words. */
  unread: string[];
}

export const NONE: Stats = { considered: 0, offered: 0, displayed: 0, dismissed: 0, answered: 0, completed: 0, not_offered: {} };

export function add(a: Stats, b: Stats): Stats {
  const gates = { ...a.not_offered };
  for (const [gate, n] of Object.entries(b.not_offered ?? {})) gates[gate] = (gates[gate] ?? 0) + n;
  return {
    considered: a.considered + b.considered, offered: a.offered + b.offered, displayed: a.displayed + b.displayed,
    dismissed: a.dismissed + b.dismissed, answered: a.answered + b.answered, completed: a.completed + b.completed, not_offered: gates,
  };
}

async function overview(signal: AbortSignal): Promise<Overview> {
  const day = since('24h');
  const unread: string[] = [];
  /** The page has much else to say, so what is missing becomes a part of it. */
  const without = <T,>(what: string, nothing: T) => (error: unknown): T => {
    if (signal.aborted) throw error;
    if (!unread.includes(what)) unread.push(what);
    return nothing;
  };
  const [endpoints, surveys, causes, samples, ready, every] = await Promise.all([
    all<Endpoint>('/v1/endpoints', 'endpoints', 1000, signal),
    all<SurveyDefinition>('/v1/surveys', 'surveys', 1000, signal),
    call<{ causes: Cause[] }>('GET', '/v1/deliveries/causes' + queryOf({ since: since('7d') }), { signal }).then(({ data }) => data.causes, without('failed deliveries', [])),
    metrics(signal).catch(without('its metrics', [])),
    call<{ ready: boolean; reasons: unknown[] }>('GET', '/readyz?verbose', { signal }).then(({ data }) => data, without('whether it is ready', null)),
    call<{ snapshots?: { every?: string } }>('GET', '/v1/config', { signal }).then(({ data }) => data.snapshots?.every ?? SNAPSHOT_EVERY, without('its configuration', SNAPSHOT_EVERY)),
  ]);
  const living = surveys.filter((survey) => !['draft', 'archived'].includes(survey.status));
  const stats = await ofEach(living, AT_ONCE, (survey) => call<Stats>('GET', route`/v1/surveys/${survey.survey_id}/stats` + queryOf({ since: day }), { signal }).then(({ data }) => data, without('the numbers of some surveys', NONE)));
  return { endpoints, surveys, causes, samples, ready, every, unread, stats: stats.reduce(add, NONE) };
}

export function urgent({ endpoints, causes, samples, ready, every, unread }: Overview): Urgent[] {
  const found: Urgent[] = [];
  for (const endpoint of endpoints) {
    const to = '/endpoints/' + encodeURIComponent(endpoint.endpoint_id);
    const why = endpoint.state_reason ? ` (${words(endpoint.state_reason)})` : '';
    if (endpoint.enabled && endpoint.state === 'disabled') found.push({ tone: 'bad', title: `Endpoint ${endpoint.endpoint_id} was disabled${why}: nothing reaches it.`, to, link: 'Mend it' });
    else if (endpoint.enabled && endpoint.state === 'open') found.push({ tone: 'bad', title: `Endpoint ${endpoint.endpoint_id} takes nothing${why}: messages wait.`, to, link: 'Look' });
  }
  const open = causes.filter((cause) => cause.count > cause.resent);
  const failed = open.reduce((total, cause) => total + cause.count - cause.resent, 0);
  if (failed) found.push({ tone: 'warn', title: `${count(failed, 'delivery', 'deliveries')} failed in the last 7 days and not sent again, for ${count(open.length, 'cause')}.`, to: '/failures?period=7d', link: 'Failures' });
  const lag = most(samples, 'engine_lag_seconds') * 1000;
  if (lag > LAG_MS) found.push({ tone: 'bad', title: `The engine is ${span(lag)} behind: triggers are answered late.`, to: '/system', link: 'Partitions' });
  const rejects = sum(samples, 'engine_rejects_total');
  if (rejects) found.push({ tone: 'warn', title: `${count(rejects, 'record')} could not be read since the server started; topic rejects has them.`, to: '/system', link: 'System' });
  if (has(samples, 'disk_free_bytes') && sum(samples, 'disk_free_bytes') < DISK_LOW) found.push({ tone: 'bad', title: `Only ${bytes(sum(samples, 'disk_free_bytes'))} of disk are free.`, to: '/system', link: 'System' });
  const age = most(samples, 'store_snapshot_age_seconds') * 1000;
  if (age > SNAPSHOTS_MISSED * durationMs(every)) found.push({ tone: 'bad', title: `No snapshot has covered all stores for ${span(age)}.`, to: '/system', link: 'Snapshots' });
  if (sum(samples, 'store_snapshot_failures_total')) found.push({ tone: 'warn', title: `${count(sum(samples, 'store_snapshot_failures_total'), 'snapshot')} failed since the server started.`, to: '/system', link: 'Snapshots' });
  if (ready && !ready.ready) found.push({ tone: 'bad', title: `The server is not ready: ${ready.reasons.map((reason) => (typeof reason === 'string' ? reason : JSON.stringify(reason))).join('; ')}.`, to: '/system', link: 'System' });
  if (unread.length) found.push({ tone: 'warn', title: `The server did not say: ${unread.join(', ')}. What follows is without it.`, to: '/system', link: 'System' });
  return [...found.filter((one) => one.tone === 'bad'), ...found.filter((one) => one.tone === 'warn')];
}

export function Home() {
  const loaded = useLoaded('home', overview, ['deliveries', 'decisions', 'responses', 'endpoints', 'surveys', 'definitions', 'dead'], SLOW_MS);
  useInterval(REFRESH_MS, loaded.reload);
  return (
    <Page title="Home" about="What needs you first, then how the last 24 hours went.">
      <Await of={loaded} what="Loading the overview">
        {(data) => (
          <>
            <Section title="Needs action">
              {urgent(data).length ? (
                <ul class="urgent">
                  {urgent(data).map((one) => (
                    <li key={one.title} class={`notice ${one.tone}`}><span dir="auto">{one.title}</span> <a href={href(one.to)}>{one.link}</a></li>
                  ))}
                </ul>
              ) : <Notice tone="good" title="Nothing needs you."><p>Endpoints take what they are sent, and nothing is behind.</p></Notice>}
            </Section>
            {data.surveys.length === 0 && <FirstSteps endpoints={data.endpoints.length} />}
            <Day data={data} />
          </>
        )}
      </Await>
    </Page>
  );
}

function FirstSteps({ endpoints }: { endpoints: number }) {
  const canChange = useCanChange();
  return (
    <Section title="First steps">
      <ol class="steps">
        <li><a href={href('/connections')}>Connect your backend and your page</a>: copy a snippet, and see the first event arrive.</li>
        <li><a href={href(canChange ? '/surveys?new=1' : '/surveys')}>Write a survey</a> from a template.</li>
        <li><a href={href(canChange ? '/endpoints?new=1' : '/endpoints')}>{endpoints ? 'Look at your endpoints' : 'Say where answers go'}</a>.</li>
      </ol>
    </Section>
  );
}

function Day({ data: { stats, samples } }: { data: Overview }) {
  const gates = Object.entries(stats.not_offered).sort(([, a], [, b]) => b - a).slice(0, 10);
  const inflight = sum(samples, 'delivery_inflight');
  return (
    <>
      <Section title="Rates of the last 24 hours">
        <ul class="tiles">
          <li><strong>{number(stats.considered)}</strong> considered</li>
          <li><strong>{number(stats.offered)}</strong> offered <span class="quiet">{percent(stats.offered, stats.considered)}</span></li>
          <li><strong>{number(stats.answered)}</strong> answered <span class="quiet">{percent(stats.answered, stats.displayed)} of displayed</span></li>
          <li><strong>{number(stats.completed)}</strong> completed</li>
          <li><strong>{number(sum(samples, 'delivery_waiting'))}</strong> deliveries wait{inflight ? `, ${number(inflight)} in flight` : ''}</li>
        </ul>
      </Section>
      <Section title="Funnel of the last 24 hours">
        {stats.considered ? (
          <div class="pair">
            <Bars title="From considered to completed" of={stats.considered} unit="Users' moments" points={(['considered', 'offered', 'displayed', 'answered', 'completed'] as const).map((name) => ({ label: name, value: stats[name] }))} />
            {gates.length > 0 && <Bars title="Why not offered" unit="Times" points={gates.map(([gate, n]) => ({ label: words(gate), value: n }))} />}
          </div>
        ) : <Empty title="No survey has been considered in this time."><p>A survey is considered when an app reports a frontend trigger that the survey names in <em>Show at</em>.</p></Empty>}
      </Section>
    </>
  );
}
