/** All surveys, and the templates of new ones. */
import { useState } from 'preact/hooks';
import { all, call, ofEach, query as queryOf, route } from '../api';
import { Spark } from '../charts';
import { count, number, percent } from '../format';
import { SLOW_MS, useLoaded } from '../live';
import { go, href, setQuery } from '../route';
import { useCanChange } from '../session';
import { Table, type Column } from '../table';
import { TEMPLATES } from '../survey/templates';
import type { Stats, SurveyDefinition } from '../types';
import { Await, Badge, Button, Check, Dialog, Empty, Notice, Page } from '../ui';
import { add, NONE } from './home';

const DAY_MS = 86_400_000;
const DAYS = 7;
/** Surveys whose numbers come first, and how many of them are asked for at a time. */
const FIRST = 40;
const AT_ONCE = 2;

interface Row {
  survey: SurveyDefinition;
  stats?: Stats | null;
  days?: number[];
}

/** What a survey's last days were, each asked for by itself; `stats` is null where the server does not say. */
async function numbers(survey: SurveyDefinition, signal: AbortSignal): Promise<Row> {
  const end = Math.ceil(Date.now() / 60_000) * 60_000;
  const day = async (n: number) => {
    const span = { since: new Date(end - n * DAY_MS).toISOString(), until: new Date(end - (n - 1) * DAY_MS).toISOString() };
    return (await call<Stats>('GET', route`/v1/surveys/${survey.survey_id}/stats` + queryOf(span), { signal })).data;
  };
  try {
    const days = await Promise.all(Array.from({ length: DAYS }, (_, i) => day(DAYS - i)));
    return { survey, stats: days.reduce(add, NONE), days: days.map((one) => one.answered) };
  } catch (error) {
    if (signal.aborted) throw error;
    return { survey, stats: null };
  }
}

/** The numbers of these surveys; of more surveys they are asked for less often. */
const useNumbers = (surveys: SurveyDefinition[] | undefined) => useLoaded(
  surveys?.length ? surveys.map((survey) => survey.survey_id).join('\n') : null,
  (signal) => ofEach(surveys!, AT_ONCE, (survey) => numbers(survey, signal)),
  ['decisions', 'responses'],
  SLOW_MS * Math.ceil((surveys?.length ?? 0) / FIRST),
);

export function Surveys({ query }: { query: URLSearchParams }) {
  const canChange = useCanChange();
  const [archived, setArchived] = useState(false);
  const list = useLoaded('surveys', (signal) => all<SurveyDefinition>('/v1/surveys', 'surveys', 1000, signal), ['surveys', 'definitions']);
  const shown = (list.data ?? []).filter((survey) => archived || survey.status !== 'archived');
  const first = useNumbers(list.data && shown.slice(0, FIRST));
  const rest = useNumbers(first.data && shown.slice(FIRST));
  const rows = [...(first.data ?? []), ...(rest.data ?? [])];
  const unread = rows.filter((row) => row.stats === null).length;
  const byId = new Map(rows.map((row) => [row.survey.survey_id, row]));
  const columns: Column<Row>[] = [
    { name: 'Name', value: (row) => row.survey.name, show: (row) => <a href={href('/surveys/' + encodeURIComponent(row.survey.survey_id))} class="long">{row.survey.name}</a> },
    { name: 'ID', value: (row) => row.survey.survey_id, show: (row) => <code>{row.survey.survey_id}</code>, extra: true },
    { name: 'Status', value: (row) => row.survey.status, show: (row) => <Badge name={row.survey.status} /> },
    { name: 'Offered', value: (row) => row.stats?.offered, show: (row) => number(row.stats?.offered), numeric: true },
    { name: 'Answered', value: (row) => row.stats?.answered, show: (row) => number(row.stats?.answered) + (row.stats?.offered ? ` (${percent(row.stats.answered, row.stats.offered)})` : ''), numeric: true },
    { name: '7 days', value: (row) => row.days?.join(' '), show: (row) => row.days ? <Spark values={row.days} label="Answered per day" /> : '–' },
    { name: 'Priority', value: (row) => Number(row.survey.priority ?? 0), numeric: true },
    { name: 'Version', value: (row) => row.survey.version, numeric: true, extra: true },
    { name: 'Results', show: (row) => <a href={href('/results/' + encodeURIComponent(row.survey.survey_id))} aria-label={`Results of ${row.survey.name}`}>Results</a> },
  ];
  return (
    <Page
      title="Surveys"
      about="What is asked, whom, and when. Offered and answered are those of the last seven days."
      actions={canChange && <Button look="main" onClick={() => setQuery({ new: '1' })}>New survey</Button>}
    >
      <Await of={list} what="Loading surveys">
        {(all) => all.length
          ? <>
              {unread > 0 && <Notice tone="warn" title={`The server did not say the numbers of ${count(unread, 'survey')}.`}><Button onClick={() => { first.reload(); rest.reload(); }}>Try again</Button></Notice>}
              <Table name="Surveys" columns={columns} rows={shown.map((survey) => ({ ...byId.get(survey.survey_id), survey }))} rowKey={(row) => row.survey.survey_id}
              tools={all.some((survey) => survey.status === 'archived') && <Check label="Show archived" checked={archived} onChange={setArchived} />} />
            </>
          : <Empty title="There is no survey yet."><p>{canChange ? 'Begin with a template: the questions are there, and you say when and where.' : 'Somebody with an admin key can create one.'}</p>
              {canChange && <Button look="main" onClick={() => setQuery({ new: '1' })}>New survey</Button>}</Empty>}
      </Await>
      {canChange && query.get('new') !== null && (
        <Dialog title="New survey" onClose={() => setQuery({ new: '' })} wide>
          <p>Choose what to begin with. Everything can be changed afterwards, and nobody is asked before you publish.</p>
          <ul class="templates">
            {TEMPLATES.map((template, i) => (
              <li key={template.id}>
                <button type="button" autofocus={i === 0} onClick={() => go(`/surveys/new?template=${template.id}`)}>
                  <strong>{template.title}</strong>
                  <span>{template.about}</span>
                </button>
              </li>
            ))}
          </ul>
        </Dialog>
      )}
    </Page>
  );
}
