/**
  * The survey page behind a link. The server puts its data into the page's data
  * block. Loading the page records nothing; only the user's answers do.
 */
import { outbox } from './outbox';
import { isValidValue, type Answers } from './path';
import { mount } from './render';
import { store } from './store';
import { uuid } from './uuid';
import type { Question, Survey, Value } from './types';

/** The JSON of `<script type="application/json" id="askwhen">`. */
interface PageData {
  survey: Survey;
  /** The URL for answers; `{user}` stands for the percent-encoded user id. */
  submit: string;
  /** The user of the link. With null the page makes an `anon-` id and keeps it. */
  user_id: string | null;
  /** Members of every request body, such as the token of the link. */
  body?: Record<string, unknown>;
  /** The text to show when the server refuses the answers for good. */
  refused?: string;
}

/** Parses `?q1=8` for a question; returns undefined if the value does not fit. */
function prefilled(question: Question, texts: string[]): Value | undefined {
  const [text] = texts;
  const value =
    question.type === 'multi_choice'
      ? texts.flatMap((t) => t.split(','))
      : /^(nps|rating)/.test(question.type)
        ? text?.trim() && Number(text)
        : text;
  return texts.length && isValidValue(question, value) ? (value as Value) : undefined;
}

const data: PageData = JSON.parse(document.getElementById('askwhen')!.textContent!);
const { survey } = data;
const local = store(() => localStorage);
const id = (name: string, made: () => string): string => {
  const known = local.get(name);
  if (known) return known;
  const fresh = made();
  local.set(name, fresh);
  return fresh;
};

const main = document.querySelector('main')!;
const user = data.user_id ?? id('askwhen:page:anon', () => 'anon-' + uuid());
const names = `askwhen:page:${survey.survey_id}:${user}:`;
// A browser has one response per user, even if the page is loaded again.
const response = () => id(names + 'response', uuid);

function showNotice(text: string): void {
  const note = document.createElement('p');
  note.className = 'note';
  note.setAttribute('role', 'status');
  note.textContent = text;
  main.replaceChildren(note);
}

const queue = outbox(
  () => '',
  undefined,
  local,
  names,
  (error) => {
    // The queue retries network and server errors; any other error is final.
    if (/: 4(?!08|25|29)\d\d /.test(error.message)) {
      local.delete(names + 'response');
      showNotice(data.refused ?? 'This survey is closed.');
    }
  },
);
addEventListener('online', () => queue.flush(true));
addEventListener('pagehide', () => queue.sendOnHide());
const sent = queue.flush(true);

if (local.get(names + 'done') && data.user_id === null) showNotice(survey.ui?.thank_you?.text ?? 'Thank you');
else {
  // The server lets this user respond again, so the next response gets a new id.
  if (local.get(names + 'done'))
    sent.then(() => {
      local.delete(names + 'done');
      local.delete(names + 'response');
    });
  const asked = new URLSearchParams(location.search);
  const answers: Answers = {};
  for (const question of survey.questions) {
    const name = question.question_id;
    if (!['u', 't', 'lang'].includes(name)) answers[name] = prefilled(question, asked.getAll(name));
  }
  mount({ ...survey, offer_id: user + survey.survey_id }, {
    target: main,
    page: true,
    answers,
    displayed() {},
    answered(given, completed) {
      queue.enqueue({
        path: data.submit.replace('{user}', encodeURIComponent(user)),
        body: { ...data.body, response_id: response(), answers: given, completed },
      });
      if (completed) local.set(names + 'done', '1');
    },
    dismissed() {},
    closed() {},
    failed() {},
  });
}
