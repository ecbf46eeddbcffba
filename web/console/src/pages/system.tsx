/** Partitions, snapshots, topics, keys, jobs and the configuration. */
import { useState } from 'preact/hooks';
import { call, route, type JsonObject } from '../api';
import { bytes, number, span } from '../format';
import { useGet, useInterval, useLoaded } from '../live';
import { has, metrics, most, of, sum, type Sample } from '../metrics';
import { href } from '../route';
import { useCanChange } from '../session';
import { Table, type Column } from '../table';
import type { ApiKey, Job } from '../types';
import { Await, Badge, Button, Choice, Code, Dialog, Empty, Facts, Notice, Page, Section, TextField, Time, Trouble, useAction } from '../ui';
import { isOver, Progress } from './jobs';

const REFRESH_MS = 10_000;

interface Ready extends JsonObject {
  ready: boolean;
  reasons: string[];
  partitions: number;
  version: string;
}

export function System() {
  const ready = useGet<Ready>('/readyz?verbose');
  const samples = useLoaded('metrics', metrics);
  useInterval(REFRESH_MS, () => { ready.reload(); samples.reload(); });
  return (
    <Page title="System" about="How the server itself is.">
      <Await of={ready} what="Asking the server">
        {(data) => (
          <Section title="Server">
            {data.ready ? <Notice tone="good" title="It is ready." /> : <Notice tone="bad" title="It is not ready."><ul>{data.reasons.map((reason) => <li key={String(reason)}>{typeof reason === 'string' ? reason : JSON.stringify(reason)}</li>)}</ul></Notice>}
            <Facts of={[
              ['Version', <code>{data.version}</code>],
              ...(samples.data && has(samples.data, 'disk_free_bytes') ? [['Free disk', bytes(sum(samples.data, 'disk_free_bytes'))] as [string, string]] : []),
              ...memory(samples.data ?? []),
            ]} />
          </Section>
        )}
      </Await>
      <Await of={samples} what="Reading metrics">{(data) => <Parts samples={data} ready={ready.data} />}</Await>
      <Keys />
      <Jobs />
      <Settings ready={ready.data} />
    </Page>
  );
}

/** Memory in use, and the bound that the stores keep to. The metric's other parts lie within these. */
function memory(samples: Sample[]): [string, string][] {
  const part = (name: string) => of(samples, 'memory_bytes').find((one) => one.labels.part === name)?.value;
  const [resident, bound] = [part('resident'), part('bound')];
  return resident === undefined ? [] : [['Memory in use', `${bytes(resident)}${bound ? ` of ${bytes(bound)}` : ''}`]];
}

function Parts({ samples, ready }: { samples: Sample[]; ready: Ready | undefined }) {
  const owned = ready?.owned as Record<string, number[]> | undefined;
  const lag = new Map(of(samples, 'engine_lag_records').map((one) => [one.labels.partition!, one.value]));
  const late = new Map(of(samples, 'engine_lag_seconds').map((one) => [one.labels.partition!, one.value]));
  const partitions = [...lag.keys()].sort((a, b) => Number(a) - Number(b));
  const topics = of(samples, 'log_bytes').map((one) => ({ topic: one.labels.topic!, size: one.value }));
  return (
    <>
      <Section title="Partitions">
        {partitions.length ? (
          <Table name="Partitions" rows={partitions} rowKey={(row) => row} columns={[
            { name: 'Partition', value: (row) => Number(row) },
            { name: 'Owner', value: (row) => (owned?.engine?.includes(Number(row)) ? 'this process' : 'another process') },
            { name: 'Lag, records', value: (row) => lag.get(row), show: (row) => number(lag.get(row)), numeric: true },
            { name: 'Lag, time', value: (row) => late.get(row), show: (row) => span((late.get(row) ?? 0) * 1000), numeric: true },
          ]} />
        ) : <Empty title="This process owns no partition."><p>Its role <code>engine</code> is off, or another process has them all.</p></Empty>}
      </Section>
      <Section title="Snapshots">
        <Facts of={[
          ['Longest without one', has(samples, 'store_snapshot_age_seconds') ? span(most(samples, 'store_snapshot_age_seconds') * 1000) : '–'],
          ['Taken since the start', number(sum(samples, 'store_snapshot_seconds_count'))],
          ['Failed since the start', number(sum(samples, 'store_snapshot_failures_total'))],
        ]} />
        <TakeSnapshot />
        <p class="quiet">Backups are made by <code>askwhen backup create URL</code>, and tried by <code>askwhen backup verify URL</code>.</p>
      </Section>
      {topics.length > 0 && (
        <Section title="Topics">
          <Table name="Topics" rows={topics} rowKey={(row) => row.topic} columns={[
            { name: 'Topic', value: (row) => row.topic, show: (row) => <code>{row.topic}</code> },
            { name: 'Size', value: (row) => row.size, show: (row) => bytes(row.size), numeric: true },
          ]} />
        </Section>
      )}
    </>
  );
}

function TakeSnapshot() {
  const canChange = useCanChange();
  const action = useAction();
  const [done, setDone] = useState(false);
  if (!canChange) return null;
  return (
    <>
      <Button busy={action.busy} onClick={() => void action.run(() => call('POST', '/v1/snapshots')).then(setDone)}>Take a snapshot</Button>
      {done && <Notice tone="good" title="The snapshot is taken." />}
      {action.error && <Trouble error={action.error} />}
    </>
  );
}

function Keys() {
  const canChange = useCanChange();
  const loaded = useGet<{ keys: ApiKey[] }>('/v1/keys', ['keys', 'definitions']);
  const [creating, setCreating] = useState(false);
  const [revoking, setRevoking] = useState<ApiKey>();
  const columns: Column<ApiKey>[] = [
    { name: 'Name', value: (row) => row.name, show: (row) => row.name ?? <span class="quiet">no name</span> },
    { name: 'Kind', value: (row) => row.kind, show: (row) => <Badge name={row.kind} /> },
    { name: 'Prefix', value: (row) => row.prefix, show: (row) => row.prefix ? <code class="nowrap">{row.prefix}…</code> : '–' },
    { name: 'Last used', value: (row) => row.last_used_at, show: (row) => <Time at={row.last_used_at} empty="never" /> },
    { name: 'Created', value: (row) => row.created_at, show: (row) => <Time at={row.created_at} /> },
    { name: 'From', value: (row) => row.source, show: (row) => (row.source === 'file' ? 'the configuration' : 'the console or the API') },
    ...(canChange ? [{ name: 'Revoke', show: (row: ApiKey) => row.source === 'runtime' ? <Button class="small" onClick={() => setRevoking(row)} >Revoke<span class="unseen"> {row.name ?? row.prefix}</span></Button> : null }] : []),
  ];
  return (
    <Section title="Keys" actions={canChange && <Button onClick={() => setCreating(true)}>New key</Button>}>
      <Await of={loaded} what="Loading keys">
        {({ keys }) => keys.length ? <Table name="Keys" columns={columns} rows={keys} rowKey={(row) => row.key_id} /> : <Empty title="There are no keys." />}
      </Await>
      {creating && <NewKey onClose={() => { setCreating(false); loaded.reload(); }} />}
      {revoking && <Revoke of={revoking} onClose={() => { setRevoking(undefined); loaded.reload(); }} />}
    </Section>
  );
}

function NewKey({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState('');
  const [kind, setKind] = useState('server');
  const [made, setMade] = useState('');
  const action = useAction();
  return (
    <Dialog title="New key" onClose={onClose}>
      {made ? (
        <Notice tone="good" title="This is the new key. It is shown this once.">
          <Code text={made} label="new key" />
          <Button look="main" onClick={onClose}>I have kept it</Button>
        </Notice>
      ) : (
        <form onSubmit={(event) => { event.preventDefault(); void action.run(async () => setMade((await call<{ key: string }>('POST', '/v1/keys', { body: { name: name.trim(), kind } })).data.key)); }}>
          <TextField label="Name" value={name} onValue={setName} required hint="Who or what uses it. Changes made with it carry this name." />
          <Choice label="Kind" value={kind} onValue={setKind} options={[['client', 'client: may stand in an app'], ['server', 'server: a backend'], ['viewer', 'viewer: reads everything'], ['admin', 'admin: everything']]} />
          {action.error && <Trouble error={action.error} />}
          <div class="actions"><Button look="main" submit busy={action.busy}>Save</Button><Button onClick={onClose}>Cancel</Button></div>
        </form>
      )}
    </Dialog>
  );
}

function Revoke({ of: key, onClose }: { of: ApiKey; onClose: () => void }) {
  const action = useAction();
  return (
    <Dialog title="Revoke key" onClose={onClose}>
      <p>Requests with <code>{key.prefix}…</code> ({key.name ?? key.kind}) are refused from now on, and sessions made with it end.</p>
      {action.error && <Trouble error={action.error} />}
      <div class="actions">
        <Button look="danger" busy={action.busy} onClick={() => void action.run(() => call('DELETE', route`/v1/keys/${key.key_id}`)).then((done) => done && onClose())}>Revoke</Button>
        <Button onClick={onClose}>Cancel</Button>
      </div>
    </Dialog>
  );
}

function Jobs() {
  const loaded = useGet<{ jobs: Job[] }>('/v1/jobs', ['jobs']);
  useInterval(loaded.data?.jobs.some((job) => !isOver(job)) ? 2000 : null, loaded.reload);
  return (
    <Section title="Jobs">
      <Await of={loaded} what="Loading jobs">
        {({ jobs }) => jobs.length
          ? <ul class="plain">{jobs.map((job) => <li key={job.job_id}><strong>{job.kind}</strong> <Time at={job.started_at} /> <Progress job={job} onCancelled={loaded.reload} /></li>)}</ul>
          : <Empty title="No job has run."><p>Resends, recoveries, backfills and backtests are listed here.</p></Empty>}
      </Await>
    </Section>
  );
}

function Settings({ ready }: { ready: Ready | undefined }) {
  const canChange = useCanChange();
  const settings = useGet<JsonObject>('/v1/settings', ['settings', 'definitions']);
  const configuration = useGet<JsonObject>('/v1/config');
  return (
    <Section title="Configuration" actions={<a class="button" href={href('/system/settings')}>{canChange ? 'Edit settings' : 'Settings'}</a>}>
      <Await of={settings} what="Loading settings">
        {(data) => (
          <>
            <h3>Settings of the project</h3>
            <Code text={JSON.stringify(data, null, 2)} label="settings" />
          </>
        )}
      </Await>
      {ready && <><h3>What this process says of itself</h3><Code text={JSON.stringify(ready, null, 2)} label="state of the process" /></>}
      <h3>Configuration of this process</h3>
      <p class="hint">Every layer merged: file, environment, command line. Secrets are left out. What has changed in the file since and needs a restart is not in it yet.</p>
      <Await of={configuration} what="Loading the configuration">{(data) => <Code text={JSON.stringify(data, null, 2)} label="configuration of the process" />}</Await>
    </Section>
  );
}
