/** One user: what has happened, what is known, and why each survey would be offered now, or not. */
import { useEffect, useState } from 'preact/hooks';
import { all, ApiError, call, query as queryOf, route, type JsonObject } from '../api';
import { clock, number, short, words } from '../format';
import { sentence } from '../gates';
import { SLOW_MS, useLoaded } from '../live';
import { usePaged } from '../paged';
import { go, href, setQuery } from '../route';
import { useCanChange } from '../session';
import type { Decision, Evaluation, Explanation, TimelineItem, Trigger, UserState } from '../types';
import { Await, Badge, Button, Code, Dialog, Empty, Facts, Loading, Notice, Page, Section, Suggestions, TextField, Time, Trouble, useAction } from '../ui';

export function Users({ id, query }: { id: string | undefined; query: URLSearchParams }) {
  const [text, setText] = useState(id ?? '');
  useEffect(() => setText(id ?? ''), [id]);
  return (
    <Page title="Users" about="Find a user by ID: what has happened, and why a survey is offered or not.">
      <form class="filters" role="search" onSubmit={(event) => { event.preventDefault(); if (text.trim()) go('/users/' + encodeURIComponent(text.trim())); }}>
        <TextField label="User ID" value={text} onValue={setText} type="search" />
        <Button look="main" submit>Find</Button>
      </form>
      {id ? <One key={id} id={id} query={query} />
        : query.get('gate') ? <Behind query={query} />
        : <Empty title="Which user?"><p>Type the ID that your backend sends as <code>user_id</code>. An anonymous visitor’s begins with <code>anon-</code>.</p></Empty>}
    </Page>
  );
}

/** The users whom one gate has kept from a survey. */
function Behind({ query }: { query: URLSearchParams }) {
  const gate = query.get('gate')!;
  const survey = query.get('survey_id') ?? '';
  const list = usePaged<Decision>('/v1/decisions' + queryOf({ survey_id: survey, since: query.get('since') }), 'decisions', (row) => row.decision_id, ['decisions']);
  const rows = (list.rows ?? []).flatMap((decision) => {
    const found = decision.evaluations?.find((one) => one.survey_id === survey && one.gate === gate);
    return found ? [{ decision, found }] : [];
  });
  return (
    <Section title={`${survey}: ${words(gate)}`} actions={<a class="button" href={href('/results/' + encodeURIComponent(survey))}>Results</a>}>
      {list.error && <Trouble error={list.error} retry={list.refresh} />}
      {!list.rows && !list.error && <Loading what="Loading decisions" />}
      {list.rows && !rows.length && <Empty title="No user among the newest decisions.">{list.hasMore && <p>Older ones may have some.</p>}</Empty>}
      <ul class="plain">
        {rows.map(({ decision, found }) => (
          <li key={decision.decision_id}><a href={href(`/users/${encodeURIComponent(decision.user_id)}?trigger=${encodeURIComponent(decision.trigger)}&at=${encodeURIComponent(decision.decided_at)}`)}>{decision.user_id}</a> <Time at={decision.decided_at} /> <span class="quiet">{sentence(found)}</span></li>
        ))}
      </ul>
      {list.hasMore && <p class="more"><Button onClick={list.more} busy={list.loadingMore}>Look further back</Button></p>}
    </Section>
  );
}

function One({ id, query }: { id: string; query: URLSearchParams }) {
  const canChange = useCanChange();
  const [erasing, setErasing] = useState(false);
  const at = query.get('at') ?? '';
  const trigger = query.get('trigger') ?? '';
  const explained = useLoaded(`${id}\n${trigger}\n${at}`, async (signal) => {
    try {
      return (await call<Explanation>('GET', route`/v1/users/${id}/explain` + queryOf({ trigger, at }), { signal })).data;
    } catch (error) {
      // A server that explains nothing still says what is known now.
      if (!(error instanceof ApiError) || error.status !== 404 || at || trigger) throw error;
      return { user_id: id, at: new Date().toISOString(), user: (await call<UserState>('GET', route`/v1/users/${id}`, { signal })).data, decision: null };
    }
  }, at ? [] : ['decisions', 'responses'], SLOW_MS);
  return (
    <>
      <header class="card-head">
        <h2 class="long" dir="auto">{id}</h2>
        {canChange && <Button look="danger" onClick={() => setErasing(true)}>Erase</Button>}
      </header>
      <Then id={id} at={at} trigger={trigger} />
      <Await of={explained} what="Reading the journal">
        {(explanation) => explanation.user.known === false && !explanation.decision
          ? <Notice title={at ? 'Nothing was known of this user then.' : 'Nothing is known of this user.'}><p>No record of the journal names this ID, or the user was erased. Check that it is the ID that your backend sends.</p></Notice>
          : <Known id={id} explanation={explanation} />}
      </Await>
      <Timeline id={id} offers={explained.data?.user.offers ?? []} />
      {erasing && <Erase id={id} onClose={() => setErasing(false)} />}
    </>
  );
}

/** Why or why not, as it was known at a time, for a trigger. */
function Then({ id, at, trigger }: { id: string; at: string; trigger: string }) {
  const now = Date.now();
  const items = useLoaded('span:' + id, async (signal) => (await call<{ items: TimelineItem[] }>('GET', route`/v1/users/${id}/timeline?limit=200`, { signal })).data.items);
  const triggers = useLoaded('triggers', (signal) => all<Trigger>('/v1/triggers', 'triggers', 2000, signal));
  const times = (items.data ?? []).map((item) => +new Date(item.at));
  const first = Math.min(now - 3_600_000, ...times);
  const chosen = at ? +new Date(at) : now;
  const [moving, setMoving] = useState<number | null>(null);
  const [typed, setTyped] = useState(trigger);
  useEffect(() => setTyped(trigger), [trigger]);
  const value = moving ?? chosen;
  const move = (to: number) => {
    setMoving(null);
    setQuery({ at: to >= now - 1000 ? '' : new Date(to).toISOString() });
  };
  return (
    <Section title="What was known at …">
      <div class="filters">
        <div class="field wide">
          <label for="moment">Moment: <strong>{value >= now - 1000 ? 'now' : clock(value)}</strong></label>
          <input id="moment" type="range" min={first} max={now} step={1000} value={value} aria-valuetext={value >= now - 1000 ? 'now' : clock(value)}
            onInput={(event) => setMoving(Number(event.currentTarget.value))} onChange={(event) => move(Number(event.currentTarget.value))} />
          <p class="hint">Slide back to see what was known then, and what would have been decided.</p>
        </div>
        <form class="row" onSubmit={(event) => { event.preventDefault(); setQuery({ trigger: typed.trim() }); }}>
          <TextField label="Frontend trigger" value={typed} onValue={setTyped} list="known-triggers" />
          <Suggestions id="known-triggers" names={(triggers.data ?? []).filter((one) => one.kind !== 'backend').map((one) => one.trigger_id)} />
          <Button submit>Explain</Button>
        </form>
        {at && <Button onClick={() => move(Date.now())}>Back to now</Button>}
      </div>
    </Section>
  );
}

function Known({ id, explanation: { user, decision, at } }: { id: string; explanation: Explanation }) {
  const rows: (Evaluation & { eligible: boolean })[] = decision?.evaluations
    ? decision.evaluations.map((one) => ({ ...one, eligible: one.pass }))
    // A survey that no gate holds back and that is not offered all the same is in status shadow.
    : user.surveys.map((one) => ({ survey_id: one.survey_id, pass: one.eligible, eligible: one.eligible, ...(one.gate ? { gate: one.gate } : { shadow: !one.eligible }), actual: one.actual, until: one.until }));
  return (
    <div class="pair">
      <Section title="Why, and why not">
        {decision && (
          <Notice tone={decision.survey ? 'good' : 'info'} title={decision.survey ? `${decision.survey.name} is offered at ${decision.trigger}.` : `Nothing is offered at ${decision.trigger}.`} />
        )}
        {rows.length ? (
          <ul class="why">
            {rows.map((row) => (
              <li key={row.survey_id}>
                <p><a href={href('/surveys/' + encodeURIComponent(row.survey_id))}>{row.survey_id}</a> {row.gate ? <span class="badge">{words(row.gate)}</span> : <Badge name={row.shadow ? 'shadow' : 'offered'} />}</p>
                <p>{sentence(row)}</p>
                {row.hint && <p class="quiet">{row.hint}</p>}
              </li>
            ))}
          </ul>
        ) : <Empty title={decision ? 'No survey names this trigger in Show at.' : 'There is no survey for this user.'} />}
      </Section>
      <Section title="What is known">
        {user.user_id !== id && <p>This is another name of <a href={href('/users/' + encodeURIComponent(user.user_id))} class="long">{user.user_id}</a>.</p>}
        <p class="quiet">As of {clock(at)}.</p>
        <h3>Attributes</h3>
        {Object.keys(user.attributes).length
          ? <Facts of={Object.entries(user.attributes).map(([name, value]) => [name, <span class="long">{short(value, 500)}</span>])} />
          : <p class="quiet">None.</p>}
        {user.aliases && user.aliases.length > 0 && (
          <>
            <h3>Other names</h3>
            <ul class="plain">{user.aliases.map((one) => <li key={one.alias}><code class="long">{one.alias}</code> <Time at={one.since} /></li>)}</ul>
          </>
        )}
        <h3>Open windows</h3>
        {user.windows.length
          ? <ul class="plain">{user.windows.map((window) => <li key={window.survey_id + window.opens_at}><strong>{window.survey_id}</strong> closes <Time at={window.expires_at} /></li>)}</ul>
          : <p class="quiet">None: no event has armed a survey that may still show.</p>}
        <h3>Offers</h3>
        {user.offers.length
          ? <ul class="plain">{user.offers.map((offer, i) => <li key={i}><strong>{String(offer.survey_id)}</strong> <Time at={offer.offered_at as string} /> <span class="quiet">{offer.completed ? 'completed' : offer.answered ? 'answered' : offer.dismissed_at ? 'dismissed' : offer.displayed_at ? 'displayed' : 'not shown yet'}</span></li>)}</ul>
          : <p class="quiet">None.</p>}
      </Section>
    </div>
  );
}

type Offered = { survey_id?: string; offer_id?: string };

/** The surveys of offers, by the offers' ids: later items name the offer alone. */
function surveysOf(items: TimelineItem[], offers: JsonObject[]): Map<string, string> {
  const offered = [...offers, ...items.map((item) => item.survey)].filter(Boolean) as Offered[];
  return new Map(offered.flatMap(({ offer_id, survey_id }) => (offer_id && survey_id ? [[offer_id, survey_id] as const] : [])));
}

/** What stands in one line of the timeline, for each kind. */
function line(item: TimelineItem, surveys: Map<string, string>): string {
  const text = (name: string) => (item[name] == null ? '' : short(item[name], 200));
  const survey = text('survey_id') || surveys.get(String(item.offer_id)) || text('offer_id');
  switch (item.kind) {
    case 'event': return `${text('event_name')}${item.properties && Object.keys(item.properties).length ? ' ' + text('properties') : ''}`;
    case 'decision': return `at ${text('trigger')}: ${words(text('reason'))}${item.survey ? ` (${short((item.survey as { survey_id?: string }).survey_id ?? item.survey)})` : text('survey_id') && ` (${text('survey_id')})`}`;
    case 'answers': return `${survey && survey + ': '}${Array.isArray(item.answers) ? item.answers.map((one) => `${(one as { question_id: string }).question_id} = ${short((one as { value: unknown }).value)}`).join(', ') : ''}${item.completed ? ', completed' : ''}`;
    case 'delivery': return `${text('type')} to ${text('endpoint_id')}: ${words(text('status'))}`;
    case 'attributes': return text('attributes');
    case 'alias': return text('alias');
    case 'erased': return 'everything before is forgotten';
    default: return survey;
  }
}

function Timeline({ id, offers }: { id: string; offers: JsonObject[] }) {
  const list = usePaged<TimelineItem>(route`/v1/users/${id}/timeline`, 'items', (item) => JSON.stringify([item.at, item.kind, item]), ['decisions', 'responses', 'deliveries'], SLOW_MS);
  const surveys = surveysOf(list.rows ?? [], offers);
  return (
    <Section title="Timeline" actions={list.newer > 0 && <Button class="small" onClick={list.refresh}>Show {number(list.newer)} newer</Button>}>
      {list.error && <Trouble error={list.error} retry={list.refresh} />}
      {!list.rows && !list.error && <Loading what="Reading the journal" />}
      {list.rows && !list.rows.length && <Empty title="Nothing has happened yet." />}
      {list.rows && list.rows.length > 0 && (
        <ol class="timeline">
          {list.rows.map((item, i) => (
            <li key={i} class={'kind-' + item.kind}>
              <details>
                <summary><Time at={item.at} /> <strong>{words(item.kind)}</strong> <span class="long" dir="auto">{line(item, surveys)}</span></summary>
                <Code text={JSON.stringify(item, null, 2)} label={`${item.kind} of ${item.at}`} />
                {item.kind === 'delivery' && item.delivery_id && <p><a href={href('/deliveries?delivery=' + encodeURIComponent(String(item.delivery_id)))}>Show the delivery</a></p>}
                {item.kind === 'decision' && <p><Button class="small" onClick={() => setQuery({ at: item.at, trigger: String(item.trigger ?? '') })}>Explain this decision</Button></p>}
              </details>
            </li>
          ))}
        </ol>
      )}
      {list.hasMore && <p class="more"><Button onClick={list.more} busy={list.loadingMore}>Show more</Button></p>}
    </Section>
  );
}

function Erase({ id, onClose }: { id: string; onClose: () => void }) {
  const [typed, setTyped] = useState('');
  const action = useAction();
  return (
    <Dialog title="Erase user" onClose={onClose}>
      <p>Attributes, windows, offers and answers of <strong dir="auto">{id}</strong> are forgotten, also in the lists and results. What waits to be delivered is cancelled. This cannot be undone.</p>
      <TextField label="Type the user’s ID to confirm" value={typed} onValue={setTyped} />
      {action.error && <Trouble error={action.error} />}
      <div class="actions">
        <Button look="danger" busy={action.busy} disabled={typed !== id} onClick={() => void action.run(() => call('DELETE', route`/v1/users/${id}`)).then((done) => done && go('/users'))}>Erase</Button>
        <Button onClick={onClose}>Cancel</Button>
      </div>
    </Dialog>
  );
}
