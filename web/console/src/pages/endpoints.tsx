/** The receivers of webhooks. */
import { all } from '../api';
import { useLoaded } from '../live';
import { go, href, setQuery } from '../route';
import { useCanChange } from '../session';
import { Table, type Column } from '../table';
import type { Endpoint } from '../types';
import { Await, Badge, Button, Dialog, Empty, Page, Time } from '../ui';
import { EndpointForm } from './endpoint-form';

export function Endpoints({ query }: { query: URLSearchParams }) {
  const canChange = useCanChange();
  const loaded = useLoaded('endpoints', (signal) => all<Endpoint>('/v1/endpoints', 'endpoints', 1000, signal), ['endpoints', 'definitions']);
  const columns: Column<Endpoint>[] = [
    { name: 'ID', value: (row) => row.endpoint_id, show: (row) => <a href={href('/endpoints/' + encodeURIComponent(row.endpoint_id))} class="long">{row.endpoint_id}</a> },
    { name: 'URL', value: (row) => row.url, show: (row) => <span class="long">{row.url}</span> },
    { name: 'Profile', value: (row) => row.profile },
    { name: 'State', value: (row) => (row.enabled ? row.state : 'disabled'), show: (row) => <Badge name={row.enabled ? row.state : 'disabled'} /> },
    { name: 'Since', value: (row) => row.state_since, show: (row) => <Time at={row.state_since} /> },
    { name: 'Events', value: (row) => (row.events as string[]).join(' '), extra: true },
  ];
  return (
    <Page title="Endpoints" about="Where answers go: each endpoint is a URL that receives signed webhooks."
      actions={canChange && <Button look="main" onClick={() => setQuery({ new: '1' })}>New endpoint</Button>}>
      <Await of={loaded} what="Loading endpoints">
        {(rows) => rows.length
          ? <Table name="Endpoints" columns={columns} rows={rows} rowKey={(row) => row.endpoint_id} />
          : <Empty title="There is no endpoint yet."><p>Answers are kept in any case. With an endpoint your CRM, warehouse or chat hears of each of them.</p>
              {canChange && <Button look="main" onClick={() => setQuery({ new: '1' })}>New endpoint</Button>}</Empty>}
      </Await>
      {canChange && query.get('new') !== null && (
        <Dialog title="New endpoint" onClose={() => setQuery({ new: '' })} wide>
          <EndpointForm onCancel={() => setQuery({ new: '' })} onSaved={(id) => go('/endpoints/' + encodeURIComponent(id))} />
        </Dialog>
      )}
    </Page>
  );
}
