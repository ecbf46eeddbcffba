/** Every message to an endpoint: found by filters that stand in the address, looked at, sent again. */
import { useEffect, useState } from 'preact/hooks';
import { all, call, query as queryOf, route } from '../api';
import { number, words } from '../format';
import { useGet, useLoaded } from '../live';
import { usePaged } from '../paged';
import { href, setQuery } from '../route';
import { useCanChange } from '../session';
import { Table, type Column } from '../table';
import type { Delivery, Endpoint, SurveyDefinition } from '../types';
import { Badge, Button, Choice, Empty, Loading, Page, Suggestions, TextField, Time, Trouble } from '../ui';
import { Preview } from './delivery';
import { BulkResend } from './jobs';

const STATUSES = ['pending', 'waiting', 'delivered', 'dead', 'cancelled', 'resent'];
const OUTCOMES = ['delivered', 'bad_status', 'timeout', 'connect_failed', 'tls_failed', 'broken_response', 'blocked_target', 'proxy_failed', 'not_sent'];
/** The filters by their names in the address, which are those of the API. */
export const FILTERS = ['endpoint_id', 'status', 'outcome', 'http_status', 'cause', 'survey_id', 'user_id', 'type', 'since', 'until'] as const;
const TYPING_MS = 350;

export const filterOf = (query: URLSearchParams): Record<string, string> =>
  Object.fromEntries(FILTERS.flatMap((name) => (query.get(name) ? [[name, query.get(name)!]] : [])));

/** A text filter that waits until the typing pauses. */
function Typed({ name, label, query, list, ...rest }: { name: string; label: string; query: URLSearchParams; list?: string; placeholder?: string; inputMode?: 'numeric' }) {
  const given = query.get(name) ?? '';
  const [text, setText] = useState(given);
  useEffect(() => setText(given), [given]);
  useEffect(() => {
    if (text === given) return;
    const timer = setTimeout(() => setQuery({ [name]: text.trim() }), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return <TextField label={label} value={text} onValue={setText} {...(list && { list })} {...rest} />;
}

/** A moment, in the clock of the reader; the address and the API have it with its zone. */
function Moment({ name, label, query }: { name: string; label: string; query: URLSearchParams }) {
  const given = query.get(name);
  const at = given ? new Date(given) : null;
  const local = at && !Number.isNaN(+at) ? new Date(+at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16) : '';
  return <TextField label={label} type="datetime-local" value={local} onValue={(value) => setQuery({ [name]: value ? new Date(value).toISOString() : '' })} />;
}

export function Deliveries({ query }: { query: URLSearchParams }) {
  const canChange = useCanChange();
  const filter = filterOf(query);
  const list = usePaged<Delivery>('/v1/deliveries' + queryOf(filter), 'deliveries', (row) => row.delivery_id, ['deliveries', 'attempts', 'dead']);
  const names = useLoaded('names', async (signal) => ({
    endpoints: (await all<Endpoint>('/v1/endpoints', 'endpoints', 1000, signal)).map((one) => one.endpoint_id),
    surveys: (await all<SurveyDefinition>('/v1/surveys', 'surveys', 1000, signal)).map((one) => one.survey_id),
  }));
  const chosen = query.get('delivery');
  const [bulk, setBulk] = useState(false);
  const open = (id: string) => setQuery({ delivery: id });

  const columns: Column<Delivery>[] = [
    { name: 'Delivery', value: (row) => row.delivery_id, show: (row) => <button type="button" class="link mono nowrap" onClick={() => open(row.delivery_id)}>{row.delivery_id.slice(0, 14)}…</button> },
    { name: 'Status', value: (row) => row.status, show: (row) => <><Badge name={row.status} /> {row.reason && <span class="quiet long">{words(row.reason)}</span>}</> },
    { name: 'Endpoint', value: (row) => row.endpoint_id },
    { name: 'Type', value: (row) => row.type },
    { name: 'Survey', value: (row) => row.survey_id },
    { name: 'User', value: (row) => row.user_id, show: (row) => <span class="long">{row.user_id}</span> },
    { name: 'Attempts', value: (row) => row.attempt_count, show: (row) => number(row.attempt_count), numeric: true },
    { name: 'Created', value: (row) => row.created_at, show: (row) => <Time at={row.created_at} /> },
    { name: 'Next attempt', value: (row) => row.next_attempt_at, show: (row) => <Time at={row.next_attempt_at} />, extra: true },
  ];
  return (
    <Page title="Deliveries" about="One line for each message to each endpoint, newest first."
      actions={canChange && <Button onClick={() => setBulk(true)}>Resend all that match</Button>}>
      <form class="filters" aria-label="Filters" onSubmit={(event) => event.preventDefault()}>
        <Choice label="Endpoint" value={query.get('endpoint_id') ?? ''} onValue={(value) => setQuery({ endpoint_id: value })} options={[['', 'any'], ...(names.data?.endpoints ?? []).map((id) => [id, id] as [string, string])]} />
        <Choice label="Status" value={query.get('status') ?? ''} onValue={(value) => setQuery({ status: value })} options={[['', 'any'], ...STATUSES]} />
        <Choice label="Outcome" value={query.get('outcome') ?? ''} onValue={(value) => setQuery({ outcome: value })} options={[['', 'any'], ...OUTCOMES]} />
        <Typed label="Code" name="http_status" query={query} inputMode="numeric" />
        <Choice label="Survey" value={query.get('survey_id') ?? ''} onValue={(value) => setQuery({ survey_id: value })} options={[['', 'any'], ...(names.data?.surveys ?? []).map((id) => [id, id] as [string, string])]} />
        <Typed label="User" name="user_id" query={query} />
        <Typed label="Type" name="type" query={query} list="delivery-types" />
        <Suggestions id="delivery-types" names={['response.answered', 'response.completed', 'survey.displayed', 'survey.dismissed', 'survey.closed', 'user.erased', 'endpoint.test']} />
        <Moment label="Since" name="since" query={query} />
        <Moment label="Until" name="until" query={query} />
        {query.get('cause') && <p class="field"><span class="badge">one cause</span></p>}
        {Object.keys(filter).length > 0 && <Button class="small" onClick={() => setQuery(Object.fromEntries(FILTERS.map((name) => [name, ''])))}>Clear filters</Button>}
      </form>
      {list.error && <Trouble error={list.error} retry={list.refresh} />}
      {!list.rows && !list.error && <Loading what="Loading deliveries" />}
      <p class="newer" role="status">{list.newer > 0 && <Button class="small" onClick={list.refresh}>Show {number(list.newer)} newer</Button>}</p>
      {list.rows && (list.rows.length
        ? <Table name="Deliveries" columns={columns} rows={list.rows} rowKey={(row) => row.delivery_id} selected={chosen ?? undefined}
            more={list.hasMore && <p class="more"><Button onClick={list.more} busy={list.loadingMore}>Show more</Button></p>} />
        : Object.keys(filter).length
          ? <Empty title="No delivery matches."><p>Take a filter away, or look at a longer time.</p></Empty>
          : <Empty title="Nothing has been delivered yet."><p>When a user answers a survey, each endpoint that wants to know is sent a message, and it appears here. Say where answers go under <a href={href('/endpoints')}>Endpoints</a>, and try it with <em>Test</em>.</p></Empty>)}
      {chosen && <Preview key={chosen} id={chosen} onClose={() => setQuery({ delivery: '' })} onOpen={open} />}
      {bulk && <BulkResend filter={filter} about={Object.keys(filter).length ? 'all deliveries that match the filters' : 'all deliveries'} onClose={() => setBulk(false)} />}
    </Page>
  );
}

/** One delivery with its attempts, kept up to date. */
export const useDelivery = (id: string) => useGet<Delivery>(route`/v1/deliveries/${id}`, ['deliveries', 'attempts', 'dead']);
export const resend = async (id: string): Promise<string> =>
  (await call<{ delivery_id: string }>('POST', route`/v1/deliveries/${id}/resend`)).data.delivery_id;
