/** What a new survey can begin with. */
import type { JsonObject } from '../api';

export interface Template {
  id: string;
  title: string;
  about: string;
  def: JsonObject;
}

const survey = (name: string, questions: JsonObject[], more: JsonObject = {}): JsonObject => ({
  survey_id: '', name, status: 'active', show_on: [], frequency: { repeat: 'until_completed' }, ...more, questions,
});

export const TEMPLATES: Template[] = [
  {
    id: 'nps', title: 'NPS', about: 'How likely to recommend, 0 to 10, with the reason of those who are not.',
    def: survey('NPS', [
      { question_id: 'q1', type: 'nps', text: 'How likely are you to recommend us to a friend or colleague?', labels: { low: 'Not at all', high: 'Very likely' }, next: [{ when: { op: 'gte', value: 9 }, goto: 'q3' }] },
      { question_id: 'q2', type: 'text', text: 'What is missing or disappointing?', required: false, next: [{ goto: 'end' }] },
      { question_id: 'q3', type: 'text', text: 'What do you like most?', required: false },
    ], { frequency: { repeat: 'until_completed', cooldown: '90d' } }),
  },
  {
    id: 'csat', title: 'CSAT', about: 'How satisfied with what has just happened, five stars.',
    def: survey('CSAT', [
      { question_id: 'q1', type: 'rating_star', text: 'How satisfied are you?', labels: { low: 'Not at all', high: 'Very' } },
      { question_id: 'q2', type: 'text', text: 'What could we do better?', required: false },
    ], { frequency: { repeat: 'every_activation', cooldown: '30d' } }),
  },
  {
    id: 'ces', title: 'CES', about: 'How easy it was, 1 to 7.',
    def: survey('CES', [
      { question_id: 'q1', type: 'rating_number', scale: 7, text: 'How easy was it to get done what you wanted?', labels: { low: 'Very hard', high: 'Very easy' } },
      { question_id: 'q2', type: 'text', text: 'What made it hard?', required: false },
    ], { frequency: { repeat: 'every_activation', cooldown: '30d' } }),
  },
  {
    id: 'pmf', title: 'PMF', about: 'Product-market fit: how disappointed without it.',
    def: survey('PMF', [
      { question_id: 'q1', type: 'single_choice', text: 'How would you feel if you could no longer use this product?', options: [{ value: 'very', text: 'Very disappointed' }, { value: 'somewhat', text: 'Somewhat disappointed' }, { value: 'not', text: 'Not disappointed' }] },
      { question_id: 'q2', type: 'text', text: 'What is its main benefit for you?', required: false },
      { question_id: 'q3', type: 'text', text: 'How can we improve it for you?', required: false },
    ]),
  },
  {
    id: 'churn', title: 'Churn', about: 'Why somebody leaves, asked when they do.',
    def: survey('Churn', [
      { question_id: 'q1', type: 'single_choice', text: 'What is the main reason that you are leaving?', options: [{ value: 'price', text: 'It costs too much' }, { value: 'missing', text: 'Something is missing' }, { value: 'bugs', text: 'It does not work well' }, { value: 'unused', text: 'I do not use it' }], other: { text: 'Something else' }, shuffle: true },
      { question_id: 'q2', type: 'text', text: 'What would have kept you?', required: false },
    ], { frequency: { repeat: 'once' } }),
  },
  {
    id: 'post-action', title: 'Post-action', about: 'A question within two hours of something that your backend reports.',
    def: survey('Post-action', [{ question_id: 'q1', type: 'rating_emoji', text: 'How did it go?' }, { question_id: 'q2', type: 'text', text: 'Anything else?', required: false }], { expires_after: '2h', frequency: { repeat: 'every_activation', cooldown: '7d' } }),
  },
  {
    id: 'empty', title: 'Empty', about: 'One question, and nothing else.',
    def: survey('', [{ question_id: 'q1', type: 'text', text: '' }]),
  },
];
