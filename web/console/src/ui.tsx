/** The small parts that all pages are made of. */
import { createContext, type ComponentChildren, type JSX } from 'preact';
import { useContext, useEffect, useId, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { ApiError } from './api';
import { ago, clock, words } from './format';
import type { Loaded } from './live';

export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · askwhen`;
  }, [title]);
}

const ICONS = {
  close: 'M6 6l12 12M18 6L6 18',
  up: 'M12 19V5M6 11l6-6 6 6',
  down: 'M12 5v14M6 13l6 6 6-6',
  grip: 'M9 6h.01M15 6h.01M9 12h.01M15 12h.01M9 18h.01M15 18h.01',
  auto: 'M12 3a9 9 0 100 18 9 9 0 000-18zM12 3v18M15 4v16M18 6v12',
  light: 'M12 8a4 4 0 100 8 4 4 0 000-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6L19 19M5 19l1.4-1.4M17.6 6.4L19 5',
  dark: 'M20 14.5A8.5 8.5 0 119.5 4a7 7 0 0010.5 10.5z',
};
/** A drawing beside or instead of words; the button that it stands in has a name of its own. */
export const Icon = ({ name }: { name: keyof typeof ICONS }) => (
  <svg class="icon" viewBox="0 0 24 24" width="16" height="16" aria-hidden="true"><path d={ICONS[name]} /></svg>
);

/** A page: its one heading, what can be done on it, and its content. */
export function Page({ title, about, actions, back, children }: {
  title: string;
  about?: ComponentChildren;
  actions?: ComponentChildren;
  back?: ComponentChildren;
  children: ComponentChildren;
}) {
  useTitle(title);
  return (
    <>
      {back && <nav aria-label="Breadcrumb" class="back">{back}</nav>}
      <header class="page-head">
        <div>
          <h1 tabIndex={-1} dir="auto">{title}</h1>
          {about && <p class="about">{about}</p>}
        </div>
        {actions && <div class="actions">{actions}</div>}
      </header>
      {children}
    </>
  );
}

export function Section({ title, actions, children, id }: {
  title: string;
  actions?: ComponentChildren;
  children: ComponentChildren;
  id?: string;
}) {
  const label = useId();
  return (
    <section class="card" aria-labelledby={label} id={id}>
      <header class="card-head">
        <h2 id={label}>{title}</h2>
        {actions && <div class="actions">{actions}</div>}
      </header>
      {children}
    </section>
  );
}

type ButtonProps = Omit<JSX.IntrinsicElements['button'], 'type'> & { look?: 'main' | 'danger' | 'plain'; busy?: boolean; submit?: boolean };
export function Button({ look, busy, submit, class: more, ...rest }: ButtonProps) {
  return (
    <button
      {...rest}
      type={submit ? 'submit' : 'button'}
      class={`button ${look ?? ''} ${(more as string) ?? ''}`}
      aria-disabled={busy ? 'true' : undefined}
      onClick={busy ? (event) => event.preventDefault() : rest.onClick}
    />
  );
}

export function Notice({ tone = 'info', title, children }: { tone?: 'info' | 'good' | 'warn' | 'bad'; title?: string; children?: ComponentChildren }) {
  return (
    <div class={`notice ${tone}`} role={tone === 'bad' ? 'alert' : 'status'}>
      {title && <strong>{title}</strong>}
      {children && <div>{children}</div>}
    </div>
  );
}

/** What went wrong, in the server's words, with what to do about it. */
export function Trouble({ error, retry }: { error: ApiError; retry?: (() => void) | undefined }) {
  const title =
    error.code === 'invalid_json' ? 'This is no JSON yet'
    : error.status === 0 ? 'The server does not answer'
    : error.status === 403 ? 'Your key does not permit this'
    : error.status === 404 ? 'This is not here'
    : error.status === 412 ? 'Somebody else has changed this'
    : error.code === 'no_console' ? 'This server keeps no lists'
    : error.status === 422 ? 'The server refused this'
    : 'That did not work';
  // A message that stands alone elsewhere begins with what the title says.
  const detail = error.message.startsWith(title + '. ') ? error.message.slice(title.length + 2) : error.message;
  return (
    <Notice tone="bad" title={title}>
      {error.faults.length > 1 ? <ul>{error.faults.map((fault) => <li key={fault.pointer + fault.detail} dir="auto">{fault.detail} <code>{fault.pointer.slice(1)}</code></li>)}</ul> : <p dir="auto">{detail}</p>}
      {error.code === 'no_console' && <p>Lists live where the role <code>console</code> runs.</p>}
      {error.requestId && <p class="quiet">Request <code>{error.requestId}</code></p>}
      {retry && <Button onClick={retry}>Try again</Button>}
    </Notice>
  );
}

export const Loading = ({ what = 'Loading' }: { what?: string }) => (
  <p class="loading" role="status"><span class="spinner" aria-hidden="true" />{what}…</p>
);

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children}
    </div>
  );
}

/** Shows what is loaded, that it is loading, or why it is not there. */
export function Await<T>({ of, what, children }: { of: Loaded<T>; what?: string; children: (data: T) => ComponentChildren }) {
  if (of.data !== undefined)
    return (
      <>
        {of.error && <Trouble error={of.error} retry={of.reload} />}
        {children(of.data)}
      </>
    );
  return of.error ? <Trouble error={of.error} retry={of.reload} /> : <Loading what={what ?? 'Loading'} />;
}

export function Time({ at, empty = '–' }: { at: string | null | undefined; empty?: string }) {
  if (!at) return <span class="quiet">{empty}</span>;
  return <time dateTime={at} title={`${clock(at)} (${at})`}>{ago(at)}</time>;
}

const TONES: Record<string, string> = {
  active: 'good', healthy: 'good', delivered: 'good', done: 'good', offered: 'good', completed: 'good',
  test: 'info', shadow: 'info', running: 'info', pending: 'info', queued: 'info', resent: 'info',
  paused: 'warn', waiting: 'warn', degraded: 'warn', half_open: 'warn',
  dead: 'bad', open: 'bad', failed: 'bad', disabled: 'bad',
  bad_status: 'bad', timeout: 'bad', connect_failed: 'bad', tls_failed: 'bad', broken_response: 'bad', blocked_target: 'bad', proxy_failed: 'bad',
};
export const Badge = ({ name }: { name: string }) => <span class={`badge ${TONES[name] ?? ''}`}>{words(name)}</span>;

/** `exact`: what is copied, where what is shown is laid out to be read. */
export function Code({ text, label, exact = text, copy = true }: { text: string; label: string; exact?: string; copy?: boolean }) {
  return (
    <div class="code">
      <pre tabIndex={0} role="region" aria-label={label}><code>{text}</code></pre>
      {copy && <Copy text={exact} what={label} />}
    </div>
  );
}

/** Copies by a selection, where a page without TLS has no clipboard. */
function copySelected(text: string): boolean {
  const field = document.createElement('textarea');
  field.value = text;
  field.className = 'unseen';
  document.body.append(field);
  field.select();
  const done = document.execCommand('copy');
  field.remove();
  return done;
}

export function Copy({ text, what, children = 'Copy' }: { text: string | (() => string); what?: string; children?: string }) {
  const [state, setState] = useState('');
  const copy = async () => {
    const whole = typeof text === 'function' ? text() : text;
    try {
      await navigator.clipboard.writeText(whole);
      setState('Copied');
    } catch {
      setState(copySelected(whole) ? 'Copied' : 'The browser does not let this page copy');
    }
    setTimeout(() => setState(''), 2000);
  };
  return (
    <>
      <Button onClick={copy} class="small" aria-label={what && children === 'Copy' ? `Copy ${what}` : undefined}>{state || children}</Button>
      <span class="unseen" role="status">{state}</span>
    </>
  );
}

/** Ids inside of a form come from its fields' names. */
const FieldContext = createContext('');

export function Field({ label, hint, faults, children, id: own }: {
  label: ComponentChildren;
  hint?: ComponentChildren;
  faults?: string[] | undefined;
  id?: string | undefined;
  children: (props: { id: string; 'aria-describedby'?: string; 'aria-invalid'?: 'true' }) => ComponentChildren;
}) {
  const made = useId();
  const id = own ?? useContext(FieldContext) + made;
  const notes = [hint ? id + '-hint' : '', faults?.length ? id + '-fault' : ''].filter(Boolean).join(' ');
  return (
    <div class={`field ${faults?.length ? 'faulty' : ''}`}>
      <label for={id}>{label}</label>
      {children({ id, ...(notes && { 'aria-describedby': notes }), ...(faults?.length && { 'aria-invalid': 'true' as const }) })}
      {hint && <p class="hint" id={id + '-hint'}>{hint}</p>}
      {faults?.length ? <p class="fault" id={id + '-fault'}>{faults.join('; ')}</p> : null}
    </div>
  );
}

interface InputProps {
  type?: 'text' | 'password' | 'url' | 'search' | 'number' | 'datetime-local' | 'email';
  name?: string;
  required?: boolean;
  disabled?: boolean;
  placeholder?: string;
  /** The id of a `datalist`. */
  list?: string;
  min?: number;
  max?: number;
  step?: number | 'any';
  maxLength?: number;
  inputMode?: 'numeric' | 'decimal';
}
export function TextField({ label, hint, faults, value, onValue, id, ...rest }: InputProps & {
  label: ComponentChildren;
  hint?: ComponentChildren;
  faults?: string[] | undefined;
  value: string;
  id?: string | undefined;
  onValue: (value: string) => void;
}) {
  return (
    <Field label={label} hint={hint} faults={faults} id={id}>
      {(props) => value.includes('\n') ? (
        // A field of one line would join its lines.
        <textarea {...{ rows: 2, dir: 'auto', spellcheck: false, placeholder: rest.placeholder, disabled: rest.disabled, ...props } as object} value={value} onInput={(event) => onValue(event.currentTarget.value)} />
      ) : (
        <input {...{ type: 'text', autocomplete: 'off', spellcheck: false, dir: 'auto', ...rest, ...props } as object} value={value} onInput={(event) => onValue(event.currentTarget.value)} />
      )}
    </Field>
  );
}

export function Choice({ label, hint, faults, value, options, onValue, id }: {
  label: ComponentChildren;
  hint?: ComponentChildren;
  faults?: string[] | undefined;
  value: string;
  options: (string | [value: string, text: string])[];
  onValue: (value: string) => void;
  id?: string | undefined;
}) {
  const pairs = options.map((option) => (typeof option === 'string' ? ([option, words(option)] as const) : option));
  // A value that the list lacks is kept, and shown as it is.
  const known = pairs.some(([one]) => one === value);
  return (
    <Field label={label} hint={hint} faults={faults} id={id}>
      {(props) => (
        <select {...props} value={value} onChange={(event) => onValue(event.currentTarget.value)}>
          {!known && <option value={value}>{value || 'choose'}</option>}
          {pairs.map(([one, text]) => <option key={one} value={one}>{text}</option>)}
        </select>
      )}
    </Field>
  );
}

export function Switch({ label, checked, onChange, hint, disabled }: {
  label: string;
  checked: boolean;
  onChange: (checked: boolean) => void;
  hint?: ComponentChildren;
  disabled?: boolean;
}) {
  const id = useId();
  return (
    <div class="field switch">
      <label>
        <input type="checkbox" role="switch" checked={checked} disabled={disabled} aria-describedby={hint ? id : undefined} onChange={(event) => onChange(event.currentTarget.checked)} />
        {label}
      </label>
      {hint && <p class="hint" id={id}>{hint}</p>}
    </div>
  );
}

export function Check({ label, checked, onChange, hint }: { label: ComponentChildren; checked: boolean; onChange: (checked: boolean) => void; hint?: ComponentChildren }) {
  const id = useId();
  return (
    <div class="field check">
      <label>
        <input type="checkbox" checked={checked} aria-describedby={hint ? id : undefined} onChange={(event) => onChange(event.currentTarget.checked)} />
        {label}
      </label>
      {hint && <p class="hint" id={id}>{hint}</p>}
    </div>
  );
}

/**
 * A dialog; Escape and its *Close* button close it, and the focus goes back to where
 * it was. `side` stands beside the page, which stays in use.
 */
export function Dialog({ title, onClose, children, wide, side }: { title: string; onClose: () => void; children: ComponentChildren; wide?: boolean; side?: boolean }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const latest = useRef(onClose);
  latest.current = onClose;
  const label = useId();
  useLayoutEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    const pressed = (event: KeyboardEvent) => {
      if (event.key !== 'Escape' || event.defaultPrevented || document.querySelector('dialog:modal')) return;
      latest.current();
    };
    if (side) {
      dialog.current!.show();
      addEventListener('keydown', pressed);
    } else {
      dialog.current!.showModal();
      dialog.current!.querySelector<HTMLElement>('input, select, textarea')?.focus();
    }
    return () => {
      removeEventListener('keydown', pressed);
      if (before?.isConnected && (!side || !document.activeElement || document.activeElement === document.body)) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={dialog}
      class={`${wide ? 'wide' : ''} ${side ? 'side' : ''}`}
      aria-labelledby={label}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
    >
      <header class="card-head">
        <h2 id={label}>{title}</h2>
        <Button look="plain" onClick={onClose} aria-label="Close"><Icon name="close" /></Button>
      </header>
      {children}
    </dialog>
  );
}

export interface Action {
  busy: boolean;
  error: ApiError | undefined;
  run(work: () => Promise<unknown>): Promise<boolean>;
  clear(): void;
}

/** One thing at a time that the user has asked for, and how it went. */
export function useAction(): Action {
  const [state, setState] = useState<{ busy: boolean; error?: ApiError }>({ busy: false });
  const busy = useRef(false);
  const run = async (work: () => Promise<unknown>) => {
    if (busy.current) return false;
    busy.current = true;
    setState({ busy: true });
    try {
      await work();
      setState({ busy: false });
      return true;
    } catch (error) {
      setState({ busy: false, error: error instanceof ApiError ? error : new ApiError(0, 'failed', String(error)) });
      return false;
    } finally {
      busy.current = false;
    }
  };
  return { busy: state.busy, error: state.error, run, clear: () => setState({ busy: false }) };
}

/** A list of names to choose from; others may be typed. */
export const Suggestions = ({ id, names }: { id: string; names: string[] }) => (
  <datalist id={id}>{names.map((name) => <option key={name} value={name} />)}</datalist>
);

export const Facts = ({ of }: { of: [string, ComponentChildren][] }) => (
  <dl class="facts">
    {of.map(([name, value]) => (
      <div key={name}>
        <dt>{name}</dt>
        <dd dir="auto">{value}</dd>
      </div>
    ))}
  </dl>
);
