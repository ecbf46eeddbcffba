/** Which page an address names. */
import { href, type Place } from './route';
import { Connections } from './pages/connections';
import { Deliveries } from './pages/deliveries';
import { EndpointPage } from './pages/endpoint';
import { Endpoints } from './pages/endpoints';
import { Failures } from './pages/failures';
import { Home } from './pages/home';
import { Backtest } from './pages/backtest';
import { ResultsPage } from './pages/results';
import { SettingsPage } from './pages/settings';
import { Surveys } from './pages/surveys';
import { System } from './pages/system';
import { Triggers } from './pages/triggers';
import { Users } from './pages/users';
import { SurveyPage } from './survey/editor';
import { Empty, Page } from './ui';

export function PageAt({ place: { parts, query } }: { place: Place }) {
  const [first, id] = parts;
  if (parts.length > 2) return <Missing />;
  switch (first) {
    case undefined: return <Home />;
    case 'connections': return <Connections />;
    case 'triggers': return <Triggers query={query} />;
    case 'surveys': return id ? <SurveyPage key={id} id={id} query={query} /> : <Surveys query={query} />;
    case 'results': return <ResultsPage id={id} query={query} />;
    case 'backtest': return <Backtest query={query} />;
    case 'users': return <Users id={id} query={query} />;
    case 'deliveries': return <Deliveries query={query} />;
    case 'endpoints': return id ? <EndpointPage key={id} id={id} /> : <Endpoints query={query} />;
    case 'failures': return <Failures query={query} />;
    case 'system': return id === 'settings' ? <SettingsPage /> : <System />;
    default: return <Missing />;
  }
}

const Missing = () => (
  <Page title="There is no such page">
    <Empty title="The address names no page of the console."><a class="button" href={href('/')}>Home</a></Empty>
  </Page>
);
