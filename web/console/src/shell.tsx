/** What surrounds every page: navigation, palette, colours, and who is signed in. */
import type { ComponentChildren } from 'preact';
import { useEffect, useLayoutEffect, useState } from 'preact/hooks';
import type { Scheme } from './main';
import { Palette } from './palette';
import { href, type Place } from './route';
import { useSession } from './session';
import { Button, Icon } from './ui';

/** Pages in the order of the navigation, with the first part of their address. */
export const PAGES = [
  ['Home', ''],
  ['Connections', 'connections'],
  ['Triggers', 'triggers'],
  ['Surveys', 'surveys'],
  ['Results', 'results'],
  ['Backtest', 'backtest'],
  ['Users', 'users'],
  ['Deliveries', 'deliveries'],
  ['Endpoints', 'endpoints'],
  ['Failures', 'failures'],
  ['System', 'system'],
] as const;

const SCHEMES: Scheme[] = ['auto', 'light', 'dark'];

/** Takes the focus to the heading of a new page, so that keyboard and screen reader begin there. */
function useFocusOnHeading(path: string): void {
  const [first, setFirst] = useState(true);
  useEffect(() => {
    setFirst(false);
    if (first) return;
    scrollTo(0, 0);
    document.querySelector<HTMLElement>('main h1')?.focus({ preventScroll: true });
  }, [path]);
}

export function Shell({ place, scheme, onScheme, onSignOut, children }: {
  place: Place;
  scheme: Scheme;
  onScheme: (scheme: Scheme) => void;
  onSignOut: () => void;
  children: ComponentChildren;
}) {
  const session = useSession();
  const [palette, setPalette] = useState(false);
  const path = place.parts.join('/');
  useEffect(() => {
    // On narrow pages the navigation is a strip that scrolls.
    document.querySelector('nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' });
  }, [path]);
  useFocusOnHeading(path);
  // Before the page is seen, so that no key is too early.
  useLayoutEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      if (event.key.toLowerCase() !== 'k' || !(event.metaKey || event.ctrlKey) || event.altKey || event.shiftKey) return;
      event.preventDefault();
      setPalette(true);
    };
    addEventListener('keydown', pressed);
    return () => removeEventListener('keydown', pressed);
  }, []);

  return (
    <div class="shell">
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.querySelector<HTMLElement>('main h1')?.focus(); }}>Skip to content</a>
      <header class="bar">
        <a class="brand" href={href('/')} aria-label="askwhen, home">askwhen</a>
        {session.project && session.project !== 'default' && <span class="project" dir="auto">{session.project}</span>}
        <span class="spacer" />
        <Button class="small" onClick={() => setPalette(true)} aria-keyshortcuts="Control+K Meta+K">Search <kbd aria-hidden="true">⌘K</kbd></Button>
        <Button class="small" onClick={() => onScheme(SCHEMES[(SCHEMES.indexOf(scheme) + 1) % SCHEMES.length]!)} aria-label={`Colours: ${scheme}`} title={`Colours: ${scheme}`}><Icon name={scheme} /></Button>
        <span class="who" title="Signed in with this key"><span dir="auto">{session.name || session.kind}</span>{session.kind === 'viewer' && <span class="badge">reads only</span>}</span>
        <Button class="small" onClick={onSignOut}>Sign out</Button>
      </header>
      <div class="side-bar">
        <nav aria-label="Pages">
          <ul>
            {PAGES.map(([name, first]) => (
              <li key={name}>
                <a href={href('/' + first)} aria-current={(place.parts[0] ?? '') === first ? 'page' : undefined}>{name}</a>
              </li>
            ))}
          </ul>
        </nav>
      </div>
      <main id="main">{children}</main>
      {palette && <Palette onClose={() => setPalette(false)} onScheme={onScheme} onSignOut={onSignOut} />}
    </div>
  );
}
