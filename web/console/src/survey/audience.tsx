/** Who may be asked: schedule, app, targeting rules, shares. */
import type { ComponentChildren } from 'preact';
import type { Json, JsonObject } from '../api';
import { Button, Check, Choice, Field, Section } from '../ui';
import { AtCheck, AtChoice, AtDuration, AtJson, AtList, AtNumber, AtText, Condition, fieldId, Group, isSaid, Rows, useEditor, Where } from './fields';
import { isObject, setAt, type Path } from './model';

const DAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'];
const DID: [string, string][] = [['offered', 'offered'], ['displayed', 'displayed'], ['answered', 'answered'], ['completed', 'completed'], ['dismissed', 'dismissed']];
const DISTINCT: [string, string][] = [['', 'each time'], ['day', 'days'], ['session', 'sessions']];

export function Audience() {
  const { at } = useEditor();
  const said = (...names: string[]) => names.some((name) => isSaid(at([name])));
  return (
    <Section title="Who may be asked">
      <h3>Targeting</h3>
      <Targeting />
      <AtChoice path={['settings_targeting']} label="The project’s own targeting" fallback="respect" options={[['respect', 'holds, too'], ['ignore', 'is left aside']]} />
      <Group title="Schedule" open={said('schedule')}><Schedule /></Group>
      <Group title="App and language" open={said('platforms', 'locales', 'app_version')}>
        <div class="row">
          <AtList path={['platforms']} label="Platforms" placeholder="any" hint="ios, android, web" />
          <AtList path={['locales']} label="Languages" placeholder="any" hint="de takes de-AT" />
          <AtText path={['app_version']} label="App versions" placeholder=">=2.1 <4" />
        </div>
      </Group>
      <Group title="Samples and experiments" open={Number(at(['sampling', 'percent']) ?? 100) !== 100 || Number(at(['holdout', 'percent']) ?? 0) > 0 || said('spread', 'experiment')}><Shares /></Group>
    </Section>
  );
}

/** A moment with its zone; the field shows it in the clock of the reader. */
function AtMoment({ path, label }: { path: Path; label: string }) {
  const { at, set, wrong } = useEditor();
  const value = at(path);
  const moment = typeof value === 'string' ? new Date(value) : null;
  const isWhole = !moment || moment.getUTCSeconds() === 0;
  const local = moment && !Number.isNaN(+moment) ? new Date(+moment - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, isWhole ? 16 : 19) : '';
  return (
    <Field id={fieldId(path)} label={label} faults={wrong(path)}>
      {(props) => <input {...props} type="datetime-local" step={isWhole ? 60 : 1} value={local} onInput={(event) => set(path, event.currentTarget.value ? new Date(event.currentTarget.value).toISOString().replace('.000', '') : undefined)} />}
    </Field>
  );
}

export const Spans = ({ path, name, empty }: { path: Path; name: string; empty?: string }) => (
  <Rows path={path} name={name} empty={empty && <p class="quiet">{empty}</p>} add={`Add ${name.toLowerCase()}`} fresh={() => ({ start_at: new Date().toISOString().slice(0, 10) + 'T00:00:00Z', end_at: new Date().toISOString().slice(0, 10) + 'T23:59:59Z' })}>
    {(row) => <div class="row"><AtMoment path={[...row, 'start_at']} label="From" /><AtMoment path={[...row, 'end_at']} label="To" /></div>}
  </Rows>
);

function Schedule() {
  const { at, set, wrong } = useEditor();
  const value = at(['schedule', 'days']);
  const days = Array.isArray(value) ? value : [];
  return (
    <>
      <div class="row"><AtMoment path={['schedule', 'start_at']} label="Starts" /><AtMoment path={['schedule', 'end_at']} label="Ends" /></div>
      <AtText path={['schedule', 'timezone']} label="Clocks of" placeholder="UTC" hint="A place such as Europe/Berlin, or user for each user’s own." />
      <fieldset>
        <legend>Days (none is every day)</legend>
        <div class="days">
          {DAYS.map((day) => <Check key={day} label={day} checked={days.includes(day)} onChange={(on) => {
            const next = DAYS.filter((one) => (one === day ? on : days.includes(one)));
            set(['schedule', 'days'], next.length ? next : undefined);
          }} />)}
        </div>
      </fieldset>
      <Hours />
      {wrong(['schedule']).map((fault) => <p class="fault" key={fault}>{fault}</p>)}
      <Group title="Several spans, days of the month, exceptions" open={['windows', 'month_days', 'except'].some((name) => isSaid(at(['schedule', name])))}>
        <h4>Spans</h4>
        <Spans path={['schedule', 'windows']} name="Span" />
        <MonthDays />
        <h4>Except</h4>
        <Spans path={['schedule', 'except']} name="Exception" />
      </Group>
    </>
  );
}

function Hours() {
  const { at, set, wrong } = useEditor();
  const path = ['schedule', 'hours'];
  const value = at(path);
  const hours = Array.isArray(value) ? value : ['', ''];
  const change = (i: number, to: string) => {
    const next = [hours[0] ?? '', hours[1] ?? ''];
    next[i] = to;
    set(path, next.some(Boolean) ? next : undefined);
  };
  return (
    <div class="row">
      {(['From the hour', 'To the hour'] as const).map((label, i) => (
        <Field key={label} id={fieldId([...path, i])} label={label} faults={i ? undefined : wrong(path, true)}>
          {(props) => <input {...props} type="time" value={String(hours[i] ?? '')} onInput={(event) => change(i, event.currentTarget.value)} />}
        </Field>
      ))}
    </div>
  );
}

function MonthDays() {
  const { at, set, wrong } = useEditor();
  const path = ['schedule', 'month_days'];
  const value = at(path);
  return (
    <Field id={fieldId(path)} label="Days of the month" hint="Numbers, and last; none is every day." faults={wrong(path, true)}>
      {(props) => <input {...props} type="text" value={Array.isArray(value) ? value.join(', ') : ''} onChange={(event) => {
        const days = event.currentTarget.value.split(',').map((part) => part.trim()).filter(Boolean).map((part) => (/^\d+$/.test(part) ? Number(part) : part));
        set(path, days.length ? days : undefined);
      }} />}
    </Field>
  );
}

/** What a new rule begins with. */
const FRESH: Record<string, [name: string, rule: JsonObject]> = {
  attribute: ['Add attribute', { attribute: '', op: 'eq', value: '' }],
  survey: ['Add survey history', { survey: '', did: 'completed' }],
  answer: ['Add answer', { survey: '', answer: { question_id: 'q1', op: 'lte', value: 6 } }],
  event: ['Add event history', { event: '', within: '14d', at_least: 1 }],
  group: ['Add group', { any: [{ attribute: '', op: 'eq', value: '' }] }],
};

export function Targeting() {
  const { at, set, wrong } = useEditor();
  const path = ['targeting'];
  const rule = at(path);
  return (
    <div class="rows" id={fieldId(path)} tabIndex={-1}>
      {!isSaid(rule) && <p class="quiet">Everybody.</p>}
      {isSaid(rule) && <Rule path={path} onRemove={() => set(path, undefined)} />}
      {wrong(path).map((fault) => <p class="fault" key={fault}>{fault}</p>)}
      {!isSaid(rule) && <Adders onAdd={(fresh) => set(path, { all: [fresh] })} />}
      {isSaid(rule) && !('all' in (rule as JsonObject)) && <Button class="small" onClick={() => set(path, { all: [rule as Json] })}>And more conditions</Button>}
    </div>
  );
}

const Adders = ({ onAdd }: { onAdd: (rule: JsonObject) => void }) => (
  <div class="actions">{Object.values(FRESH).map(([name, rule]) => <Button key={name} class="small" onClick={() => onAdd(rule)}>{name}</Button>)}</div>
);

/** One rule of the targeting, or a group of rules. */
function Rule({ path, onRemove }: { path: Path; onRemove: () => void }) {
  const { at, set, wrong } = useEditor();
  const rule = at(path);
  if (!isObject(rule)) return <AtJson path={path} label="Rule" />;
  if ('not' in rule && Object.keys(rule).length === 1 && isObject(rule.not))
    return <Named title="Not" negated onNegate={() => set(path, rule.not)} onRemove={onRemove}><Body path={[...path, 'not']} rule={rule.not} /></Named>;
  return (
    <Named title="If" onNegate={() => set(path, { not: rule })} onRemove={onRemove}>
      <Body path={path} rule={rule} />
      {wrong(path).map((fault) => <p class="fault" key={fault}>{fault}</p>)}
    </Named>
  );
}

function Named({ title, negated = false, onNegate, onRemove, children }: { title: string; negated?: boolean; onNegate: () => void; onRemove: () => void; children: ComponentChildren }) {
  return (
    <fieldset class="row-set rule">
      <legend class="unseen">{title}</legend>
      {children}
      <div class="actions"><Check label="Not" checked={negated} onChange={onNegate} /><Button class="small" onClick={onRemove}>Remove</Button></div>
    </fieldset>
  );
}

function Body({ path, rule }: { path: Path; rule: JsonObject }) {
  const { at, set, def, change, surveys } = useEditor();
  const group = ['all', 'any'].find((name) => Array.isArray(rule[name]));
  if (group) {
    const list = rule[group] as Json[];
    const place = [...path, group];
    const without = (i: number) => list.filter((_, j) => j !== i);
    return (
      <>
        <Choice label="Match" value={group} options={[['all', 'all of these'], ['any', 'any of these']]} onValue={(to) => {
          const { [group]: held, ...rest } = rule;
          change(setAt(def, path, { ...rest, [to]: held! }) as JsonObject);
        }} />
        {list.map((_, i) => <Rule key={i} path={[...place, i]} onRemove={() => set(place, without(i))} />)}
        <Adders onAdd={(fresh) => set(place, [...list, fresh])} />
      </>
    );
  }
  if ('attribute' in rule) return <Condition path={path} subject="attribute" label="Attribute" />;
  if ('answer' in rule)
    return (
      <>
        <div class="row"><AtText path={[...path, 'survey']} label="Survey" list="known-surveys" /><AtText path={[...path, 'answer', 'question_id']} label="Question ID" /><AtDuration path={[...path, 'within']} label="within" placeholder="ever" /></div>
        <Condition path={[...path, 'answer']} />
        <SurveyNames names={surveys} />
      </>
    );
  if ('survey' in rule || 'tag' in rule) {
    const kind = 'tag' in rule ? 'tag' : 'survey';
    return (
      <>
        <div class="row">
          <Choice label="History of" value={kind} options={[['survey', 'one survey'], ['tag', 'surveys with a tag (* is all)']]} onValue={(to) => {
            const { [kind]: held, ...rest } = rule;
            if (to !== kind) change(setAt(def, path, { [to]: held ?? '', ...rest }) as JsonObject);
          }} />
          <AtText path={[...path, kind]} label={kind === 'tag' ? 'Tag' : 'Survey'} list="known-surveys" />
          <AtChoice path={[...path, 'did']} label="was" options={DID} fallback="completed" />
        </div>
        <div class="row"><AtDuration path={[...path, 'within']} label="within" placeholder="ever" /><AtNumber path={[...path, 'at_least']} label="at least, times" min={1} placeholder="1" /><AtChoice path={[...path, 'distinct']} label="counting" options={DISTINCT} fallback="" /></div>
        <SurveyNames names={surveys} />
      </>
    );
  }
  if ('event' in rule)
    return (
      <>
        <div class="row"><AtText path={[...path, 'event']} label="Event" list="known-events" /><AtDuration path={[...path, 'within']} label="within" placeholder="14d" /><AtNumber path={[...path, 'at_least']} label="at least" min={0} placeholder="1" /><AtNumber path={[...path, 'at_most']} label="at most" min={0} /><AtChoice path={[...path, 'distinct']} label="counting" options={DISTINCT} fallback="" /></div>
        <Where path={[...path, 'where']} />
      </>
    );
  void at;
  return <AtJson path={path} label="Rule as JSON" hint="The form has no fields for this rule; it is kept as it is." />;
}

const SurveyNames = ({ names }: { names: string[] }) => <datalist id="known-surveys">{names.map((name) => <option key={name} value={name} />)}</datalist>;

function Shares() {
  const { at } = useEditor();
  return (
    <>
      <div class="row">
        <AtNumber path={['sampling', 'percent']} label="Asked share, %" min={0} max={100} step="any" placeholder="100" />
        <AtNumber path={['sampling', 'from']} label="beginning at, %" min={0} max={100} step="any" placeholder="0" />
        <AtText path={['sampling', 'salt']} label="Salt" hint="Surveys with one salt ask the same users." />
        <By path={['sampling', 'by']} label="Drawn by" />
      </div>
      <div class="row">
        <AtNumber path={['holdout', 'percent']} label="Never asked, %" min={0} max={100} step="any" placeholder="0" />
        <AtText path={['holdout', 'group']} label="Holdout group" />
        <By path={['holdout', 'by']} label="Holdout by" />
      </div>
      <div class="row">
        <AtDuration path={['spread']} label="Spread over" placeholder="90d" hint="Each user’s own first moment after the start." />
        <AtText path={['experiment', 'name']} label="Experiment" />
        <AtText path={['experiment', 'arm']} label="Arm" />
      </div>
      {isObject(at(['sampling', 'by'])) && <AtText path={['sampling', 'by', 'attribute']} label="Attribute of the sample" />}
      {isObject(at(['holdout', 'by'])) && <AtText path={['holdout', 'by', 'attribute']} label="Attribute of the holdout" />}
    </>
  );
}

function By({ path, label }: { path: Path; label: string }) {
  const { at, set, wrong } = useEditor();
  const value = at(path);
  return <Choice id={fieldId(path)} label={label} faults={wrong(path)} value={isObject(value) ? 'attribute' : String(value ?? 'user')} options={[['user', 'user'], ['activation', 'activation'], ['attribute', 'an attribute']]} onValue={(by) => set(path, by === 'attribute' ? { attribute: 'company_id' } : by)} />;
}

/** How often one user is asked, and how many users in all. */
export function Pressure() {
  const { at } = useEditor();
  const f = (name: string): Path => ['frequency', name];
  return (
    <Section title="How often">
      <div class="row halves">
        <AtChoice path={f('repeat')} label="Shown" fallback="once" options={[['once', 'once'], ['until_responded', 'until there is an answer'], ['until_completed', 'until it is completed'], ['every_activation', 'once for each activation']]} />
        <AtNumber path={f('max_displays')} label="At most, times" min={1} placeholder="no limit" />
        <AtDuration path={f('cooldown')} label="Cooldown" placeholder="0s" hint="From its own last display." />
        <AtText path={f('global_cooldown')} label="Cooldown between surveys" list="global-cooldowns" placeholder="respect" hint="respect, ignore, exempt, or a duration of its own." />
        <datalist id="global-cooldowns">{['respect', 'ignore', 'exempt', '7d', '30d'].map((one) => <option key={one} value={one} />)}</datalist>
      </div>
      <Group title="Cycles and dismissals" open={['per', 'after_dismissal', 'session_cap', 'snooze'].some((name) => isSaid(at(f(name))))}>
        <div class="row">
          {isObject(at(f('per'))) ? <AtNumber path={[...f('per'), 'wave']} label="Wave" min={1} hint="A higher one begins a new cycle." /> : <AtText path={f('per')} label="Counted per" list="cycles" placeholder="ever" hint="A duration, or day, week, month, quarter, year." />}
          <datalist id="cycles">{['90d', 'day', 'week', 'month', 'quarter', 'year'].map((one) => <option key={one} value={one} />)}</datalist>
          <AtText path={f('after_dismissal')} label="After a dismissal" placeholder="30d" hint="A duration, or never." />
          <AtChoice path={f('session_cap')} label="Limit of surveys per session" fallback="respect" options={[['respect', 'holds'], ['ignore', 'does not hold']]} />
          <AtDuration path={f('snooze')} label="Longest snooze" placeholder="7d" />
        </div>
        <WaveSwitch path={f('per')} />
      </Group>
      <Group title="Limits over all users" open={isSaid(at(['limits', 'max_completed'])) || isSaid(at(['limits', 'caps']))}>
        <AtNumber path={['limits', 'max_completed']} label="At most completed" min={1} placeholder="no limit" />
        <h4>Caps</h4>
        <Caps path={['limits', 'caps']} />
      </Group>
    </Section>
  );
}

function WaveSwitch({ path }: { path: Path }) {
  const { at, set } = useEditor();
  return <Check label="Counted per wave" checked={isObject(at(path))} onChange={(on) => set(path, on ? { wave: 1 } : undefined)} />;
}

export const Caps = ({ path, empty }: { path: Path; empty?: string }) => (
  <Rows path={path} name="Cap" empty={empty && <p class="quiet">{empty}</p>} add="Add cap" fresh={() => ({ count: 'displayed', max: 100, within: '1d' })}>
    {(row) => <Cap path={row} />}
  </Rows>
);

function Cap({ path }: { path: Path }) {
  const { at, set } = useEditor();
  const per = at([...path, 'per']);
  return (
    <>
      <div class="row">
        <AtChoice path={[...path, 'count']} label="Count" fallback="displayed" options={[['displayed', 'displayed'], ['completed', 'completed']]} />
        <AtNumber path={[...path, 'max']} label="at most" min={1} />
        <AtDuration path={[...path, 'within']} label="within" placeholder="ever" />
      </div>
      <Check label="For each value of an attribute" checked={isObject(per)} onChange={(on) => set([...path, 'per'], on ? { attribute: 'company_id' } : undefined)} />
      {isObject(per) && <div class="row"><AtText path={[...path, 'per', 'attribute']} label="Attribute" /><AtChoice path={[...path, 'missing']} label="Without it" fallback="pass" options={[['pass', 'the user may pass'], ['shut', 'the user is kept back']]} /></div>}
    </>
  );
}

export function Privacy() {
  const { at } = useEditor();
  return (
    <Section title="Data">
      <AtList path={['expose']} label="Properties that the app may see" hint="Of the activating event; with a client key all others stay hidden." />
      <AtCheck path={['anonymous']} label="Anonymous" hint="Webhooks, lists and results carry a random ID for each response; results hide below five." />
      <AtDuration path={['retention']} label="Keep answers for" placeholder="until told otherwise" />
      {at(['link']) === true && <AtCheck path={['link_anonymous']} label="The page behind the link works without a user" />}
    </Section>
  );
}
