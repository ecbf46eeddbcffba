/** How a survey looks, and its languages. */
import { useState } from 'preact/hooks';
import type { Json, JsonObject } from '../api';
import { Button, Choice, Empty, Section, TextField } from '../ui';
import { AtCheck, AtChoice, AtText, fieldId, Group, isSaid, useEditor } from './fields';
import { getAt, isObject, type Path } from './model';

const LABELS: [string, string][] = [['next', 'Next'], ['back', 'Back'], ['submit', 'Send'], ['close', 'Close'], ['required', 'Please answer this question'], ['too_long', 'This answer is too long'], ['progress', 'Progress']];

export function Look() {
  const { at } = useEditor();
  const theme = (name: string): Path => ['ui', 'theme', name];
  return (
    <Section title="Look">
      <div class="row">
        <AtChoice path={['ui', 'layout']} label="Layout" fallback="popover" options={['popover', 'modal', 'inline']} />
        <AtChoice path={['ui', 'position']} label="Position" fallback="bottom_right" options={[['bottom_right', 'bottom right'], ['bottom_left', 'bottom left'], ['bottom_center', 'bottom centre'], ['center', 'centre']]} />
        <AtChoice path={theme('scheme')} label="Colours" fallback="auto" options={[['auto', 'as the system'], ['light', 'light'], ['dark', 'dark']]} />
        <AtText path={theme('accent')} label="Accent" placeholder="#2563eb" />
      </div>
      <AtCheck path={['ui', 'progress']} label="Show progress" />
      <Group title="More of the theme" open={['background', 'text', 'radius', 'font'].some((name) => isSaid(at(theme(name))))}>
        <div class="row"><AtText path={theme('background')} label="Background" placeholder="#ffffff" /><AtText path={theme('text')} label="Text colour" placeholder="#16181d" /><AtText path={theme('radius')} label="Corner radius" placeholder="12px" /><AtText path={theme('font')} label="Font" /></div>
      </Group>
      <Group title="Words of the widget" open={isSaid(at(['ui', 'labels'])) || isSaid(at(['ui', 'thank_you']))}>
        <div class="row"><AtText path={['ui', 'thank_you', 'text']} label="Thanks" placeholder="Thank you" /><AtText path={['ui', 'thank_you', 'close_after']} label="closes after" placeholder="3s" /></div>
        <div class="row">{LABELS.map(([name, text]) => <AtText key={name} path={['ui', 'labels', name]} label={`“${text}”`} placeholder={text} />)}</div>
      </Group>
    </Section>
  );
}

interface Text {
  /** Below `translations.LOCALE`. */
  path: Path;
  name: string;
  original: string;
}

/** Every text of the survey that can be translated. */
export function translatable(def: JsonObject): Text[] {
  const found: Text[] = [];
  const add = (path: Path, name: string, original: Json | undefined) => {
    if (typeof original === 'string' && original) found.push({ path, name, original });
  };
  add(['name'], 'name', def.name);
  for (const question of (Array.isArray(def.questions) ? def.questions : []).filter(isObject)) {
    const id = String(question.question_id);
    add(['questions', id, 'text'], id, question.text);
    for (const end of ['low', 'high']) add(['questions', id, 'labels', end], `${id}, ${end}`, getAt(question, ['labels', end]));
    for (const option of Array.isArray(question.options) ? question.options : []) {
      const value = isObject(option) ? option.value : option;
      add(['questions', id, 'options', String(value)], `${id}, option`, isObject(option) ? (option.text ?? value) : option);
    }
    add(['questions', id, 'other', 'text'], `${id}, other`, getAt(question, ['other', 'text']));
  }
  for (const ending of (Array.isArray(def.endings) ? def.endings : []).filter(isObject)) {
    add(['endings', String(ending.ending_id), 'text'], `ending ${ending.ending_id}`, ending.text);
    add(['endings', String(ending.ending_id), 'link'], `link of ${ending.ending_id}`, ending.link);
  }
  add(['ui', 'thank_you', 'text'], 'thanks', getAt(def, ['ui', 'thank_you', 'text']));
  for (const [name, text] of LABELS) add(['ui', 'labels', name], `button “${text}”`, getAt(def, ['ui', 'labels', name]));
  return found;
}

export function Languages() {
  const { def, at, set } = useEditor();
  const translations = at(['translations']);
  const locales = isObject(translations) ? Object.keys(translations) : [];
  const [chosen, setChosen] = useState('');
  const [fresh, setFresh] = useState('');
  const locale = locales.includes(chosen) ? chosen : locales[0];
  const texts = translatable(def);
  const missing = (one: string) => texts.filter((text) => !isSaid(getAt(translations, [one, ...text.path]))).length;
  return (
    <Section title="Languages">
      <p class="hint">A user sees their own language, else the one without its country, else the texts above.</p>
      <AtText path={['locale']} label="Language of the texts above" placeholder="en" hint="Without it nobody can be told which it is." />
      <div class="row" id={fieldId(['translations'])} tabIndex={-1}>
        {locales.length > 0 && <Choice label="Language" value={locale!} options={locales.map((one) => [one, `${one}${missing(one) ? `, ${missing(one)} missing` : ''}`])} onValue={setChosen} />}
        <TextField label="New language" value={fresh} onValue={setFresh} placeholder="de" />
        <Button disabled={!fresh.trim() || locales.includes(fresh.trim())} onClick={() => { set(['translations', fresh.trim()], { questions: {} }); setChosen(fresh.trim()); setFresh(''); }}>Add language</Button>
        {locale && <Button onClick={() => set(['translations', locale], undefined)}>Remove {locale}</Button>}
      </div>
      {locale
        ? <div class="translations">{texts.map((text) => <AtText key={locale + text.path.join()} path={['translations', locale, ...text.path]} label={`${text.name}: ${text.original}`} placeholder={text.original} />)}</div>
        : <Empty title="The survey speaks one language." />}
    </Section>
  );
}
