/** The user id, identity signature and session that this browser sends. */
import type { Store } from './store';
import { uuid } from './uuid';

const SESSION_IDLE_MS = 18e5;

export interface Identity {
  /** Returns the user id. Without one it makes an anonymous id and keeps it. */
  id(): string;
  /** Returns the identity signature if `id` is the current user. */
  signature(id: string): string | undefined;
  /** Returns the session id of the tab; it changes after 30 minutes without use. */
  session(): string;
  /** Sets the user. Returns the anonymous id that becomes an alias of the user, if there is one. */
  identify(id: string, signature?: string): string | undefined;
  reset(): void;
}

export function identity(local: Store, tab: Store, names: string): Identity {
  let user: string | undefined;
  let userSignature: string | undefined;
  const [anonKey, sessionKey] = [names + 'anon', names + 'session'];
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
      let { id } = read(local, anonKey);
      if (!id) local.set(anonKey, JSON.stringify({ id: (id = 'anon-' + uuid()) }));
      return id;
    },
    signature: (id) => (id === user ? userSignature : undefined),
    session() {
      let { id, at } = read(tab, sessionKey);
      if (!(Math.abs(Date.now() - at) < SESSION_IDLE_MS)) id = uuid();
      tab.set(sessionKey, JSON.stringify({ id, at: Date.now() }));
      return id;
    },
    identify(id, signature) {
      if (!id) throw new Error("askwhen: identify needs the user's id");
      user = id + '';
      userSignature = signature;
      const { id: alias, of } = read(local, anonKey);
      if (!alias || of === user) return;
      // The anonymous id belongs to another user already.
      if (of) return void local.delete(anonKey);
      local.set(anonKey, JSON.stringify({ id: alias, of: user }));
      return alias;
    },
    reset() {
      user = userSignature = undefined;
      local.delete(anonKey);
      tab.delete(sessionKey);
    },
  };
}
