/** Who the user is to the server, and in which session; kept by the browser. */
import type { Store } from './store';
import { uuid } from './uuid';

const SESSION_IDLE_MS = 18e5;

export interface Person {
  /** The user's id, or the anonymous one, which is kept from its first use on. */
  id(): string;
  /** The identity signature, if `id` is the user who is here now. */
  signature(id: string): string | undefined;
  /** The tab's session; a new one after 30 minutes without use. */
  session(): string;
  /** Says who it is; gives the anonymous id that is theirs from now on, if there is one. */
  identify(id: string, signature?: string): string | undefined;
  forget(): void;
}

export function person(local: Store, tab: Store, names: string): Person {
  let user: string | undefined;
  let signed: string | undefined;
  const [anon, current] = [names + 'anon', names + 'session'];
  const read = (from: Store, key: string) => {
    try {
      return JSON.parse(from.get(key)!) ?? {};
    } catch {
      return {};
    }
  };
  return {
    id() {
      if (user) return user;
      let { id } = read(local, anon);
      if (!id) local.set(anon, JSON.stringify({ id: (id = 'anon-' + uuid()) }));
      return id;
    },
    signature: (id) => (id === user ? signed : undefined),
    session() {
      let { id, at } = read(tab, current);
      if (!(Math.abs(Date.now() - at) < SESSION_IDLE_MS)) id = uuid();
      tab.set(current, JSON.stringify({ id, at: Date.now() }));
      return id;
    },
    identify(id, signature) {
      if (!id) throw new Error("askwhen: identify needs the user's id");
      user = id + '';
      signed = signature;
      const { id: alias, of } = read(local, anon);
      if (!alias || of === user) return;
      // An anonymous id that is somebody else's already stays theirs.
      if (of) return void local.delete(anon);
      local.set(anon, JSON.stringify({ id: alias, of: user }));
      return alias;
    },
    forget() {
      user = signed = undefined;
      local.delete(anon);
      tab.delete(current);
    },
  };
}
