/** ⌘K: goes to a page, a survey, an endpoint or a user, or begins something. */
import { useId, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import { all } from './api';
import { useLoaded } from './live';
import { go } from './route';
import { useCanChange } from './session';
import { PAGES } from './shell';
import type { Scheme } from './main';
import type { Endpoint, SurveyDefinition } from './types';

interface Entry {
  name: string;
  kind: string;
  run: () => void;
}
const MOST = 12;

export function Palette({ onClose, onScheme, onSignOut }: { onClose: () => void; onScheme: (scheme: Scheme) => void; onSignOut: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const list = useId();
  const canChange = useCanChange();
  const [text, setText] = useState('');
  const [at, setAt] = useState(0);
  const known = useLoaded('palette', async (signal) => ({
    surveys: await all<SurveyDefinition>('/v1/surveys', 'surveys', 1000, signal),
    endpoints: await all<Endpoint>('/v1/endpoints', 'endpoints', 1000, signal),
  }));
  // At once, so that what is typed after ⌘K arrives here.
  useLayoutEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    dialog.current!.showModal();
    return () => before?.isConnected && before.focus();
  }, []);

  const entries = useMemo(() => {
    const visit = (name: string, kind: string, to: string): Entry => ({ name, kind, run: () => go(to) });
    return [
      ...PAGES.map(([name, first]) => visit(name, 'Page', '/' + first)),
      visit('Settings', 'Page', '/system/settings'),
      ...(canChange ? [visit('New survey', 'Action', '/surveys?new=1'), visit('Create trigger', 'Action', '/triggers?new=1'), visit('New endpoint', 'Action', '/endpoints?new=1')] : []),
      ...(known.data?.surveys ?? []).flatMap((survey) => [
        visit(survey.name, 'Survey', '/surveys/' + encodeURIComponent(survey.survey_id)),
        visit(survey.name, 'Results', '/results/' + encodeURIComponent(survey.survey_id)),
      ]),
      ...(known.data?.endpoints ?? []).map((endpoint) => visit(endpoint.endpoint_id, 'Endpoint', '/endpoints/' + encodeURIComponent(endpoint.endpoint_id))),
      ...(['auto', 'light', 'dark'] as const).map((scheme) => ({ name: `Colours: ${scheme}`, kind: 'Action', run: () => onScheme(scheme) })),
      { name: 'Sign out', kind: 'Action', run: onSignOut },
    ];
  }, [known.data, canChange]);

  const wanted = text.trim().toLowerCase();
  const found = entries.filter(({ name, kind }) => wanted.split(/\s+/).every((word) => `${name} ${kind}`.toLowerCase().includes(word))).slice(0, MOST);
  if (wanted) found.push({ name: text.trim(), kind: 'Find user', run: () => go('/users/' + encodeURIComponent(text.trim())) });
  const chosen = Math.min(at, found.length - 1);

  function choose(entry: Entry | undefined): void {
    if (!entry) return;
    onClose();
    // The dialog gives the focus back first, so that the new page can take it.
    setTimeout(entry.run);
  }
  function pressed(event: KeyboardEvent): void {
    const step = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
    if (step) setAt((chosen + step + found.length) % found.length);
    else if (event.key === 'Enter') choose(found[chosen]);
    else return;
    event.preventDefault();
  }

  return (
    <dialog ref={dialog} class="palette" aria-label="Search" onCancel={(event) => { event.preventDefault(); onClose(); }} onClick={(event) => event.target === dialog.current && onClose()}>
      <input
        type="text"
        role="combobox"
        aria-label="Search pages, surveys, endpoints and users"
        aria-expanded="true"
        aria-controls={list}
        aria-activedescendant={found.length ? `${list}-${chosen}` : undefined}
        autocomplete="off"
        spellcheck={false}
        placeholder="Page, survey, endpoint, or a user’s ID"
        value={text}
        onInput={(event) => { setText(event.currentTarget.value); setAt(0); }}
        onKeyDown={pressed}
      />
      <ul role="listbox" id={list} aria-label="Found">
        {found.map((entry, i) => (
          <li key={entry.kind + entry.name + i} id={`${list}-${i}`} role="option" aria-selected={i === chosen} onClick={() => choose(entry)} onMouseMove={() => setAt(i)}>
            <span dir="auto">{entry.name}</span>
            <span class="quiet">{entry.kind}</span>
          </li>
        ))}
      </ul>
      {known.error && <p class="fault" role="status">Surveys and endpoints cannot be found now: {known.error.message}</p>}
    </dialog>
  );
}
