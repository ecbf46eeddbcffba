/** The project's settings: what holds for all its surveys. */
import { useMemo, useState } from 'preact/hooks';
import { all, call, type Json, type JsonObject } from '../api';
import { useLoaded } from '../live';
import { href } from '../route';
import { useCanChange } from '../session';
import { Caps, Spans, Targeting } from '../survey/audience';
import { useCheck } from '../survey/draft';
import { AtCheck, AtDuration, AtNumber, EditorContext } from '../survey/fields';
import { differences, merge, same } from '../survey/model';
import { AsJson, AsYaml, Differences, Faults } from '../survey/review';
import type { Settings, SurveyDefinition, Trigger } from '../types';
import { Await, Button, Notice, Page, Section, Suggestions, Trouble, useAction } from '../ui';

interface Stored {
  def: JsonObject;
  etag: string | null;
}

export function SettingsPage() {
  const loaded = useLoaded('settings', async (signal): Promise<Stored> => {
    const { data, etag } = await call<Settings>('GET', '/v1/settings', { signal });
    return { def: data, etag };
  });
  if (loaded.data) return <Form given={loaded.data} />;
  return <Head><Await of={loaded} what="Loading settings">{() => null}</Await></Head>;
}

function Head({ actions, children }: { actions?: preact.ComponentChildren; children: preact.ComponentChildren }) {
  return (
    <Page title="Settings" back={<a href={href('/system')}>System</a>} about="What holds for all surveys of the project." actions={actions}>
      {children}
    </Page>
  );
}

function Form({ given }: { given: Stored }) {
  const canChange = useCanChange();
  const [stored, setStored] = useState(given);
  const [def, setDef] = useState(given.def);
  const [open, setOpen] = useState<'yaml' | 'json'>();
  const [saved, setSaved] = useState(false);
  const { faults, dry, problem, refused } = useCheck('/v1/settings', def, stored, canChange);
  const action = useAction();
  const names = useLoaded('names', async (signal) => ({
    triggers: await all<Trigger>('/v1/triggers', 'triggers', 2000, signal),
    surveys: await all<SurveyDefinition>('/v1/surveys', 'surveys', 1000, signal),
  }), ['triggers']);
  const events = (names.data?.triggers ?? []).filter((one) => one.kind !== 'frontend').map((one) => one.trigger_id);
  const editor = useMemo(() => ({ def, change: (next: JsonObject) => { setSaved(false); setDef(next); }, faults, events, triggers: [], surveys: (names.data?.surveys ?? []).map((one) => one.survey_id) }), [def, faults, names.data]);
  const edited = !same(def, stored.def);
  const close = () => setOpen(undefined);

  /** Reads what is stored now; changes of this page that are not stored stay. */
  async function read(mine?: JsonObject): Promise<void> {
    const { data, etag } = await call<Settings>('GET', '/v1/settings');
    setStored({ def: data, etag });
    setDef(mine ? (merge(stored.def, data, mine) as JsonObject) : data);
  }
  const save = () => action.run(async () => {
    try {
      await call('PUT', '/v1/settings', { body: def, headers: stored.etag ? { 'if-match': stored.etag } : {} });
    } catch (error) {
      refused((error as { faults?: typeof faults }).faults ?? []);
      throw error;
    }
    await read();
  }).then(setSaved);
  return (
    <EditorContext.Provider value={editor}>
      <Head actions={<><Button onClick={() => setOpen('yaml')}>View as YAML</Button>{canChange && <Button onClick={() => setOpen('json')}>Edit as JSON</Button>}</>}>
        {!canChange && <Notice title="You can look, and change nothing.">Your key is of kind viewer.</Notice>}
        <div class="editor">
          <div class="form"><fieldset disabled={!canChange} aria-label="Settings"><Fields /></fieldset></div>
          {canChange && (
            <div class="beside">
              <Section title="Difference">
                <Faults of={faults} before="save" />
                {problem && <Trouble error={problem} />}
                {!faults.length && !problem && (dry ? <Differences of={differences(dry.current as Json, dry.body as Json)} empty="Nothing has changed." /> : <p class="quiet">Checking…</p>)}
                {dry && (dry.warnings?.length ?? 0) > 0 && <Notice tone="warn" title="The server warns"><ul>{dry.warnings!.map((one) => <li key={one} dir="auto">{one}</li>)}</ul></Notice>}
                {action.error && <Trouble error={action.error} />}
                {action.error?.status === 412 && <Button onClick={() => void action.run(() => read(def))}>Keep both, mine where they meet</Button>}
                {saved && !edited && <Notice tone="good" title="The settings are saved." />}
                <div class="actions">
                  <Button look="main" busy={action.busy} onClick={() => void save()}>Save</Button>
                  {edited && <Button onClick={() => setDef(stored.def)}>Discard changes</Button>}
                </div>
              </Section>
            </div>
          )}
        </div>
        <Suggestions id="known-events" names={events} />
        {open === 'yaml' && <AsYaml kind="settings" def={def} onClose={close} />}
        {open === 'json' && <AsJson def={def} onClose={close} onApply={(next) => { editor.change(next); close(); }} />}
      </Head>
    </EditorContext.Provider>
  );
}

function Fields() {
  return (
    <>
      <Section title="How often users are asked">
        <div class="row">
          <AtDuration path={['global_cooldown']} label="Cooldown between surveys" placeholder="7d" hint="From the last display of any survey; 0s is off." />
          <AtNumber path={['max_per_session']} label="Surveys per session" min={0} step={1} placeholder="1" />
          <AtDuration path={['session_lifetime']} label="A session ends after" placeholder="never" hint="Without use; then its ID counts as a new one." />
        </div>
        <AtCheck path={['erase_keeps_cooldown']} label="Erasing a user keeps when they were asked last" hint="So that nobody is asked again the same day." />
      </Section>
      <Section title="Who may be asked at all">
        <p class="hint">Whom this leaves out no survey asks, unless the survey says so under <em>The project’s own targeting</em>.</p>
        <Targeting />
      </Section>
      <Section title="When nobody is asked">
        <Spans path={['schedule', 'except']} name="Span" empty="There is no such time: holidays and freezes go here." />
      </Section>
      <Section title="Caps over all surveys"><Caps path={['caps']} empty="None: each survey has its own limits." /></Section>
      <Section title="How long things hold">
        <div class="row halves">
          <AtDuration path={['offer_ttl']} label="An offer waits to be shown for" placeholder="10m" hint="Then its survey is armed again." />
          <AtDuration path={['offer_known']} label="An offer can be answered for" placeholder="24h" hint="At most 7d." />
          <AtDuration path={['max_expires_after']} label="Longest Expires after of a survey" placeholder="100h" hint="At most 30d." />
          <AtDuration path={['allowed_lateness']} label="An event may be late by" placeholder="100h" hint="An older one no longer counts." />
        </div>
      </Section>
    </>
  );
}
