/** A survey: its form, its preview, what publishing would change, and its past. */
import { useMemo, useState } from 'preact/hooks';
import { all, type JsonObject } from '../api';
import { idOf } from '../format';
import { useLoaded } from '../live';
import { go, href } from '../route';
import { useCanChange } from '../session';
import type { DryRun, SurveyDefinition, Trigger } from '../types';
import { Await, Badge, Button, Notice, Page, Section, TextField } from '../ui';
import { Audience, Pressure, Privacy } from './audience';
import { fetchStored, useDraft, type Stored } from './draft';
import { AtCheck, AtChoice, AtList, AtNumber, EditorContext, fieldId, useEditor } from './fields';
import { Languages, Look } from './looks';
import { Activation, ShowAt } from './moments';
import { Preview } from './preview';
import { Questions } from './questions';
import { AsJson, AsYaml, ConflictView, Review, statusSentence, Versions } from './review';
import { TEMPLATES } from './templates';

const STATUSES: [string, string][] = [['draft', 'draft: being written'], ['test', 'test: for test users only'], ['shadow', 'shadow: decided, never shown'], ['active', 'active: users are asked'], ['paused', 'paused: armed, not shown'], ['archived', 'archived: over']];

export function SurveyPage({ id, query }: { id: string; query: URLSearchParams }) {
  const template = id === 'new' ? query.get('template') : null;
  const loaded = useLoaded(template === null ? id : null, (signal) => fetchStored(id, signal));
  if (template !== null) return <Editor key={'new:' + template} template={template} stored={null} />;
  if (loaded.data) return <Editor key={id} stored={loaded.data} />;
  return <Page title={id} back={<a href={href('/surveys')}>Surveys</a>}><Await of={loaded} what="Loading the survey">{() => null}</Await></Page>;
}

function Editor({ stored: given, template }: { stored: Stored | null; template?: string }) {
  const canChange = useCanChange();
  const fresh = TEMPLATES.find((one) => one.id === template) ?? TEMPLATES.at(-1)!;
  const [initial] = useState<JsonObject>(() => given?.def ?? { ...fresh.def, survey_id: idOf(String(fresh.def.name), '-') });
  const draft = useDraft(given ? String(given.def.survey_id) : 'new:' + fresh.id, given, initial, canChange);
  const names = useLoaded('names', async (signal) => ({
    triggers: await all<Trigger>('/v1/triggers', 'triggers', 2000, signal),
    surveys: await all<SurveyDefinition>('/v1/surveys', 'surveys', 1000, signal),
  }), ['triggers']);
  const [open, setOpen] = useState<'yaml' | 'json' | 'versions'>();
  const { def, stored } = draft;
  const id = String(def.survey_id ?? '');
  // A survey that nobody has touched yet is not scolded for what it lacks.
  const faults = stored || draft.edited ? draft.faults : [];
  const editor = useMemo(() => ({
    def, change: draft.change, faults,
    events: (names.data?.triggers ?? []).filter((one) => one.kind !== 'frontend').map((one) => one.trigger_id),
    triggers: (names.data?.triggers ?? []).filter((one) => one.kind !== 'backend').map((one) => one.trigger_id),
    surveys: (names.data?.surveys ?? []).map((one) => one.survey_id),
  }), [def, faults, names.data]);
  const close = () => setOpen(undefined);

  return (
    <EditorContext.Provider value={editor}>
      <Page
        title={stored ? String(stored.def.name) : 'New survey'}
        back={<a href={href('/surveys')}>Surveys</a>}
        about={<>{stored && <><Badge name={String(stored.def.status)} /> version {stored.version} · <code>{id}</code></>}{!stored && 'Nobody is asked before you publish.'}</>}
        actions={
          <>
            <Button onClick={() => setOpen('yaml')}>View as YAML</Button>
            {canChange && <Button onClick={() => setOpen('json')}>Edit as JSON</Button>}
            {stored && <Button onClick={() => setOpen('versions')}>Versions</Button>}
            {stored && <a class="button" href={href('/results/' + encodeURIComponent(id))}>Results</a>}
            {stored && <a class="button" href={href('/backtest?survey=' + encodeURIComponent(id))}>Backtest</a>}
          </>
        }
      >
        {draft.restored && draft.edited && <Notice title="These are changes that you had not published."><Button class="small" onClick={draft.discard}>Discard them</Button></Notice>}
        {!canChange && <Notice title="You can look, and change nothing.">Your key is of kind viewer.</Notice>}
        <ConflictView draft={draft} />
        <div class="editor">
          <div class="form">
            <fieldset disabled={!canChange} aria-label="Survey">
              <Basics isNew={!stored} before={stored ? String(stored.def.status) : undefined} dry={draft.dry} />
              <Questions />
              <Activation />
              <ShowAt />
              <Audience />
              <Pressure />
              <Look />
              <Languages />
              <Privacy />
            </fieldset>
          </div>
          <div class="beside">
            <Preview def={def} />
            {canChange && <Review draft={draft} onPublished={() => stored || go('/surveys/' + encodeURIComponent(id), true)} />}
          </div>
        </div>
        {open === 'yaml' && <AsYaml kind="survey" def={def} onClose={close} />}
        {open === 'json' && <AsJson def={def} onClose={close} onApply={(next) => { draft.change(next); close(); }} />}
        {open === 'versions' && stored && <Versions id={id} current={def} onClose={close} onRestore={(next) => { draft.change(next); close(); }} />}
      </Page>
    </EditorContext.Provider>
  );
}

function Basics({ isNew, before, dry }: { isNew: boolean; before: string | undefined; dry: DryRun | undefined }) {
  const { def, at, change, set, wrong } = useEditor();
  const [ownId, setOwnId] = useState(false);
  const status = String(at(['status']) ?? 'draft');
  const rename = (name: string) => change({ ...def, name, ...(isNew && !ownId && { survey_id: idOf(name, '-') }) });
  return (
    <Section title="Basics">
      <div class="row">
        <TextField id={fieldId(['name'])} label="Name" value={String(at(['name']) ?? '')} onValue={rename} faults={wrong(['name'])} />
        {isNew && <TextField id={fieldId(['survey_id'])} label="ID" value={String(at(['survey_id']) ?? '')} faults={wrong(['survey_id'])} onValue={(id) => { setOwnId(true); set(['survey_id'], id); }} hint="It cannot be changed later." />}
      </div>
      <div class="row">
        <AtChoice path={['status']} label="Status" options={STATUSES} fallback="draft" hint={statusSentence(before, status, dry) || undefined} />
        <AtNumber path={['priority']} label="Priority" step={1} placeholder="0" hint="Of several that could be offered, the higher wins." />
        <AtList path={['tags']} label="Tags" hint="Rules of other surveys can name them." />
      </div>
      {status === 'test' && <AtList path={['test_users']} label="Test users" hint="IDs, with commas between them." />}
      <AtCheck path={['link']} label="May be answered from a link" hint="Then it needs no place to show." />
    </Section>
  );
}
