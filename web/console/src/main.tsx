/** Starts the console: finds out who is signed in, and shows the page that the address names. */
import { Component, render, type ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { ApiError, whenUnauthorized } from './api';
import { forgetDrafts, keep, kept } from './kept';
import { followWhileVisible } from './live';
import { showPlainly } from './plain';
import { followLinks, go, here, usePlace } from './route';
import { current, SessionContext, signIn, signOut } from './session';
import { Shell } from './shell';
import { SignIn } from './signin';
import type { Session } from './types';
import { Button, Loading, Notice, Page, Trouble } from './ui';
import { PageAt } from './pages';

export type Scheme = 'auto' | 'light' | 'dark';
const scheme = kept<Scheme>('scheme') ?? 'auto';
document.documentElement.dataset.scheme = scheme;

/** Uses the link that works once, and takes its token out of the address. */
async function start(): Promise<Session | null> {
  const once = here().query.get('once');
  if (!once) return current();
  go('/', true);
  try {
    return await signIn({ once });
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 401) throw error;
    const session = await current();
    if (session) return session;
    throw new ApiError(401, 'unauthorized', 'This link has been used, or is too old. Sign in with a key.');
  }
}

function Console() {
  const place = usePlace();
  const [session, setSession] = useState<Session | null | undefined>();
  const [error, setError] = useState<ApiError>();
  const [message, setMessage] = useState('');
  const leaving = useRef(false);
  const [shade, setShade] = useState<Scheme>(scheme);

  const begin = () => {
    setError(undefined);
    start().then(setSession, (problem: ApiError) => {
      if (problem.status === 0 || problem.status >= 500) return setError(problem);
      setMessage(problem.message);
      setSession(null);
    });
  };
  useEffect(() => {
    whenUnauthorized(() => {
      // Requests that were on their way when the user signed out are no surprise.
      if (!leaving.current) setMessage('Your session has ended, or its key is gone. Sign in again.');
      setSession(null);
    });
    begin();
  }, []);
  useEffect(() => (session ? followWhileVisible() : undefined), [session]);

  const paint = (next: Scheme) => {
    document.documentElement.dataset.scheme = next;
    keep('scheme', next);
    setShade(next);
  };
  const leave = async () => {
    leaving.current = true;
    await signOut().catch(() => undefined);
    forgetDrafts();
    setMessage('');
    setSession(null);
  };

  if (error) return <main class="alone"><Trouble error={error} retry={begin} /></main>;
  if (session === undefined) return <main class="alone"><Loading /></main>;
  if (session === null)
    return (
      <SignIn
        message={message}
        done={(next) => {
          leaving.current = false;
          setMessage('');
          setSession(next);
        }}
      />
    );
  return (
    <SessionContext.Provider value={session}>
      <Shell place={place} scheme={shade} onScheme={paint} onSignOut={leave}>
        <Whole path={place.parts.join('/')}><PageAt place={place} /></Whole>
      </Shell>
    </SessionContext.Provider>
  );
}

/** A page that breaks says so, and leaves the navigation in use. */
class Whole extends Component<{ path: string; children: ComponentChildren }, { broken: Error | null }> {
  override state: { broken: Error | null } = { broken: null };
  static override getDerivedStateFromError = (broken: Error) => ({ broken });

  override componentDidCatch(broken: Error): void {
    console.error(broken);
  }

  override componentDidUpdate({ path }: { path: string }): void {
    if (path !== this.props.path && this.state.broken) this.setState({ broken: null });
  }

  override render() {
    const { broken } = this.state;
    if (!broken) return this.props.children;
    return (
      <Page title="This page has broken">
        <Notice tone="bad" title="The console could not show what the server gave">
          <p dir="auto">{broken.message}</p>
          <Button onClick={() => this.setState({ broken: null })}>Try again</Button>
        </Notice>
      </Page>
    );
  }
}

followLinks();
showPlainly();
render(<Console />, document.getElementById('console')!);
