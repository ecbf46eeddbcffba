/** Who is signed in. The key itself is never kept: the server keeps it in a sealed cookie. */
import { createContext } from 'preact';
import { useContext } from 'preact/hooks';
import { ApiError, call } from './api';
import type { Session } from './types';

export const SessionContext = createContext<Session>({ project: 'default', kind: 'viewer' });
export const useSession = (): Session => useContext(SessionContext);
/** Whether buttons that change something are there. */
export const useCanChange = (): boolean => useSession().kind === 'admin';

/** The session that the cookie stands for, or null. */
export async function current(): Promise<Session | null> {
  try {
    return (await call<Session>('GET', '/console/session')).data;
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) return null;
    throw error;
  }
}

export async function signIn(credential: { key: string } | { once: string }): Promise<Session> {
  const { data } = await call<Session | null>('POST', '/console/session', { body: credential });
  return data?.kind ? data : ((await current()) ?? Promise.reject(new ApiError(401, 'unauthorized', 'The server did not keep the session.')));
}

export const signOut = (): Promise<unknown> => call('DELETE', '/console/session');
