/** What *Publish* would change, in plain sight before it is pressed; conflicts; and versions. */
import { useState } from 'preact/hooks';
import { ApiError, parseJson, route, type FieldFault, type Json, type JsonObject } from '../api';
import { clock, count, short } from '../format';
import { useGet } from '../live';
import { useCanChange } from '../session';
import type { DryRun, SurveyVersion } from '../types';
import { Await, Button, Code, Dialog, Empty, Notice, Section, Time, Trouble, useAction } from '../ui';
import type { Draft } from './draft';
import { fieldId } from './fields';
import { differences, same, type Difference } from './model';
import { yaml } from './yaml';

/** What a change of status does, in a sentence. */
export function statusSentence(before: string | undefined, after: string, dry?: Pick<DryRun, 'open_windows' | 'open_windows_exact'>): string {
  const { open_windows: open, open_windows_exact: exact = true } = dry ?? {};
  const windows = open === undefined ? '' : ` ${exact ? '' : 'At least '}${count(open, 'user has', 'users have')} an open window.`;
  switch (after) {
    case 'active': return before === 'active' ? '' : 'Users can be asked as soon as you publish.' + windows;
    case 'paused': return before === 'paused' ? '' : 'Nobody is asked while it is paused; events go on arming it.' + windows;
    case 'test': return before === 'test' ? '' : 'Only its test users are asked; caps and cooldowns do not count for them.';
    case 'shadow': return before === 'shadow' ? '' : 'Nobody is asked; each decision notes what it would have done.';
    case 'archived': return before === 'archived' ? '' : 'It ends: nobody is asked, and events arm it no more.' + windows;
    default: return before === after ? '' : 'A draft: nobody is asked, and events do not arm it.';
  }
}

export function Differences({ of, empty }: { of: Difference[]; empty: string }) {
  if (!of.length) return <p class="quiet">{empty}</p>;
  return (
    <ul class="differences">
      {of.map((one) => (
        <li key={one.path.join('\n')}>
          <strong dir="auto">{one.path.join(' › ') || 'the whole'}</strong>
          {one.before !== undefined && <del dir="auto">{short(one.before, 400)}</del>}
          {one.after !== undefined && <ins dir="auto">{short(one.after, 400)}</ins>}
        </li>
      ))}
    </ul>
  );
}

/** Takes the user to the field that a fault is about, or to the nearest part around it. */
function goTo(pointer: string): void {
  for (let at = pointer; at; at = at.slice(0, at.lastIndexOf('/'))) {
    const field = document.getElementById('f' + at);
    if (!field) continue;
    field.closest('details')?.setAttribute('open', '');
    field.focus();
    field.scrollIntoView({ block: 'center' });
    return;
  }
}

/** What is to be mended before something can be done; each leads to its field. */
export function Faults({ of, before }: { of: FieldFault[]; before: string }) {
  if (!of.length) return null;
  return (
    <div class="notice warn" role="status">
      <strong>{count(of.length, 'thing')} to mend before you {before}</strong>
      <ul class="plain">{of.map((fault) => <li key={fault.pointer + fault.detail}><a href={'#' + fieldId([fault.pointer])} onClick={(event) => { event.preventDefault(); goTo(fault.pointer); }}>{fault.detail}</a> <code class="quiet">{fault.pointer.slice(1)}</code></li>)}</ul>
    </div>
  );
}

export function Review({ draft, onPublished }: { draft: Draft; onPublished: (version: number) => void }) {
  const { dry, faults, stored, edited, def } = draft;
  const action = useAction();
  const [done, setDone] = useState<number>();
  // Of a new survey the server's defaults are no news.
  const changes = dry ? (dry.current ? differences(dry.current as Json, dry.body as Json) : differences({}, def as Json)) : [];
  const said = statusSentence(stored ? String(stored.def.status) : undefined, String(def.status ?? 'draft'), dry);
  const warnings = dry?.warnings ?? [];

  async function publish(): Promise<void> {
    setDone(undefined);
    // The check while typing lags behind the typing, so the server decides on what is there now.
    if (!def.survey_id) return goTo('/survey_id');
    let refused: string | undefined;
    await action.run(async () => {
      try {
        const version = await draft.publish();
        setDone(version);
        onPublished(version);
      } catch (error) {
        refused = (error as ApiError).faults?.[0]?.pointer;
        throw error;
      }
    });
    if (refused !== undefined) setTimeout(() => goTo(refused!));
  }
  return (
    <Section title="Difference">
      <Faults of={faults} before="publish" />
      {draft.problem && <Trouble error={draft.problem} />}
      {!faults.length && !draft.problem && (dry ? <Differences of={changes} empty="Nothing has changed since it was published." /> : <p class="quiet">Checking…</p>)}
      {said && <p>{said}</p>}
      {warnings.length > 0 && <Notice tone="warn" title="The server warns"><ul>{warnings.map((one) => <li key={one} dir="auto">{one}</li>)}</ul></Notice>}
      {action.error && action.error.status !== 412 && <Trouble error={action.error} />}
      {done !== undefined && !edited && <Notice tone="good" title={`Version ${done} is published.`} />}
      <div class="actions">
        <Button look="main" busy={action.busy} onClick={() => void publish()}>Publish</Button>
        {edited && stored && <Button onClick={draft.discard}>Discard changes</Button>}
      </div>
    </Section>
  );
}

/** Somebody else has published meanwhile: both changes side by side, and nothing is overwritten unasked. */
export function ConflictView({ draft }: { draft: Draft }) {
  const theirs = draft.conflict?.theirs ?? draft.moved;
  if (!theirs) return null;
  const base = draft.stored?.def;
  return (
    <section class="card conflict" aria-label="Conflict" role="alert">
      <h2>{draft.stored ? `Version ${theirs.version} was published while you were editing` : 'There is a survey of this ID already'}</h2>
      <div class="pair">
        <div><h3>Their changes</h3><Differences of={differences((base ?? {}) as Json, theirs.def as Json)} empty="None." /></div>
        <div><h3>Your changes</h3><Differences of={differences((base ?? {}) as Json, draft.def as Json)} empty="None." /></div>
      </div>
      <div class="actions">
        {draft.stored && <Button look="main" onClick={draft.takeBoth}>Keep both, mine where they meet</Button>}
        <Button onClick={draft.takeTheirs}>Take theirs</Button>
        <Button look="danger" onClick={draft.takeMine}>Keep only mine</Button>
      </div>
      <p class="quiet">Nothing is published yet: look at the difference afterwards.</p>
    </section>
  );
}

/** What `askwhen apply` reads, to be looked at and copied; it is changed in the form, as JSON, or in a file. */
export function AsYaml({ kind, def, onClose }: { kind: string; def: JsonObject; onClose: () => void }) {
  return (
    <Dialog title="YAML" onClose={onClose} wide>
      <p class="hint">This is a view of what is in the form, and cannot be changed here. Keep it as a file for <code>askwhen apply -f FILE</code>, or change it under <em>Edit as JSON</em>.</p>
      <Code text={yaml({ kind, ...def })} label="YAML" />
    </Dialog>
  );
}

export function Versions({ id, current, onRestore, onClose }: { id: string; current: JsonObject; onRestore: (def: JsonObject, version: number) => void; onClose: () => void }) {
  const canChange = useCanChange();
  const loaded = useGet<{ versions: SurveyVersion[] }>(route`/v1/surveys/${id}/versions`, ['surveys', 'definitions']);
  const [looked, setLooked] = useState<number>();
  return (
    <Dialog title="Versions" onClose={onClose} wide>
      <Await of={loaded} what="Loading versions">
        {({ versions }) => versions.length ? (
          <ol class="plain versions">
            {versions.map((one) => {
              const { version: _, ...def } = one.definition ?? {};
              return (
                <li key={one.version}>
                  <div class="row">
                    <strong>Version {one.version}</strong> <span>{one.actor ?? 'unknown'}</span> <Time at={one.changed_at} />
                    <span class="spacer" />
                    <Button class="small" onClick={() => setLooked(looked === one.version ? undefined : one.version)} aria-expanded={looked === one.version}>Compare</Button>
                    {canChange && one.definition && !same(def, current) && <Button class="small" onClick={() => onRestore(def as JsonObject, one.version)} aria-label={`Restore version ${one.version}`}>Restore</Button>}
                  </div>
                  {looked === one.version && (
                    <>
                      <p class="quiet">Published {one.changed_at ? clock(one.changed_at) : 'at a time that is not known'}. What was then, and what is in the editor now:</p>
                      <Differences of={differences(def as Json, current as Json)} empty="They are the same." />
                    </>
                  )}
                </li>
              );
            })}
          </ol>
        ) : <Empty title="No versions are kept." />}
      </Await>
    </Dialog>
  );
}

/** A definition as JSON, to be changed as a whole. */
export function AsJson({ def, title = 'Edit as JSON', verb = 'Apply', onApply, onClose }: {
  def: JsonObject;
  title?: string;
  verb?: string;
  onApply: (def: JsonObject) => void | Promise<void>;
  onClose: () => void;
}) {
  const [text, setText] = useState(JSON.stringify(def, null, 2));
  const action = useAction();
  const apply = async () => {
    let read: unknown;
    try {
      read = parseJson(text);
    } catch (error) {
      throw new ApiError(422, 'invalid_json', (error as Error).message);
    }
    if (typeof read !== 'object' || read === null || Array.isArray(read)) throw new ApiError(422, 'wrong_type', 'A definition is one object.');
    await onApply(read as JsonObject);
  };
  return (
    <Dialog title={title} onClose={onClose} wide>
      <div class="field"><label for="as-json">JSON</label><textarea id="as-json" class="mono" rows={22} spellcheck={false} value={text} onInput={(event) => setText(event.currentTarget.value)} /></div>
      {action.error && <Trouble error={action.error} />}
      <div class="actions"><Button look="main" busy={action.busy} onClick={() => void action.run(apply)}>{verb}</Button><Button onClick={onClose}>Cancel</Button></div>
    </Dialog>
  );
}
