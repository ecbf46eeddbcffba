// The types as a user of the package meets them; compiled, never run.
import askwhen, { init, trigger, type Decision, type Options } from 'askwhen-browser';
import { InlineSurvey, useAskwhen, useTrigger } from 'askwhen-browser/react';
import { askwhenPlugin, useTrigger as useVueTrigger } from 'askwhen-browser/vue';
import { createApp, ref } from 'vue';
import { createElement } from 'react';

const options: Options = {
  server: 'https://ask.example',
  key: 'pk_1234567890123456',
  context: { platform: 'web', app_version: '1.2.3' },
  theme: { scheme: 'dark', accent: '#0a7' },
  onDecision: (decision) => decision.survey?.questions.length !== 0,
  onAnswer: (answers, completed, survey) => [answers[0]?.value, completed, survey.survey_id],
  onClose: (reason) => reason === 'completed',
};
init(options);
const decision: Promise<Decision | null> = trigger('Home', { plan: 'pro' }, '#here');
const shown: Promise<boolean> = askwhen.show((await decision)!, document.body);
askwhen.queue.push(['trigger', 'Home']);
useAskwhen(options);
useTrigger('Home', { plan: 'pro' });
useTrigger(null);
createElement(InlineSurvey, { trigger: 'Home', className: 'x' });
createApp({}).use(askwhenPlugin, options);
useVueTrigger(ref('Home'));

// @ts-expect-error a key is needed
init({ server: 'https://ask.example' });
// @ts-expect-error there is no such layout of a theme
init({ key: 'k', theme: { scheme: 'sepia' } });
// @ts-expect-error properties are an object
trigger('Home', 'pro');
void shown;
