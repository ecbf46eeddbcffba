/** Fields that edit one member of the definition each, and show the server's faults of it. */
import { createContext, type ComponentChildren } from 'preact';
import { useContext, useEffect, useRef, useState } from 'preact/hooks';
import { parseJson, type FieldFault, type Json, type JsonObject } from '../api';
import { Button, Check, Choice, Field, TextField } from '../ui';
import { duration, getAt, isObject, parseValue, pointer, same, setAt, valueText, type Path } from './model';

export interface Editor {
  def: JsonObject;
  change(next: JsonObject): void;
  faults: FieldFault[];
  /** Names to choose from. */
  events: string[];
  triggers: string[];
  surveys: string[];
}

export const EditorContext = createContext<Editor>(null as unknown as Editor);

export interface Access extends Editor {
  at(path: Path): Json | undefined;
  set(path: Path, value: Json | undefined): void;
  /** What is wrong at the path itself; `deep`: or below it. */
  wrong(path: Path, deep?: boolean): string[];
}

export function useEditor(): Access {
  const editor = useContext(EditorContext);
  return {
    ...editor,
    at: (path) => getAt(editor.def, path),
    set: (path, value) => editor.change(setAt(editor.def, path, value) as JsonObject),
    wrong: (path, deep) => {
      const place = pointer(path);
      return editor.faults.filter((fault) => fault.pointer === place || (deep && fault.pointer.startsWith(place + '/'))).map((fault) => fault.detail);
    },
  };
}

/** The id of a path's field, so that a fault can lead to it. */
export const fieldId = (path: Path): string => 'f' + pointer(path);

interface At {
  path: Path;
  label: string;
  hint?: ComponentChildren;
}

export function AtText({ path, label, hint, ...rest }: At & { placeholder?: string; list?: string; required?: boolean }) {
  const { at, set, wrong } = useEditor();
  const value = at(path);
  return <TextField {...rest} id={fieldId(path)} label={label} hint={hint} faults={wrong(path)} value={typeof value === 'string' ? value : valueText(value ?? undefined)} onValue={(text) => set(path, text || undefined)} />;
}

export function AtArea({ path, label, hint, placeholder }: At & { placeholder?: string }) {
  const { at, set, wrong } = useEditor();
  return (
    <Field id={fieldId(path)} label={label} hint={hint} faults={wrong(path)}>
      {(props) => <textarea {...props} rows={2} dir="auto" placeholder={placeholder} value={String(at(path) ?? '')} onInput={(event) => set(path, event.currentTarget.value || undefined)} />}
    </Field>
  );
}

export function AtNumber({ path, label, hint, min, max, step, placeholder }: At & { min?: number; max?: number; step?: number | 'any'; placeholder?: string }) {
  const { at, set, wrong } = useEditor();
  const value = at(path);
  const more = { ...(min !== undefined && { min }), ...(max !== undefined && { max }), ...(step !== undefined && { step }), ...(placeholder !== undefined && { placeholder }) };
  return <TextField {...more} id={fieldId(path)} type="number" label={label} hint={hint} faults={wrong(path)} value={value == null ? '' : String(value)} onValue={(text) => set(path, text === '' ? undefined : Number(text))} />;
}

/** A duration such as `2h`; words are turned into it when the field is left. */
export function AtDuration({ path, label, hint, placeholder = '2h' }: At & { placeholder?: string }) {
  const { at, set, wrong } = useEditor();
  const value = String(at(path) ?? '');
  return (
    <Field id={fieldId(path)} label={label} hint={hint} faults={wrong(path)}>
      {(props) => <input type="text" autocomplete="off" {...props} value={value} placeholder={placeholder} onInput={(event) => set(path, event.currentTarget.value || undefined)} onBlur={() => value && duration(value) !== value && set(path, duration(value))} />}
    </Field>
  );
}

/** Whether a value is the one that holds unsaid, in a definition that did not say it. */
function useUnsaid<T extends Json>(path: Path, fallback: T): (value: T) => boolean {
  const { at } = useEditor();
  const first = useRef(at(path));
  return (value) => value === fallback && first.current === undefined;
}

export function AtChoice({ path, label, hint, options, fallback }: At & { options: (string | [string, string])[]; fallback: string }) {
  const { at, set, wrong } = useEditor();
  const unsaid = useUnsaid(path, fallback);
  return <Choice id={fieldId(path)} label={label} hint={hint} faults={wrong(path)} options={options} value={valueText(at(path) ?? undefined) || fallback} onValue={(value) => set(path, unsaid(value) ? undefined : value || undefined)} />;
}

export function AtCheck({ path, label, hint, fallback = false }: At & { fallback?: boolean }) {
  const { at, set } = useEditor();
  const unsaid = useUnsaid(path, fallback);
  return <Check label={label} hint={hint} checked={(at(path) ?? fallback) === true} onChange={(on) => set(path, unsaid(on) ? undefined : on)} />;
}

/** Texts with commas between them, or JSON where a text has a comma of its own. */
const listText = (list: Json[]): string => (list.every((one) => typeof one === 'string' && one === one.trim() && one && !/^\[|,/.test(one)) ? list.join(', ') : JSON.stringify(list));

function parseList(typed: string): Json[] {
  if (typed.trim().startsWith('['))
    try {
      const read = parseJson(typed);
      if (Array.isArray(read)) return read;
    } catch {
      // It is not whole yet, or a text that begins so.
    }
  return typed.split(',').map((part) => part.trim()).filter(Boolean);
}

/** A list of texts, with commas between them. What is typed stays as it is typed until the field is left. */
export function AtList({ path, label, hint, placeholder }: At & { placeholder?: string }) {
  const { at, set, wrong } = useEditor();
  const value = at(path);
  const list = Array.isArray(value) ? value : [];
  const [text, setText] = useState(list.length ? listText(list) : '');
  useEffect(() => {
    if (!same(parseList(text), list)) setText(list.length ? listText(list) : '');
  }, [JSON.stringify(list)]);
  return (
    <TextField id={fieldId(path)} label={label} hint={hint} faults={wrong(path, true)} value={text} {...(placeholder && { placeholder })}
      onValue={(typed) => {
        setText(typed);
        set(path, parseList(typed).length ? parseList(typed) : undefined);
      }} />
  );
}

/** A value of a condition: bare text, number, true or false, or a list. */
export function AtValue({ path, label, op, placeholder }: At & { op: Json | undefined; placeholder?: string }) {
  const { at, set, wrong } = useEditor();
  const value = at(path);
  const [text, setText] = useState(valueText(value, op));
  useEffect(() => {
    if (!same(parseValue(text, op), value)) setText(valueText(value, op));
  }, [JSON.stringify(value), op]);
  return (
    <TextField id={fieldId(path)} label={label} faults={wrong(path)} value={text} {...(placeholder && { placeholder })}
      onValue={(typed) => {
        setText(typed);
        set(path, parseValue(typed, op));
      }} />
  );
}

/** A part of the definition as JSON, for what has no fields of its own. */
export function AtJson({ path, label, hint }: At) {
  const { at, set, wrong } = useEditor();
  const value = at(path);
  const [text, setText] = useState(value === undefined ? '' : JSON.stringify(value, null, 2));
  const [broken, setBroken] = useState('');
  useEffect(() => {
    try {
      if (same(text ? parseJson(text) : undefined, value)) return;
    } catch {
      if (broken) return;
    }
    setText(value === undefined ? '' : JSON.stringify(value, null, 2));
  }, [JSON.stringify(value)]);
  return (
    <Field id={fieldId(path)} label={label} hint={hint} faults={broken ? [broken] : wrong(path, true)}>
      {(props) => (
        <textarea {...props} class="mono" rows={5} spellcheck={false} value={text}
          onInput={(event) => {
            const typed = event.currentTarget.value;
            setText(typed);
            try {
              set(path, typed.trim() ? parseJson(typed) : undefined);
              setBroken('');
            } catch (error) {
              setBroken('This is no JSON yet: ' + (error as Error).message);
            }
          }} />
      )}
    </Field>
  );
}

/** Rows of a list in the definition, each with *Remove*, and a button for another. */
export function Rows({ path, name, add, fresh, children, empty }: {
  path: Path;
  name: string;
  add: string;
  fresh: () => Json;
  children: (path: Path, index: number) => ComponentChildren;
  empty?: ComponentChildren;
}) {
  const { at, set, wrong } = useEditor();
  const value = at(path);
  const list = Array.isArray(value) ? value : [];
  return (
    <div class="rows" id={fieldId(path)} tabIndex={-1}>
      {!list.length && empty}
      {list.map((_, i) => (
        <fieldset key={i} class="row-set">
          <legend class="unseen">{name} {i + 1}</legend>
          {children([...path, i], i)}
          <Button class="small" onClick={() => set(path, list.length > 1 ? list.filter((_, j) => j !== i) : undefined)} aria-label={`Remove ${name.toLowerCase()} ${i + 1}`}>Remove</Button>
        </fieldset>
      ))}
      {wrong(path).map((fault) => <p class="fault" key={fault}>{fault}</p>)}
      <Button class="small" onClick={() => set(path, [...list, fresh()])}>{add}</Button>
    </div>
  );
}

export const OPERATORS: [string, string][] = [
  ['eq', 'is'], ['neq', 'is not'], ['gt', 'is more than'], ['gte', 'is at least'], ['lt', 'is less than'], ['lte', 'is at most'], ['between', 'is between'],
  ['in', 'is one of'], ['not_in', 'is none of'], ['contains', 'contains'], ['not_contains', 'does not contain'], ['starts_with', 'starts with'], ['ends_with', 'ends with'],
  ['eq_ci', 'is, in any case'], ['contains_ci', 'contains, in any case'], ['ends_with_ci', 'ends with, in any case'],
  ['exists', 'is there'], ['not_exists', 'is not there'], ['before', 'is before'], ['after', 'is after'], ['within', 'was within the last'], ['in_next', 'is within the next'],
];
const WITHOUT_VALUE = ['exists', 'not_exists'];

/** One condition: what is looked at, how, and with what. */
export function Condition({ path, subject, label }: { path: Path; subject?: string; label?: string }) {
  const { at } = useEditor();
  const op = at([...path, 'op']);
  return (
    <div class="row">
      {subject && <AtText path={[...path, subject]} label={label ?? 'Property'} />}
      <AtChoice path={[...path, 'op']} label="Operator" options={OPERATORS} fallback="eq" />
      {!WITHOUT_VALUE.includes(String(op)) && <AtValue path={[...path, 'value']} label="Value" op={op} />}
    </div>
  );
}

/** `where`: conditions that must all hold. */
export function Where({ path, name = 'Filter' }: { path: Path; name?: string }) {
  return (
    <Rows path={path} name={name} add="Add filter" fresh={() => ({ property: '', op: 'eq', value: '' })}>
      {(row) => <Condition path={row} subject="property" />}
    </Rows>
  );
}

/** A group of fields that is open when something in it is said. */
export function Group({ title, about, open, children }: { title: string; about?: ComponentChildren; open?: boolean; children: ComponentChildren }) {
  return (
    <details class="group" open={open}>
      <summary><h3>{title}</h3></summary>
      {about && <p class="hint">{about}</p>}
      {children}
    </details>
  );
}

export const isSaid = (value: Json | undefined): boolean =>
  value !== undefined && value !== null && !(Array.isArray(value) && !value.length) && !(isObject(value) && !Object.keys(value).length);
