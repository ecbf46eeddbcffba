/** What this browser remembers of how the user likes the console. Storage that is shut remembers nothing. */
import { parseJson } from './api';

const PREFIX = 'askwhen-console:';

export function kept<T>(name: string, storage: 'localStorage' | 'sessionStorage' = 'localStorage'): T | null {
  try {
    return parseJson(window[storage].getItem(PREFIX + name) ?? 'null') as T | null;
  } catch {
    return null;
  }
}

export function keep(name: string, value: unknown, storage: 'localStorage' | 'sessionStorage' = 'localStorage'): void {
  try {
    if (value == null) window[storage].removeItem(PREFIX + name);
    else window[storage].setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // A browser that keeps nothing still shows everything.
  }
}

/** Takes away what belongs to the user who signs out. */
export function forgetDrafts(): void {
  try {
    for (const name of Object.keys(sessionStorage)) if (name.startsWith(PREFIX)) sessionStorage.removeItem(name);
  } catch {
    // There was nothing to forget.
  }
}
