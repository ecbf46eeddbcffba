/** Storage that never fails: memory replaces it where the browser denies it. */

export interface Store {
  get(key: string): string | null | undefined;
  set(key: string, value: string): void;
  delete(key: string): void;
  /** Returns the sorted keys with this prefix. */
  keys(prefix: string): string[];
}

/** `open` may throw, as `() => localStorage` does where storage is denied. */
export function store(open: () => Storage): Store {
  const memory = new Map<string, string>();
  const attempt = <T>(use: (area: Storage) => T): T | undefined => {
    try {
      return use(open());
    } catch {
      return undefined;
    }
  };
  return {
    get: (key) => memory.get(key) ?? attempt((area) => area.getItem(key)),
    set(key, value) {
      memory.set(key, value);
      attempt((area) => {
        area.setItem(key, value);
        memory.delete(key);
      });
    },
    delete(key) {
      memory.delete(key);
      attempt((area) => area.removeItem(key));
    },
    keys: (prefix) =>
      [...memory.keys(), ...(attempt(Object.keys) ?? [])].filter((key) => key.startsWith(prefix)).sort(),
  };
}
