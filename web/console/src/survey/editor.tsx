/** One survey, as its definition. */
import { route } from '../api';
import { useGet } from '../live';
import { href } from '../route';
import type { SurveyDefinition } from '../types';
import { Await, Code, Page, Section } from '../ui';

export function SurveyPage({ id }: { id: string; query: URLSearchParams }) {
  const loaded = useGet<SurveyDefinition>(route`/v1/surveys/${id}`, ['surveys']);
  return (
    <Page title={loaded.data?.name ?? id} back={<a href={href('/surveys')}>Surveys</a>}>
      <Await of={loaded} what="Loading the survey">
        {(survey) => <Section title="Definition"><Code text={JSON.stringify(survey, null, 2)} label="definition" /></Section>}
      </Await>
    </Page>
  );
}
