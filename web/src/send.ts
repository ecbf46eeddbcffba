/** One request to a client route, in the form that needs no preflight where it can. */

export interface Call {
  /** Below the server's base URL. */
  path: string;
  body: Record<string, unknown>;
  /** The identity signature of the user in the path. */
  signature?: string | undefined;
}

export interface Reply {
  /** 0: no answer at all. */
  status: number;
  body: any;
  /** Milliseconds to wait that the server asked for. */
  wait?: number | undefined;
}

const TIMEOUT_MS = 10_000;
/** Browsers let at most 64 KiB outlive a page; a character is at most 3 bytes. */
const KEEPALIVE_CHARS = 20_000;

/** What `fetch` and `sendBeacon` take. `sent_at` is of now: the server measures the device's clock by it. */
export function form(key: string | undefined, { body, signature }: Call): { text: string; headers: Record<string, string> } {
  // An alias has no time.
  const stamped = body.alias ? body : { ...body, sent_at: new Date().toISOString() };
  return signature
    ? {
        text: JSON.stringify(stamped),
        headers: { 'content-type': 'application/json', 'x-api-key': key!, 'x-user-signature': signature },
      }
    : { text: JSON.stringify({ ...stamped, key }), headers: {} };
}

/** Never rejects. */
export async function post(server: string, key: string | undefined, call: Call): Promise<Reply> {
  const { text, headers } = form(key, call);
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), TIMEOUT_MS);
  try {
    const answer = await fetch(server + call.path, {
      method: 'POST',
      body: text,
      headers,
      credentials: 'omit',
      keepalive: text.length < KEEPALIVE_CHARS,
      signal: abort.signal,
    });
    const after = answer.headers.get('retry-after');
    // A number of seconds, or a date.
    const wait = after ? (+after >= 0 ? +after * 1e3 : Date.parse(after) - Date.now()) : undefined;
    return { status: answer.status, wait, body: await answer.json().catch(() => null) };
  } catch {
    return { status: 0, body: null };
  } finally {
    clearTimeout(timer);
  }
}

/** Whether the server has not taken it, but may when it is asked again under the same id. */
export const transient = ({ status, body }: Reply): boolean =>
  status < 400 ? status > 299 || !body?.status || body.status === 'pending' : status > 499 || [408, 425, 429].includes(status);

/** What went wrong, for `onError`. */
export const failure = (path: string, { status, body }: Reply): Error =>
  new Error(`askwhen: ${path}: ${status ? `${status} ${body?.code ?? ''} ${body?.detail ?? ''}` : 'no answer'}`);
