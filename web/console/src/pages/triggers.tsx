/** The names of events and places that are known, and new ones. */
import { useState } from 'preact/hooks';
import { all, call, route } from '../api';
import { count, idOf, number, short } from '../format';
import { useLoaded } from '../live';
import { href, setQuery } from '../route';
import { useCanChange } from '../session';
import { Table, type Column } from '../table';
import type { SurveyDefinition, Trigger } from '../types';
import { Await, Badge, Button, Choice, Dialog, Empty, Page, TextField, Time, Trouble, useAction } from '../ui';

/** Ids that a survey names anywhere, as an event or as a frontend trigger. */
function namesIn(value: unknown, into: Set<string>): Set<string> {
  if (Array.isArray(value)) value.forEach((one) => namesIn(one, into));
  else if (value && typeof value === 'object')
    for (const [name, one] of Object.entries(value)) {
      if ((name === 'event' || name === 'trigger') && typeof one === 'string') into.add(one);
      else namesIn(one, into);
    }
  return into;
}

export function Triggers({ query }: { query: URLSearchParams }) {
  const canChange = useCanChange();
  const loaded = useLoaded('triggers', async (signal) => {
    const [triggers, surveys] = await Promise.all([
      all<Trigger>('/v1/triggers', 'triggers', 2000, signal),
      all<SurveyDefinition>('/v1/surveys', 'surveys', 1000, signal),
    ]);
    const uses = surveys.map((survey) => namesIn([survey.activate, survey.cancel_on, survey.show_on, survey.targeting], new Set()));
    return triggers.map((trigger) => ({ ...trigger, uses: uses.filter((names) => names.has(trigger.trigger_id)).length }));
  }, ['triggers', 'surveys', 'definitions']);
  const [removing, setRemoving] = useState<Trigger>();
  const creating = canChange && query.get('new') !== null;
  const open = (on: boolean) => setQuery({ new: on ? '1' : '' });

  const columns: Column<Trigger>[] = [
    { name: 'ID', value: (row) => row.trigger_id, show: (row) => <code class="long">{row.trigger_id}</code> },
    { name: 'Name', value: (row) => row.name, show: (row) => <span class="long">{row.name}</span> },
    { name: 'Kind', value: (row) => row.kind, show: (row) => <Badge name={row.kind} /> },
    { name: 'First seen', value: (row) => row.first_seen_at, show: (row) => <Time at={row.first_seen_at} empty="not yet" /> },
    { name: 'Surveys', value: (row) => row.uses, show: (row) => number(row.uses), numeric: true },
    ...(canChange ? [{ name: 'Remove', show: (row: Trigger) => <Button class="small" onClick={() => setRemoving(row)} >Remove<span class="unseen"> {short(row.trigger_id)}</span></Button> }] : []),
  ];
  return (
    <Page
      title="Triggers"
      about="Events that backends report, and places in apps where a survey may show. A name appears here by itself when it is first seen."
      actions={canChange && <Button look="main" onClick={() => open(true)}>Create trigger</Button>}
    >
      <Await of={loaded} what="Loading triggers">
        {(rows) => rows.length
          ? <Table name="Triggers" columns={columns} rows={rows} rowKey={(row) => row.trigger_id} />
          : <Empty title="No trigger has been seen yet."><p>Send an event from your backend (see <a href={href('/connections')}>Connections</a>), or create a trigger here so that surveys can name it.</p></Empty>}
      </Await>
      {creating && <Create known={loaded.data ?? []} onClose={() => open(false)} onSaved={() => { open(false); loaded.reload(); }} />}
      {removing && <Remove trigger={removing} onClose={() => setRemoving(undefined)} onDone={() => { setRemoving(undefined); loaded.reload(); }} />}
    </Page>
  );
}

function Create({ known, onClose, onSaved }: { known: Trigger[]; onClose: () => void; onSaved: () => void }) {
  const [name, setName] = useState('');
  const [ownId, setOwnId] = useState<string | null>(null);
  const [kind, setKind] = useState<string>('backend');
  const action = useAction();
  const id = ownId ?? idOf(name);
  const at = (pointer: string) => action.error?.faults.filter((fault) => fault.pointer === pointer).map((fault) => fault.detail);
  const taken = known.some((trigger) => trigger.trigger_id === id) ? ['This ID is taken.'] : undefined;
  return (
    <Dialog title="Create trigger" onClose={onClose}>
      <form onSubmit={(event) => {
        event.preventDefault();
        if (taken) return;
        void action.run(() => call('POST', '/v1/triggers', { body: { name: name.trim(), ...(id && { trigger_id: id }), kind } })).then((saved) => saved && onSaved());
      }}>
        <TextField label="Name" value={name} onValue={setName} required faults={at('/name')} />
        <TextField label="ID" value={id} onValue={setOwnId} required faults={at('/trigger_id')?.length ? at('/trigger_id') : taken} hint="What your code sends. It is made from the name until you change it." />
        <Choice label="Kind" value={kind} onValue={setKind} options={[['backend', 'backend: an event that a server reports'], ['frontend', 'frontend: a place in the app'], ['custom', 'custom']]} faults={at('/kind')} />
        {action.error && <Trouble error={action.error} />}
        <div class="actions">
          <Button look="main" submit busy={action.busy}>Save</Button>
          <Button onClick={onClose}>Cancel</Button>
        </div>
      </form>
    </Dialog>
  );
}

function Remove({ trigger, onClose, onDone }: { trigger: Trigger; onClose: () => void; onDone: () => void }) {
  const action = useAction();
  return (
    <Dialog title="Remove trigger" onClose={onClose}>
      <p><code>{trigger.trigger_id}</code> leaves the list. {trigger.uses ? `${count(trigger.uses, 'survey')} that name it go on working.` : 'No survey names it.'} It comes back when it is seen again.</p>
      {action.error && <Trouble error={action.error} />}
      <div class="actions">
        <Button look="danger" busy={action.busy} onClick={() => void action.run(() => call('DELETE', route`/v1/triggers/${trigger.trigger_id}`)).then((done) => done && onDone())}>Remove</Button>
        <Button onClick={onClose}>Cancel</Button>
      </div>
    </Dialog>
  );
}
