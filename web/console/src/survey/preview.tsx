/** The survey as a page would show it, by the widget's own renderer. Nothing that is answered here is sent. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Renderer, View } from '../../../src/render';
import type { Survey } from '../../../src/types';
import { base, type Json, type JsonObject } from '../api';
import { Button, Choice, Section } from '../ui';
import { getAt, isObject } from './model';

const PAUSE_MS = 250;
const RTL = /^(ar|fa|he|ur|ps|yi|dv|ckb)\b/;
let renderer: Promise<Renderer> | undefined;
/** The same file that pages load, kept beside the console. */
const load = (): Promise<Renderer> => (renderer ??= import(base + '/console/survey.mjs') as Promise<Renderer>);

/** The texts of one language over the survey's own, as a decision carries them. */
export function translated(def: JsonObject, locale: string): JsonObject {
  const texts = getAt(def, ['translations', locale]);
  if (!isObject(texts)) return def;
  const over = (own: Json | undefined, more: Json | undefined): Json | undefined =>
    isObject(own) && isObject(more) ? Object.fromEntries([...new Set([...Object.keys(own), ...Object.keys(more)])].map((name) => [name, over(own[name], more[name])!])) : (more ?? own);
  const questions = (Array.isArray(def.questions) ? def.questions : []).map((question) => {
    if (!isObject(question)) return question;
    const more = getAt(texts, ['questions', String(question.question_id)]);
    if (!isObject(more)) return question;
    const { options, ...rest } = more;
    const own = Array.isArray(question.options) ? question.options : undefined;
    return {
      ...(over(question, rest) as JsonObject),
      ...(own && { options: own.map((option) => {
        const value = isObject(option) ? option.value : option;
        const text = getAt(options, [String(value)]);
        return text === undefined ? option : { ...(isObject(option) ? option : { value: value! }), text };
      }) }),
    };
  });
  const endings = (Array.isArray(def.endings) ? def.endings : []).map((ending) => (isObject(ending) ? over(ending, getAt(texts, ['endings', String(ending.ending_id)]))! : ending));
  return { ...def, questions, endings, ui: over(def.ui, texts.ui) ?? {} };
}

export function Preview({ def }: { def: JsonObject }) {
  const place = useRef<HTMLDivElement>(null);
  const [problem, setProblem] = useState('');
  const [locale, setLocale] = useState('');
  const [turn, setTurn] = useState(0);
  const [last, setLast] = useState('');
  const locales = isObject(def.translations) ? Object.keys(def.translations) : [];
  const { questions, ui, endings } = translated(def, locale);
  const shown = JSON.stringify({ questions, ui, endings, locale });

  useEffect(() => {
    let view: View | undefined;
    let over = false;
    const timer = setTimeout(() => {
      load().then(({ mount }) => {
        if (over || !place.current) return;
        place.current.replaceChildren();
        const asked = (JSON.parse(shown).questions as JsonObject[]).map((question) => ({ ...question, text: question.text || '…' }));
        if (!asked.length) throw new Error('There is no question yet.');
        const survey = { survey_id: 'preview', version: 0, name: '', offer_id: 'preview', locale: locale || undefined, dir: RTL.test(locale) ? 'rtl' : 'ltr', ui, endings, questions: asked } as unknown as Survey;
        view = mount(survey, {
          target: place.current,
          displayed: () => {},
          answered: (answers, completed) => setLast(`${completed ? 'Completed: ' : ''}${answers.map((one) => `${one.question_id} = ${JSON.stringify(one.value)}`).join(', ')}`),
          dismissed: () => setLast('Dismissed'),
          closed: () => setTimeout(() => over || setTurn((n) => n + 1), 300),
          failed: () => {},
        });
        setProblem('');
      }).catch((error: Error) => over || setProblem(error.message.replace('askwhen: ', '')));
    }, PAUSE_MS);
    return () => {
      over = true;
      clearTimeout(timer);
      view?.close('unmounted');
    };
  }, [shown, turn]);

  return (
    <Section title="Preview" actions={<Button class="small" onClick={() => { setLast(''); setTurn(turn + 1); }}>Start over</Button>}>
      {locales.length > 0 && <Choice label="Shown in" value={locale} options={[['', 'its own language'], ...locales.map((one) => [one, one] as [string, string])]} onValue={setLocale} />}
      <div class="preview" ref={place} />
      {problem && <p class="fault" role="status">It cannot be shown yet: {problem}</p>}
      <p class="quiet" role="status">{last || 'Try it: nothing that you answer here is sent.'}</p>
    </Section>
  );
}
