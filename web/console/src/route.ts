/** Where the user is: the path below `/console` and its query, by the history API. */
import { useEffect, useState } from 'preact/hooks';
import { base } from './api';

const root = base + '/console';

export interface Place {
  /** Decoded parts of the path below the console. */
  parts: string[];
  query: URLSearchParams;
}

const listeners = new Set<() => void>();

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function here(): Place {
  const path = location.pathname.startsWith(root) ? location.pathname.slice(root.length) : '';
  return { parts: path.split('/').filter(Boolean).map(decode), query: new URLSearchParams(location.search) };
}

/** The address of a page of the console; `to` begins with a slash. */
export const href = (to: string): string => root + to;

export function go(to: string, replace = false): void {
  const target = root + to;
  if (target === location.pathname + location.search) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', target);
  for (const listener of [...listeners]) listener();
}

/** Changes members of the query in place; an empty value takes the member away. */
export function setQuery(changes: Record<string, string>, replace = true): void {
  const { parts, query } = here();
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  const text = query.toString();
  go('/' + parts.map(encodeURIComponent).join('/') + (text ? '?' + text : ''), replace);
}

export function usePlace(): Place {
  const [place, setPlace] = useState(here);
  useEffect(() => {
    const moved = () => setPlace(here());
    listeners.add(moved);
    return () => void listeners.delete(moved);
  }, []);
  return place;
}

/** Links within the console change the place without loading the page again. */
export function followLinks(): void {
  addEventListener('popstate', () => listeners.forEach((listener) => listener()));
  document.addEventListener('click', (event) => {
    if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = (event.target as Element).closest?.('a');
    if (!link || link.target || link.hasAttribute('download') || link.origin !== location.origin) return;
    if (link.pathname !== root && !link.pathname.startsWith(root + '/')) return;
    event.preventDefault();
    go(link.pathname.slice(root.length) + link.search);
  });
}
