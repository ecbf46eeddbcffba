/** All surveys, and the templates of new ones. */
import { useState } from 'preact/hooks';
import { all, call, query as queryOf, route } from '../api';
import { Spark } from '../charts';
import { number, percent } from '../format';
import { SLOW_MS, useLoaded } from '../live';
import { go, href, setQuery } from '../route';
import { useCanChange } from '../session';
import { Table, type Column } from '../table';
import { TEMPLATES } from '../survey/templates';
import type { Stats, SurveyDefinition } from '../types';
import { Await, Badge, Button, Check, Dialog, Empty, Page } from '../ui';

const DAY_MS = 86_400_000;
const DAYS = 7;
/** Surveys whose numbers are loaded at once; more are loaded as they are asked for. */
const WITH_NUMBERS = 40;

interface Row {
  survey: SurveyDefinition;
  stats?: Stats;
  days?: number[];
}

async function numbers(survey: SurveyDefinition, signal: AbortSignal): Promise<Row> {
  const stats = async (since: number, until: number) => {
    const span = { since: new Date(since).toISOString(), until: new Date(until).toISOString() };
    return (await call<Stats>('GET', route`/v1/surveys/${survey.survey_id}/stats` + queryOf(span), { signal })).data;
  };
  const end = Math.ceil(Date.now() / 60_000) * 60_000;
  try {
    const days = await Promise.all(Array.from({ length: DAYS }, (_, i) => stats(end - (DAYS - i) * DAY_MS, end - (DAYS - i - 1) * DAY_MS)));
    return { survey, stats: await stats(end - DAYS * DAY_MS, end), days: days.map((day) => day.answered) };
  } catch (error) {
    if (signal.aborted) throw error;
    return { survey };
  }
}

export function Surveys({ query }: { query: URLSearchParams }) {
  const canChange = useCanChange();
  const [archived, setArchived] = useState(false);
  const list = useLoaded('surveys', (signal) => all<SurveyDefinition>('/v1/surveys', 'surveys', 1000, signal), ['surveys', 'definitions']);
  const shown = (list.data ?? []).filter((survey) => archived || survey.status !== 'archived');
  const rows = useLoaded(
    list.data ? shown.map((survey) => survey.survey_id).join('\n') : null,
    async (signal) => [...(await Promise.all(shown.slice(0, WITH_NUMBERS).map((survey) => numbers(survey, signal)))), ...shown.slice(WITH_NUMBERS).map((survey) => ({ survey }))],
    ['decisions', 'responses'],
    SLOW_MS,
  );
  const byId = new Map((rows.data ?? []).map((row) => [row.survey.survey_id, row]));
  const columns: Column<Row>[] = [
    { name: 'Name', value: (row) => row.survey.name, show: (row) => <a href={href('/surveys/' + encodeURIComponent(row.survey.survey_id))} class="long">{row.survey.name}</a> },
    { name: 'ID', value: (row) => row.survey.survey_id, show: (row) => <code>{row.survey.survey_id}</code>, extra: true },
    { name: 'Status', value: (row) => row.survey.status, show: (row) => <Badge name={row.survey.status} /> },
    { name: 'Offered', value: (row) => row.stats?.offered, show: (row) => number(row.stats?.offered), numeric: true },
    { name: 'Answered', value: (row) => row.stats?.answered, show: (row) => number(row.stats?.answered) + (row.stats?.offered ? ` (${percent(row.stats.answered, row.stats.offered)})` : ''), numeric: true },
    { name: '7 days', value: (row) => row.days?.join(' '), show: (row) => row.days ? <Spark values={row.days} label="Answered per day" /> : '–' },
    { name: 'Priority', value: (row) => Number(row.survey.priority ?? 0), numeric: true },
    { name: 'Version', value: (row) => row.survey.version, numeric: true, extra: true },
    { name: 'Results', value: () => '', show: (row) => <a href={href('/results/' + encodeURIComponent(row.survey.survey_id))} aria-label={`Results of ${row.survey.name}`}>Results</a> },
  ];
  return (
    <Page
      title="Surveys"
      about="What is asked, whom, and when. Offered and answered are those of the last seven days."
      actions={canChange && <Button look="main" onClick={() => setQuery({ new: '1' })}>New survey</Button>}
    >
      <Await of={list} what="Loading surveys">
        {(all) => all.length
          ? <Table name="Surveys" columns={columns} rows={shown.map((survey) => ({ ...byId.get(survey.survey_id), survey }))} rowKey={(row) => row.survey.survey_id}
              tools={all.some((survey) => survey.status === 'archived') && <Check label="Show archived" checked={archived} onChange={setArchived} />} />
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
