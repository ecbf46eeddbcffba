/** What an endpoint is: form and definition are the same object, so members that the form does not show are kept. */
import { useEffect, useState } from 'preact/hooks';
import { call, route, type JsonObject } from '../api';
import { idOf } from '../format';
import { same } from '../survey/model';
import { AsJson } from '../survey/review';
import type { Endpoint } from '../types';
import { Button, Check, Choice, Code, Notice, Switch, TextField, Trouble, useAction } from '../ui';

const PROFILES: [string, string][] = [['standard', 'standard (Standard Webhooks)'], ['blitzllama', 'blitzllama'], ['1flow', '1flow'], ['slack', 'slack']];
const EVENTS = ['response.answered', 'response.completed', 'survey.displayed', 'survey.dismissed', 'survey.closed', 'user.erased'];
/** What an endpoint is told of when its definition names nothing. */
const eventsOf = (profile: string): string[] => [profile === 'standard' ? 'response.*' : 'response.completed'];
/** What the server adds to a definition, and does not take back. */
const READ_ONLY = ['version', 'state', 'state_reason', 'state_since', 'state_until', 'public_key'];

export const definitionOf = (endpoint: Endpoint): JsonObject =>
  Object.fromEntries(Object.entries(endpoint).filter(([name]) => !READ_ONLY.includes(name)));

const list = (text: string): string[] => text.split(/[\s,]+/).filter(Boolean);

/**
 * `etag` makes sure that nobody else's change is overwritten. The switch of an endpoint
 * that there is takes effect at once; everything else waits for *Save*.
 */
export function EndpointForm({ given, etag, onSaved, onSwitched, onCancel }: {
  given?: JsonObject;
  etag?: string | null;
  onSaved: (id: string) => void;
  onSwitched?: () => void;
  onCancel?: () => void;
}) {
  const [def, setDef] = useState<JsonObject>(given ?? { endpoint_id: '', url: '', profile: 'standard', enabled: true, events: eventsOf('standard') });
  /** What the server has, as far as this form has seen it. */
  const [base, setBase] = useState({ def: given, etag });
  useEffect(() => {
    if (!given || etag === base.etag || !same(def, base.def)) return;
    setBase({ def: given, etag });
    setDef(given);
  }, [etag]);
  const [ownId, setOwnId] = useState(false);
  const [secret, setSecret] = useState('');
  const [shown, setShown] = useState('');
  const [json, setJson] = useState(false);
  const action = useAction();
  const set = (member: string, value: JsonObject[string]) => setDef((old) => ({ ...old, [member]: value }));
  /** A new endpoint is told of what its profile is for, until somebody says otherwise. */
  const setProfile = (profile: string) =>
    setDef((old) => ({ ...old, profile, ...(!given && same(old.events, eventsOf(String(old.profile))) && { events: eventsOf(profile) }) }));
  const setUrl = (url: string) => {
    let host = '';
    try {
      host = new URL(url).hostname;
    } catch {
      // Half an address has no host yet.
    }
    setDef((old) => ({ ...old, url, ...(!given && !ownId && host && { endpoint_id: idOf(host, '-') }) }));
  };
  const at = (pointer: string) => action.error?.faults.filter((fault) => fault.pointer === pointer || fault.pointer.startsWith(pointer + '/')).map((fault) => fault.detail);
  const events = (def.events as string[] | undefined) ?? [];
  const id = String(def.endpoint_id);

  async function put(next: JsonObject, more: JsonObject = {}): Promise<string | undefined> {
    const { data, etag: fresh } = await call<{ version: number; secret?: string }>('PUT', route`/v1/endpoints/${id}`, {
      body: { ...next, ...more },
      headers: given ? (base.etag ? { 'if-match': base.etag } : {}) : { 'if-none-match': '*' },
    });
    setBase({ def: next, etag: fresh ?? `"${data.version}"` });
    return data.secret;
  }
  async function save(): Promise<void> {
    const made = await put(def, secret ? { secret } : {});
    setSecret('');
    if (made) setShown(made);
    else onSaved(id);
  }
  async function turn(on: boolean): Promise<void> {
    set('enabled', on);
    if (!given) return;
    const done = await action.run(() => put({ ...base.def, enabled: on }));
    if (done) onSwitched?.();
    else set('enabled', !on);
  }

  if (shown)
    return (
      <Notice tone="good" title="The endpoint is saved.">
        <p>This is its secret. It is shown this once: keep it where the receiver checks signatures.</p>
        <Code text={shown} label="secret" />
        <Button look="main" onClick={() => onSaved(id)}>I have kept it</Button>
      </Notice>
    );
  return (
    <form onSubmit={(event) => { event.preventDefault(); void action.run(save); }}>
      <TextField label="URL" type="url" value={String(def.url ?? '')} onValue={setUrl} required faults={at('/url')} placeholder="https://crm.example/hooks" />
      {!given && <TextField label="ID" value={id} onValue={(value) => { setOwnId(true); set('endpoint_id', value); }} required faults={at('/endpoint_id')} />}
      <Choice label="Profile" value={String(def.profile ?? 'standard')} options={PROFILES} onValue={setProfile} faults={at('/profile')} hint="How the body is written and signed." />
      <Switch label="Enabled" checked={def.enabled !== false} onChange={(on) => void turn(on)} hint="Messages for an endpoint that is not enabled are cancelled; recover sends them later." />
      <fieldset>
        <legend>Events</legend>
        {EVENTS.map((name) => (
          <Check key={name} label={name} checked={events.includes(name) || events.includes('*') || (name.startsWith('response.') && events.includes('response.*'))}
            onChange={(on) => {
              const plain = EVENTS.filter((one) => events.includes(one) || events.includes('*') || (one.startsWith('response.') && events.includes('response.*')));
              set('events', on ? [...plain, name] : plain.filter((one) => one !== name));
            }} />
        ))}
        {at('/events')?.map((fault) => <p class="fault" key={fault}>{fault}</p>)}
      </fieldset>
      <TextField label="Surveys" value={((def.surveys as string[] | undefined) ?? ['*']).join(' ')} onValue={(value) => set('surveys', list(value))} faults={at('/surveys')} hint="IDs with blanks between them; * is every survey." />
      <TextField label="Secret" type="password" value={secret} onValue={setSecret} faults={at('/secret')} hint={given ? 'Leave it empty to keep the present one.' : 'Leave it empty, and one is made and shown once.'} />
      <details>
        <summary>More</summary>
        <TextField label="Rate limit" value={String(def.rate_limit ?? '')} onValue={(value) => set('rate_limit', value || null)} faults={at('/rate_limit')} placeholder="100/s" />
        <TextField label="Concurrency" type="number" value={String(def.concurrency ?? 10)} onValue={(value) => set('concurrency', Number(value))} faults={at('/concurrency')} />
        <Check label="Test responses only" checked={def.test === true} onChange={(on) => set('test', on)} hint="Gets the responses to surveys in status test, and only those." />
        {def.profile === 'blitzllama' && <Check label="Include properties of the activation" checked={def.include_properties === true} onChange={(on) => set('include_properties', on)} />}
      </details>
      {action.error && <Trouble error={action.error} />}
      <div class="actions">
        <Button look="main" submit busy={action.busy}>Save</Button>
        {onCancel && <Button onClick={onCancel}>Cancel</Button>}
        <Button onClick={() => setJson(true)}>Edit as JSON</Button>
      </div>
      {json && <AsJson def={def} onClose={() => setJson(false)} onApply={(next) => { setDef(next); setJson(false); }} />}
    </form>
  );
}
