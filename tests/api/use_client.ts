// What a backend would do with the client that is made from the description.
import * as api from './client/index.js';

declare const process: { env: Record<string, string | undefined> };

function must(holds: boolean, shown: unknown): void {
  if (!holds) throw new Error(JSON.stringify(shown));
}

const configuration = new api.Configuration({ basePath: process.env.ASKWHEN_URL, accessToken: process.env.ASKWHEN_KEY });
const surveys = new api.SurveysApi(configuration);
const users = new api.UsersApi(configuration);

const surveyDefinition: api.SurveyDefinition = {
  name: 'From TypeScript',
  status: 'active',
  showOn: [{ trigger: 'TypeScript' }],
  frequency: { repeat: 'once', globalCooldown: 'ignore' },
  questions: [
    { questionId: 'q1', type: 'single_choice', text: 'Which?', options: ['a', { value: 'b', text: 'B' }] },
    { questionId: 'q2', type: 'multi_choice', text: 'And which?', options: ['c', 'd'], other: { text: 'Another' } },
  ],
};
const changed = await surveys.putSurvey({ surveyId: 'from-typescript', surveyDefinition });
must(changed.changed, changed);
const tried = await surveys.putSurvey({ surveyId: 'from-typescript', surveyDefinition, dryRun: true });
must(tried.valid === true && !tried.changed, tried);

const event: api.Event = { userId: 'ts', eventName: 'woke', occurredAt: '2026-03-01T08:00:00Z', properties: { a: 1 } };
const taken = await new api.EventsApi(configuration).postEvents({ eventOrBatch: event });
must('status' in taken && taken.status === 'accepted', taken);

const decision = await users.postUserTrigger({ userId: 'ts', trigger: 'TypeScript', triggerRequest: {} });
must(decision.reason === 'offered' && decision.survey?.surveyId === 'from-typescript', decision);
const chosen = ['c', { other: 'e' }];
const given = [{ questionId: 'q1', value: 'b' }, { questionId: 'q2', value: chosen }];
const answers: api.Answers = { answers: given, completed: true };
const answered = await users.postAnswers({ userId: 'ts', offerId: decision.survey!.offerId, answers });
must(answered.status === 'accepted', answered);

const shown = await users.getOffer({ userId: 'ts', offerId: decision.survey!.offerId });
must(shown.completed && shown.answers[0]?.value === 'b', shown);
must(JSON.stringify(shown.answers[1]?.value) === JSON.stringify(chosen), shown);
const missing = await surveys.getSurvey({ surveyId: 'nothing' }).catch((error: unknown) => error);
must(missing instanceof api.ResponseError && missing.response.status === 404, missing);
console.log('client: TypeScript');
