/** Failed deliveries by what made them fail, so that one mend sends all of them again. */
import { useState } from 'preact/hooks';
import { query as queryOf } from '../api';
import { number, since, words } from '../format';
import { useGet } from '../live';
import { href, setQuery } from '../route';
import { useCanChange } from '../session';
import type { Cause } from '../types';
import { Table, type Column } from '../table';
import { Await, Badge, Button, Choice, Empty, Page, Time } from '../ui';
import { BulkResend } from './jobs';

export const PERIODS: [string, string][] = [['1h', 'the last hour'], ['24h', 'the last 24 hours'], ['7d', 'the last 7 days'], ['30d', 'the last 30 days'], ['all', 'all time']];

const outcomeOf = (cause: Cause): string => cause.outcome ?? 'not_sent';

export function Failures({ query }: { query: URLSearchParams }) {
  const canChange = useCanChange();
  const period = query.get('period') ?? '7d';
  const loaded = useGet<{ causes: Cause[] }>('/v1/deliveries/causes' + queryOf({ since: since(period) }), ['deliveries', 'attempts', 'dead'], 5000);
  const [sending, setSending] = useState<Cause>();
  const columns: Column<Cause>[] = [
    { name: 'Endpoint', value: (row) => row.endpoint_id, show: (row) => <a href={href('/endpoints/' + encodeURIComponent(row.endpoint_id))}>{row.endpoint_id}</a> },
    { name: 'Outcome', value: (row) => row.outcome, show: (row) => <Badge name={outcomeOf(row)} /> },
    { name: 'Status', value: (row) => row.http_status, show: (row) => row.http_status ?? '–', numeric: true },
    { name: 'Count', value: (row) => row.count, show: (row) => <a href={href('/deliveries?cause=' + encodeURIComponent(row.cause))} aria-label={`Show the ${number(row.count)} deliveries`}>{number(row.count)}</a>, numeric: true },
    ...(canChange ? [{ name: 'Mend', show: (row: Cause) => (row.resent < row.count ? <Button class="small" onClick={() => setSending(row)}>Resend all of these</Button> : <span class="quiet">all sent again</span>) }] : []),
    { name: 'Sent again', value: (row) => row.resent, show: (row) => number(row.resent), numeric: true },
    { name: 'Error', value: (row) => row.error, show: (row) => <span class="long">{row.error ?? '–'}</span> },
    { name: 'First', value: (row) => row.first_at, show: (row) => <Time at={row.first_at} /> },
    { name: 'Last', value: (row) => row.last_at, show: (row) => <Time at={row.last_at} /> },
    { name: 'Example', value: (row) => row.example, show: (row) => <a href={href(`/deliveries?cause=${encodeURIComponent(row.cause)}&delivery=${encodeURIComponent(row.example)}`)} aria-label={`Example: ${row.endpoint_id}, ${words(outcomeOf(row))}`}>Example</a> },
  ];
  return (
    <Page title="Failures" about="What went wrong with deliveries, grouped by its cause. Mend the receiver first, then send all of them again.">
      <div class="filters"><Choice label="Period" value={period} options={PERIODS} onValue={(value) => setQuery({ period: value })} /></div>
      <Await of={loaded} what="Loading failures">
        {({ causes }) => causes.length
          ? <Table name="Failures" columns={columns} rows={causes} rowKey={(row) => row.cause} />
          : <Empty title="Nothing has failed in this time."><p>When a receiver refuses messages or does not answer, you find the cause here.</p></Empty>}
      </Await>
      {sending && <BulkResend filter={{ cause: sending.cause, ...(since(period) && { since: since(period) }) }} about={`${sending.endpoint_id}, ${words(outcomeOf(sending))}${sending.http_status ? ' ' + sending.http_status : ''}`} onClose={() => { setSending(undefined); loaded.reload(); }} />}
    </Page>
  );
}
