/** A draft over recorded time: what it would have done, and what it would have taken from others. */
import { useState } from 'preact/hooks';
import { all, call, type JsonObject } from '../api';
import { Bars, Series } from '../charts';
import { number, since, words } from '../format';
import { useLoaded } from '../live';
import { href, setQuery } from '../route';
import { useCanChange } from '../session';
import { kept } from '../kept';
import { Table } from '../table';
import type { SurveyDefinition } from '../types';
import { Await, Button, Choice, Empty, Page, Section, TextField, Trouble, useAction } from '../ui';
import { PERIODS } from './failures';
import { isOver, Progress, useJob } from './jobs';

interface SurveyReport {
  survey_id: string;
  considered: number;
  offered: number;
  not_offered: Record<string, number>;
  offers: number;
  displayed: number;
  answered: number;
  completed: number;
  users_considered: number;
  users_reached: number;
  per_day: Record<string, { offers: number; users: number; new_users: number }>;
}
interface Other {
  survey_id: string;
  offers_without: number;
  offers_with: number;
  lost: number;
  gained: number;
  users_in_both: number;
  lost_by: Record<string, number>;
}
interface Report {
  from: string;
  to: string;
  records: number;
  seconds: number;
  versions: { name: string; surveys: SurveyReport[]; others: Other[] }[];
}

export function Backtest({ query }: { query: URLSearchParams }) {
  const canChange = useCanChange();
  const surveys = useLoaded('surveys', (signal) => all<SurveyDefinition>('/v1/surveys', 'surveys', 1000, signal));
  const id = query.get('survey') ?? '';
  const [period, setPeriod] = useState('7d');
  const [answered, setAnswered] = useState('0');
  const action = useAction();
  const job = useJob(query.get('job'));
  const draft = kept<{ def: JsonObject }>('draft:' + id, 'sessionStorage')?.def;

  async function begin(): Promise<void> {
    const stored = surveys.data?.find((survey) => survey.survey_id === id);
    const { version: _, ...rest } = (draft ?? stored ?? {}) as JsonObject;
    const { data } = await call<{ job_id: string }>('POST', '/v1/jobs', {
      body: { kind: 'backtest', survey: rest, from: since(period), ...(Number(answered) > 0 && { answered: Number(answered) / 100 }) },
    });
    setQuery({ job: data.job_id }, false);
  }
  return (
    <Page title="Backtest" about="Runs a survey over what has really happened, and changes nothing: whom it would have asked, and whom others would no longer have asked.">
      <Await of={surveys} what="Loading surveys">
        {(list) => list.length ? (
          <Section title="What to try">
            <form class="filters" onSubmit={(event) => { event.preventDefault(); if (id) void action.run(begin); }}>
              <Choice label="Survey" value={id} options={[['', 'choose'], ...list.map((survey) => [survey.survey_id, survey.name] as [string, string])]} onValue={(value) => setQuery({ survey: value, job: '' })}
                hint={draft ? 'Your unpublished changes to it are tried.' : undefined} />
              <Choice label="Recorded time" value={period} options={PERIODS.filter(([name]) => name !== 'all')} onValue={setPeriod} />
              <TextField label="Answered (%)" type="number" min={0} max={100} value={answered} onValue={setAnswered} hint="How many of those who see it are supposed to answer." />
              {canChange && <Button look="main" submit busy={action.busy} disabled={!id}>Run backtest</Button>}
            </form>
            {!canChange && <p class="quiet">Running one needs a key of kind admin. You can look at one whose link you have.</p>}
            {action.error && <Trouble error={action.error} />}
          </Section>
        ) : <Empty title="There is no survey to try."><p>Write one first; it may stay a draft.</p><a class="button" href={href('/surveys')}>Surveys</a></Empty>}
      </Await>
      {query.get('job') && (
        <Await of={job} what="Loading the job">
          {(data) => (
            <>
              <Section title="Progress"><Progress job={data} onCancelled={job.reload} /></Section>
              {data.state === 'done' && isOver(data) && <Reported report={data.result as Report} />}
            </>
          )}
        </Await>
      )}
    </Page>
  );
}

function Reported({ report }: { report: Report }) {
  return (
    <>
      {report.versions.map((version) => (
        <div key={version.name}>
          {version.surveys.map((one) => (
            <Section key={one.survey_id} title={one.survey_id}>
              <ul class="tiles">
                <li><strong>{number(one.users_reached)}</strong> users reached</li>
                <li><strong>{number(one.offers)}</strong> offers</li>
                <li><strong>{number(one.users_considered)}</strong> users considered</li>
                <li><strong>{number(report.records)}</strong> journal records</li>
              </ul>
              <div class="pair">
                <Bars title="From considered to completed" unit="Times" of={one.considered} points={(['considered', 'offered', 'displayed', 'answered', 'completed'] as const).map((name) => ({ label: name, value: one[name] }))} />
                {Object.keys(one.not_offered).length > 0 && <Bars title="Why not offered" unit="Times" points={Object.entries(one.not_offered).sort(([, a], [, b]) => b - a).map(([gate, n]) => ({ label: words(gate), value: n }))} />}
              </div>
              {Object.keys(one.per_day).length > 0 && <Series title="Users reached per day (UTC)" unit="Users" points={Object.entries(one.per_day).map(([day, n]) => ({ label: day, value: n.users }))} />}
            </Section>
          ))}
          <Section title="Other surveys">
            {version.others.length ? (
              <Table name="Other surveys" rows={version.others} rowKey={(row) => row.survey_id} columns={[
                { name: 'Survey', value: (row) => row.survey_id },
                { name: 'Offers without it', value: (row) => row.offers_without, numeric: true },
                { name: 'With it', value: (row) => row.offers_with, numeric: true },
                { name: 'Lost', value: (row) => row.lost, numeric: true },
                { name: 'Gained', value: (row) => row.gained, numeric: true },
                { name: 'Users in both', value: (row) => row.users_in_both, numeric: true },
                { name: 'Lost by', value: (row) => Object.entries(row.lost_by).map(([gate, n]) => `${words(gate)} ${n}`).join(', ') },
              ]} />
            ) : <p>No other survey would have been offered less or more.</p>}
          </Section>
        </div>
      ))}
    </>
  );
}
