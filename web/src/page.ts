/**
 * The survey page behind a link. What the server knows is in the page's data
 * block; loading records nothing, only the user's own answers do.
 */
import { outbox } from './outbox';
import { fits, type Answers } from './path';
import { mount } from './render';
import { store } from './store';
import { uuid } from './uuid';
import type { Question, Survey, Value } from './types';

/** The JSON of `<script type="application/json" id="askwhen">`. */
interface PageData {
  survey: Survey;
  /** Where answers are posted; `{user}` stands for the user's id, percent-encoded. */
  submit: string;
  /** The user that the link is for; null: the page makes an `anon-` user and keeps it. */
  user_id: string | null;
  /** Members that go along with each post, such as the link's token. */
  body?: Record<string, unknown>;
  /** What is said when the server refuses the answers for good. */
  refused?: string;
}

/** What `?q1=8` means for a question; unfit values are as if they were not there. */
function prefilled(question: Question, texts: string[]): Value | undefined {
  const [text] = texts;
  const value =
    question.type === 'multi_choice'
      ? texts.flatMap((t) => t.split(','))
      : /^(nps|rating)/.test(question.type)
        ? text?.trim() && Number(text)
        : text;
  return texts.length && fits(question, value) ? (value as Value) : undefined;
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
// One response for each user and browser, however often the page is loaded.
const response = () => id(names + 'response', uuid);

function say(text: string): void {
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
    // No answer, or a server in trouble: it is sent again. Anything else is final.
    if (/: 4(?!08|25|29)\d\d /.test(error.message)) {
      local.delete(names + 'response');
      say(data.refused ?? 'This survey is closed.');
    }
  },
);
addEventListener('online', () => queue.flush(true));
addEventListener('pagehide', () => queue.leave());
const sent = queue.flush(true);

if (local.get(names + 'done') && data.user_id === null) say(survey.ui?.thank_you?.text ?? 'Thank you');
else {
  // The server lets this user answer once more: that is another response, when the last one is through.
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
      queue.tell({
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
