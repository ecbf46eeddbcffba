/** What is asked: questions by drag and keyboard, where answers lead, and endings. */
import { useRef, useState } from 'preact/hooks';
import type { Json, JsonObject } from '../api';
import { words } from '../format';
import { Button, Check, Icon, Section, TextField } from '../ui';
import { AtArea, AtCheck, AtChoice, AtText, AtValue, fieldId, Group, isSaid, OPERATORS, Rows, useEditor } from './fields';
import { isObject, move, renameQuestion, setAt, type Path } from './model';

export const TYPES: [string, string][] = [
  ['nps', 'NPS, 0 to 10'], ['rating_star', 'stars, 1 to 5'], ['rating_emoji', 'emoji, 1 to 5'], ['rating_number', 'numbers'],
  ['single_choice', 'one choice'], ['multi_choice', 'several choices'], ['text', 'text'], ['info', 'a page that is only shown'],
];
const CHOICES = ['single_choice', 'multi_choice'];
const RATINGS = ['nps', 'rating_star', 'rating_emoji', 'rating_number'];

/** The first of `q1`, `q2`, … that no question has. */
export function freeId(questions: JsonObject[]): string {
  let n = questions.length + 1;
  while (questions.some((question) => question.question_id === 'q' + n)) n++;
  return 'q' + n;
}

export function Questions() {
  const { at, set, wrong } = useEditor();
  const questions = (at(['questions']) as JsonObject[] | undefined) ?? [];
  const [dragged, setDragged] = useState<number | null>(null);
  const list = useRef<HTMLOListElement>(null);

  function place(from: number, to: number): void {
    if (to < 0 || to >= questions.length || from === to) return;
    set(['questions'], move(questions, from, to));
    // The keyboard goes with the question that it moves.
    setTimeout(() => list.current?.querySelectorAll<HTMLElement>(':scope > li')[to]?.querySelector<HTMLElement>('.handle')?.focus());
  }
  return (
    <Section title="Questions">
      {wrong(['questions']).map((fault) => <p class="fault" key={fault}>{fault}</p>)}
      <ol class="questions" ref={list} id={fieldId(['questions'])} tabIndex={-1}>
        {questions.map((question, i) => (
          <li key={i} class={dragged === i ? 'dragged' : ''}
            onDragOver={(event) => dragged !== null && event.preventDefault()}
            onDrop={(event) => {
              event.preventDefault();
              if (dragged !== null) place(dragged, i);
              setDragged(null);
            }}>
            <Question index={i} question={question} last={i === questions.length - 1} place={(to) => place(i, to)} onDrag={(on) => setDragged(on ? i : null)} />
          </li>
        ))}
      </ol>
      <div class="actions">
        <Button onClick={() => set(['questions'], [...questions, { question_id: freeId(questions), type: 'text', text: '', required: true }])}>Add question</Button>
      </div>
      <Endings />
    </Section>
  );
}

function Question({ index, question, last, place, onDrag }: { index: number; question: JsonObject; last: boolean; place: (to: number) => void; onDrag: (on: boolean) => void }) {
  const { def, change, at, set, wrong } = useEditor();
  const path: Path = ['questions', index];
  const type = String(question.type);
  const questions = at(['questions']) as JsonObject[];
  const name = `question ${index + 1}`;
  return (
    <fieldset class="question">
      <legend class="unseen">Question {index + 1}</legend>
      <div class="question-head">
        <button type="button" class="handle" draggable aria-label={`Move ${name}: arrow keys, or drag`}
          onDragStart={(event) => {
            event.dataTransfer?.setData('text/plain', String(index));
            onDrag(true);
          }}
          onDragEnd={() => onDrag(false)}
          onKeyDown={(event) => {
            const step = event.key === 'ArrowUp' ? -1 : event.key === 'ArrowDown' ? 1 : 0;
            if (!step) return;
            event.preventDefault();
            place(index + step);
          }}><Icon name="grip" /></button>
        <strong>{index + 1}. <span class="quiet">{words(type)}</span></strong>
        <span class="spacer" />
        <Button class="small" disabled={index === 0} onClick={() => place(index - 1)} aria-label={`Move ${name} up`}><Icon name="up" /></Button>
        <Button class="small" disabled={last} onClick={() => place(index + 1)} aria-label={`Move ${name} down`}><Icon name="down" /></Button>
        <Button class="small" disabled={questions.length === 1} onClick={() => set(['questions'], questions.filter((_, i) => i !== index))} aria-label={`Remove ${name}`}>Remove</Button>
      </div>
      <AtArea path={[...path, 'text']} label="Text" />
      <div class="row">
        <AtChoice path={[...path, 'type']} label="Type" options={TYPES} fallback="" />
        <TextField id={fieldId([...path, 'question_id'])} label="Question ID" value={String(question.question_id ?? '')} faults={wrong([...path, 'question_id'])} onValue={(id) => change(renameQuestion(def, index, id))} />
        {type === 'rating_number' && <Scale path={[...path, 'scale']} />}
      </div>
      {type !== 'info' && <AtCheck path={[...path, 'required']} label="Required" fallback />}
      {RATINGS.includes(type) && (
        <div class="row">
          <AtText path={[...path, 'labels', 'low']} label="Label of the lowest" placeholder="Not at all" />
          <AtText path={[...path, 'labels', 'high']} label="Label of the highest" placeholder="Very" />
        </div>
      )}
      {CHOICES.includes(type) && <Options path={path} question={question} />}
      {!last && <Branches path={path} index={index} question={question} questions={questions} />}
    </fieldset>
  );
}

function Scale({ path }: { path: Path }) {
  const { at, set, wrong } = useEditor();
  return (
    <div class="field">
      <label for={fieldId(path)}>Highest number</label>
      <select id={fieldId(path)} value={String(at(path) ?? 5)} onChange={(event) => set(path, Number(event.currentTarget.value))}>
        {[3, 5, 7, 10].map((n) => <option key={n} value={n}>{n}</option>)}
      </select>
      {wrong(path).map((fault) => <p class="fault" key={fault}>{fault}</p>)}
    </div>
  );
}

/** An option is a text, or a value with a text of its own. Writing a text makes it the second; taking it away, the first. */
function setOption(option: Json, member: 'value' | 'text', to: string): Json {
  if (!isObject(option)) return member === 'value' ? to : to ? { value: option, text: to } : option;
  const next = { ...option, [member]: to };
  if (!to && member === 'text') delete (next as JsonObject).text;
  return Object.keys(next).length === 1 && typeof next.value === 'string' ? next.value : next;
}

function Options({ path, question }: { path: Path; question: JsonObject }) {
  const { set, wrong } = useEditor();
  const options = (question.options as Json[] | undefined) ?? [];
  const place = [...path, 'options'];
  return (
    <div class="options">
      <h4 id={fieldId(place) + '-h'}>Options</h4>
      {options.map((option, i) => (
        <div class="row" key={i}>
          <TextField label={`Value ${i + 1}`} value={String(isObject(option) ? (option.value ?? '') : option)} faults={wrong([...place, i], true)} onValue={(value) => set([...place, i], setOption(option, 'value', value))} />
          <TextField label={`Shown text ${i + 1}`} value={isObject(option) ? String(option.text ?? '') : ''} placeholder={String(isObject(option) ? (option.value ?? '') : option)} onValue={(text) => set([...place, i], setOption(option, 'text', text))} />
          <Button class="small" disabled={i === 0} onClick={() => set(place, move(options, i, i - 1))} aria-label={`Move option ${i + 1} up`}><Icon name="up" /></Button>
          <Button class="small" onClick={() => set(place, options.filter((_, j) => j !== i))} aria-label={`Remove option ${i + 1}`}>Remove</Button>
        </div>
      ))}
      {wrong(place).map((fault) => <p class="fault" key={fault}>{fault}</p>)}
      <Button class="small" onClick={() => set(place, [...options, `option_${options.length + 1}`])}>Add option</Button>
      <Check label="Something else, with a text field" checked={isSaid(question.other) || isObject(question.other)} onChange={(on) => set([...path, 'other'], on ? { text: 'Something else' } : undefined)} />
      {isObject(question.other) && <AtText path={[...path, 'other', 'text']} label="Its text" />}
      <AtCheck path={[...path, 'shuffle']} label="In an order of its own for each user" />
    </div>
  );
}

/** The targets that a question may lead to: later questions, endings, and the end. */
function targets(questions: JsonObject[], index: number, endings: JsonObject[]): [string, string][] {
  return [
    ...questions.slice(index + 1).map((question, i) => [String(question.question_id), `${index + i + 2}. ${question.text || question.question_id}`] as [string, string]),
    ...endings.map((ending) => [String(ending.ending_id), `ending: ${ending.text || ending.ending_id}`] as [string, string]),
    ['end', 'the end'],
  ];
}

function Branches({ path, index, question, questions }: { path: Path; index: number; question: JsonObject; questions: JsonObject[] }) {
  const { at, set, def, change } = useEditor();
  const place = [...path, 'next'];
  const endings = (at(['endings']) as JsonObject[] | undefined) ?? [];
  const isConditional = (row: Path) => isObject(at([...row, 'when']));
  return (
    <Group title="Where answers lead" open={isSaid(question.next)} about="The first rule that fits decides; if none fits, the question below comes next.">
      <Rows path={place} name="Rule" add="Add rule" fresh={(): JsonObject => (question.type === 'info' ? { goto: 'end' } : { when: { op: 'eq', value: '' }, goto: 'end' })}>
        {(row) => (
          <div class="row">
            <div class="field check">
              <label><input type="checkbox" checked={!isConditional(row)} onChange={(event) => event.currentTarget.checked ? set([...row, 'when'], undefined) : change(setAt(def, [...row, 'when'], { op: 'eq', value: '' }) as JsonObject)} /> always</label>
            </div>
            {isConditional(row) && <AtChoice path={[...row, 'when', 'op']} label="The answer" options={OPERATORS} fallback="eq" />}
            {isConditional(row) && !['exists', 'not_exists'].includes(String(at([...row, 'when', 'op']))) && <AtValue path={[...row, 'when', 'value']} label="Value" op={at([...row, 'when', 'op'])} />}
            <AtChoice path={[...row, 'goto']} label="leads to" options={targets(questions, index, endings)} fallback="end" />
          </div>
        )}
      </Rows>
    </Group>
  );
}

function Endings() {
  const { at } = useEditor();
  return (
    <Group title="Endings" open={isSaid(at(['endings']))} about="What is said at the end of a path, instead of the thanks. Rules can lead to it.">
      <Rows path={['endings']} name="Ending" add="Add ending" fresh={() => ({ ending_id: 'thanks', text: 'Thank you' })}>
        {(row) => (
          <>
            <div class="row"><AtText path={[...row, 'ending_id']} label="Ending ID" /><AtText path={[...row, 'link']} label="Link" placeholder="https://…" /></div>
            <AtArea path={[...row, 'text']} label="Ending text" />
          </>
        )}
      </Rows>
    </Group>
  );
}
