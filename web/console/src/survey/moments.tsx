/** When a survey is armed, and where it may show. */
import { useRef } from 'preact/hooks';
import type { Json, JsonObject } from '../api';
import { Button, Choice, Section, Suggestions, TextField } from '../ui';
import { AtChoice, AtDuration, AtJson, AtNumber, AtText, fieldId, Group, isSaid, Rows, useEditor, Where } from './fields';
import { getAt, isObject, setAt, type Path } from './model';

const FORMS: [string, string][] = [
  ['event', 'by an event (or at each trigger, if none is named)'], ['any', 'by any of several events'], ['all', 'when all of several events have come'],
  ['sequence', 'when events have come one after the other'], ['absence', 'when an event has not been followed by another'],
];
/** What an activation of another form begins with. */
const FRESH: Record<string, Json> = {
  any: { any: [{ event: '' }, { event: '' }] },
  all: { all: [{ event: '' }, { event: '' }], within: '24h' },
  sequence: { sequence: { steps: [{ event: '' }, { event: '' }], within: '60m' } },
  absence: { absence: { after: { event: '' }, without: { event: '' }, for: '30m' } },
};
const DEFAULT_EXPIRY = '2h';
/** Members that only an armed survey has. */
const OF_ARMED = ['expires_after', 'delay', 'cancel_on', 'on_repeat'];

const EventAt = ({ path, label }: { path: Path; label: string }) => <AtText path={path} label={label} list="known-events" />;

export function Activation() {
  const editor = useEditor();
  const { at, def, change, wrong, events } = editor;
  const activate = at(['activate']);
  const form = isObject(activate) ? (Object.keys(FRESH).find((name) => name in activate) ?? 'event') : 'event';

  /** What went with the event's name: it comes back with another. */
  const put = useRef<JsonObject>({});
  /** Names the event, and takes the activation away with it; an armed survey needs an expiry, and no other has one. */
  function setEvent(event: string): void {
    if (event) {
      const armed = { expires_after: DEFAULT_EXPIRY, ...put.current, ...def };
      put.current = {};
      return change(setAt(armed, ['activate', 'event'], event) as JsonObject);
    }
    const rest = { ...def };
    put.current = {};
    for (const name of ['activate', ...OF_ARMED])
      if (name in rest) {
        put.current[name] = rest[name]!;
        delete rest[name];
      }
    change(rest);
  }
  function setForm(name: string): void {
    const next: JsonObject = { ...def, ...(!isSaid(at(['expires_after'])) && name !== 'event' && { expires_after: DEFAULT_EXPIRY }) };
    if (name === 'event') for (const member of ['activate', ...OF_ARMED]) delete next[member];
    else next.activate = FRESH[name]!;
    change(next);
  }
  return (
    <Section title="Activation">
      <p class="hint">An event that your backend reports arms the survey for that user, for as long as it may show. Without one, each trigger below is a moment of its own.</p>
      <Choice label="Armed" value={form} options={FORMS} onValue={setForm} />
      {wrong(['activate']).map((fault) => <p class="fault" key={fault}>{fault}</p>)}
      {form === 'event' && (
        <>
          <TextField id={fieldId(['activate', 'event'])} label="Activate with backend event" list="known-events" value={String(getAt(activate, ['event']) ?? '')} faults={wrong(['activate', 'event'])} onValue={setEvent}
            hint="Choose a known event, or type the name of one that will come." placeholder="ended_sleep" />
          {isSaid(activate) && <Where path={['activate', 'where']} />}
        </>
      )}
      {(form === 'any' || form === 'all') && <Events path={['activate', form]} />}
      {form === 'all' && <AtDuration path={['activate', 'within']} label="All within" placeholder="24h" />}
      {form === 'sequence' && (
        <>
          <Events path={['activate', 'sequence', 'steps']} />
          <AtDuration path={['activate', 'sequence', 'within']} label="All within" placeholder="60m" />
        </>
      )}
      {form === 'absence' && (
        <>
          <div class="row"><EventAt path={['activate', 'absence', 'after', 'event']} label="After the event" /><EventAt path={['activate', 'absence', 'without', 'event']} label="without the event" /><AtDuration path={['activate', 'absence', 'for']} label="for" placeholder="30m" /></div>
          <h4>Filters of the first event</h4>
          <Where path={['activate', 'absence', 'after', 'where']} />
          <h4>Filters of the second event</h4>
          <Where path={['activate', 'absence', 'without', 'where']} />
        </>
      )}
      {isSaid(activate) && (
        <>
          <div class="row">
            <AtDuration path={['expires_after']} label="Expires after" hint="How long it may show after the event: at most 100 h." />
            <AtDuration path={['delay']} label="Delay" placeholder="0s" hint="How long after the event it may show first." />
          </div>
          <More form={form} />
        </>
      )}
      {!isSaid(activate) && isSaid(at(['expires_after'])) && <AtDuration path={['expires_after']} label="Expires after" hint="Needed when an event is named: at most 100 h." />}
      <Suggestions id="known-events" names={events} />
    </Section>
  );
}

function More({ form }: { form: string }) {
  const { at } = useEditor();
  const said = ['count', 'match'].some((name) => isSaid(at(['activate', name]))) || isSaid(at(['cancel_on'])) || at(['on_repeat']) === 'keep_first';
  return (
    <Group title="Count, cancel, repeat" open={said}>
      {(form === 'event' || form === 'any') && (
        <div class="row">
          <AtNumber path={['activate', 'count', 'at_least']} label="Armed at event number" min={1} max={50} placeholder="1" />
          <AtDuration path={['activate', 'count', 'within']} label="counted within" placeholder="24h" />
          <AtChoice path={['activate', 'count', 'distinct']} label="counting" fallback="" options={[['', 'each event'], ['day', 'days'], ['session', 'sessions']]} />
        </div>
      )}
      <div class="row">
        <AtText path={['activate', 'match']} label="A window for each value of" placeholder="ticket_id" hint="A property; empty is one window for each user." />
        <AtChoice path={['on_repeat']} label="Another such event" fallback="refresh" options={[['refresh', 'moves the window'], ['keep_first', 'changes nothing']]} />
      </div>
      <h4>Cancelled by</h4>
      <Events path={['cancel_on']} least={0} />
    </Group>
  );
}

function Events({ path, least = 1 }: { path: Path; least?: number }) {
  return (
    <Rows path={path} name="Event" add={least ? 'Add event' : 'Add cancelling event'} fresh={() => ({ event: '' })}>
      {(row) => (
        <>
          <EventAt path={[...row, 'event']} label="Event" />
          <Where path={[...row, 'where']} />
        </>
      )}
    </Rows>
  );
}

export function ShowAt() {
  const { at, set, wrong, triggers } = useEditor();
  const value = at(['show_on']);
  const rows = Array.isArray(value) && value.length ? value : [null];
  return (
    <Section title="Where it shows">
      <p class="hint">Frontend triggers are places that your app reports, such as a screen.</p>
      {rows.map((row, i) => {
        const path = ['show_on', i];
        const name = i ? `Show at (${i + 1})` : 'Show at';
        return (
          <fieldset class="row-set" key={i}>
            <legend class="unseen">Place {i + 1}</legend>
            <TextField id={fieldId(i ? path : ['show_on'])} label={name} list="known-frontend" value={isObject(row) ? String(row.trigger ?? '') : ''} faults={i ? wrong(path, true) : [...wrong(['show_on']), ...wrong([...path, 'trigger'])]}
              onValue={(trigger) => set(trigger || rows.length > 1 ? [...path, 'trigger'] : ['show_on'], trigger || (rows.length > 1 ? '' : undefined))} placeholder="MainActivity" />
            {isObject(row) && <Where path={[...path, 'where']} />}
            {rows.length > 1 && <Button class="small" onClick={() => set(['show_on'], rows.filter((_, j) => j !== i))} aria-label={`Remove place ${i + 1}`}>Remove</Button>}
          </fieldset>
        );
      })}
      <Suggestions id="known-frontend" names={triggers} />
      {rows[0] && <Button class="small" onClick={() => set(['show_on'], [...rows, { trigger: '' }])}>Add place</Button>}
      {rows.some((row) => row !== null && !isObject(row)) && <AtJson path={['show_on']} label="As JSON" />}
    </Section>
  );
}
