/** What was answered, per survey. */
import { useState } from 'preact/hooks';
import { all, base, query as queryOf, route } from '../api';
import { Bars, Series } from '../charts';
import { count, number, percent, short, since, span, words } from '../format';
import { SLOW_MS, useGet, useLoaded } from '../live';
import { go, href, setQuery } from '../route';
import type { QuestionResult, Results, Stats, SurveyDefinition } from '../types';
import { Await, Button, Choice, Empty, Notice, Page, Section, Trouble } from '../ui';
import { PERIODS } from './failures';
import { ResponsesDownload } from './responses';

const BY: [string, string][] = [['day', 'day'], ['week', 'week'], ['month', 'month'], ['version', 'version'], ['locale', 'language'], ['platform', 'platform'], ['trigger', 'trigger']];

export function ResultsPage({ id, query }: { id: string | undefined; query: URLSearchParams }) {
  const list = useLoaded('surveys', (signal) => all<SurveyDefinition>('/v1/surveys', 'surveys', 1000, signal), ['surveys', 'definitions']);
  return (
    <Page title="Results" about="What users have answered. Erased users and tests are left out.">
      <Await of={list} what="Loading surveys">
        {(surveys) => surveys.length ? (
          <>
            <div class="filters">
              <Choice label="Survey" value={id ?? ''} onValue={(value) => go(value ? '/results/' + encodeURIComponent(value) : '/results')} options={[['', 'choose'], ...surveys.map((survey) => [survey.survey_id, survey.name] as [string, string])]} />
              <Choice label="Period" value={query.get('period') ?? 'all'} onValue={(value) => setQuery({ period: value })} options={PERIODS} />
              <Choice label="By" value={query.get('by') ?? 'day'} onValue={(value) => setQuery({ by: value })} options={BY} />
              <Choice label="Version" value={query.get('version') ?? ''} onValue={(value) => setQuery({ version: value })}
                options={[['', 'all'], ...Array.from({ length: surveys.find((survey) => survey.survey_id === id)?.version ?? 0 }, (_, i) => [String(i + 1), String(i + 1)] as [string, string])]} />
            </div>
            {id ? <OfSurvey id={id} survey={surveys.find((survey) => survey.survey_id === id)} query={query} /> : (
              <ul class="plain links">{surveys.map((survey) => <li key={survey.survey_id}><a class="long" href={href('/results/' + encodeURIComponent(survey.survey_id))}>{survey.name}</a></li>)}</ul>
            )}
          </>
        ) : <Empty title="There is no survey yet, so there are no results."><a class="button" href={href('/surveys')}>Surveys</a></Empty>}
      </Await>
    </Page>
  );
}

function OfSurvey({ id, survey, query }: { id: string; survey: SurveyDefinition | undefined; query: URLSearchParams }) {
  const span_ = { since: since(query.get('period') ?? 'all') };
  const results = useGet<Results>(route`/v1/surveys/${id}/results` + queryOf({ ...span_, version: query.get('version'), by: query.get('by') ?? 'day' }), ['responses', 'results'], SLOW_MS);
  const stats = useGet<Stats>(route`/v1/surveys/${id}/stats` + queryOf(span_), ['decisions', 'responses'], SLOW_MS);
  // A survey that is not there has neither results nor a funnel, and is told of once.
  if (results.error?.status === 404 && !results.data) return <Trouble error={results.error} />;
  const texts = new Map(((survey?.questions as { question_id: string; text: string }[] | undefined) ?? []).map((q) => [q.question_id, q.text]));
  return (
    <>
      <Await of={results} what="Loading results">
        {(data) => (
          <>
            <Section title="Responses" actions={<ResponsesDownload id={id} />}>
              <ul class="tiles">
                <li><strong>{number(data.responses)}</strong> responses</li>
                <li><strong>{number(data.completed)}</strong> completed</li>
                <li><strong>{data.completion_rate == null ? '–' : percent(data.completion_rate, 1)}</strong> completion rate</li>
                <li><strong>{span(data.median_duration_ms)}</strong> median time to answer</li>
              </ul>
              {data.hidden_below !== undefined && <Anonymous least={data.hidden_below} responses={data.responses} />}
              {data.responses === 0 && <Empty title="Nobody has answered in this time."><p>See in the funnel below how far users come, and which gate keeps them back.</p></Empty>}
              {data.series.length > 0 && <Series title={`Responses by ${words(query.get('by') ?? 'day')}`} unit="Responses" points={data.series.map(point)} />}
            </Section>
            {data.questions.map((question) => <OfQuestion key={`${question.question_id} ${question.type}`} question={question} text={question.text ?? texts.get(question.question_id)} />)}
          </>
        )}
      </Await>
      <Await of={stats} what="Loading the funnel">{(data) => <Funnel id={id} stats={data} since={span_.since} />}</Await>
      <p class="quiet">From a terminal: <code>curl -H "authorization: Bearer $ASKWHEN_KEY" {location.origin + base + route`/v1/surveys/${id}/results`}</code></p>
    </>
  );
}

/** What an anonymous survey hides, so that nobody is known by an answer. */
function Anonymous({ least, responses }: { least: number; responses: number }) {
  return responses < least
    ? <Notice title={`Answers are hidden until there are ${number(least)} responses.`}><p>The survey is anonymous: few answers would tell who gave them.</p></Notice>
    : <p class="quiet">The survey is anonymous: groups of fewer than {number(least)} responses are left out.</p>;
}

/** A group of the series, its size the number of responses. */
function point({ group, responses }: Results['series'][number]): { label: string; value: number } {
  return { label: /^\d{4}-\d\d-\d\dT00:00/.test(group) ? group.slice(0, 10) : group || '–', value: responses };
}

function OfQuestion({ question, text }: { question: QuestionResult; text: string | undefined }) {
  const { nps } = question;
  return (
    <Section title={text || question.question_id}>
      <p class="quiet">{count(question.answered, 'answer')}, {number(question.skipped)} skipped{question.mean != null ? `, mean ${Math.round(question.mean * 100) / 100}` : ''}. Type {words(question.type)}.</p>
      {nps && nps.score !== null && nps.margin !== null && (
        <ul class="tiles">
          <li><strong>{Math.round(nps.score)}</strong> NPS <span class="quiet">± {Math.round(nps.margin * 10) / 10} (95 %)</span></li>
          <li><strong>{number(nps.promoters)}</strong> promoters <span class="nowrap">(9–10)</span></li>
          <li><strong>{number(nps.passives)}</strong> passives <span class="nowrap">(7–8)</span></li>
          <li><strong>{number(nps.detractors)}</strong> detractors <span class="nowrap">(0–6)</span></li>
        </ul>
      )}
      {question.distribution && question.distribution.length > 0 && <Bars title="Answers" unit="Answers" of={question.answered} points={question.distribution.map((one) => ({ label: one.text ?? String(one.value), value: one.count }))} />}
      {question.texts && question.texts.length > 0 && (
        <>
          <h3>Newest texts</h3>
          <ul class="texts">{question.texts.map((one, i) => <li key={i}><LongText text={one.text} /></li>)}</ul>
        </>
      )}
    </Section>
  );
}

/** Characters of a text that stand there before somebody asks for the rest. */
const TEXT_START = 600;

function LongText({ text }: { text: string }) {
  const [isWhole, setWhole] = useState(false);
  if (text.length <= TEXT_START) return <span dir="auto">{text}</span>;
  return (
    <>
      <span dir="auto">{isWhole ? text : short(text, TEXT_START)}</span>{' '}
      <Button class="small" onClick={() => setWhole(!isWhole)} aria-expanded={isWhole}>{isWhole ? 'Show less' : `Show all ${number(text.length)} characters`}</Button>
    </>
  );
}

function Funnel({ id, stats, since }: { id: string; stats: Stats; since: string }) {
  const gates = Object.entries(stats.not_offered).sort(([, a], [, b]) => b - a);
  return (
    <Section title="Funnel">
      <div class="pair">
        <Bars title="From considered to completed" of={stats.considered} unit="Times" points={(['considered', 'offered', 'displayed', 'answered', 'completed', 'dismissed'] as const).map((name) => ({ label: name, value: stats[name] }))} />
        {gates.length > 0 && (
          <div>
            <Bars title="Why not offered" unit="Times" points={gates.map(([gate, n]) => ({ label: words(gate), value: n }))} />
            <ul class="plain">{gates.map(([gate, n]) => <li key={gate}><a href={href('/users' + queryOf({ gate, survey_id: id, since }))}>{count(n, 'time')} {words(gate)}: show the users</a></li>)}</ul>
          </div>
        )}
      </div>
    </Section>
  );
}
