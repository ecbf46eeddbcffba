/** Sends one request to a client route, without a CORS preflight where possible. */

export interface ApiRequest {
  /** The path below the server's base URL. */
  path: string;
  body: Record<string, unknown>;
  /** The identity signature of the user in the path. */
  signature?: string | undefined;
}

export interface ApiResponse {
  /** The HTTP status; 0 without a response. */
  status: number;
  body: any;
  /** Milliseconds from `Retry-After`. */
  wait?: number | undefined;
}

const TIMEOUT_MS = 10_000;
/** Browsers limit keepalive bodies to 64 KiB; a UTF-16 unit takes at most 3 bytes. */
const KEEPALIVE_CHARS = 20_000;

/** Encodes a request. The server corrects the device clock by `sent_at`, so it is set at sending. */
export function encode(key: string | undefined, { body, signature }: ApiRequest): { text: string; headers: Record<string, string> } {
  // The alias route takes no time.
  const stamped = body.alias ? body : { ...body, sent_at: new Date().toISOString() };
  return signature
    ? {
        text: JSON.stringify(stamped),
        headers: { 'content-type': 'application/json', 'x-api-key': key!, 'x-user-signature': signature },
      }
    : { text: JSON.stringify({ ...stamped, key }), headers: {} };
}

/** Sends the request. The promise never rejects. */
export async function post(server: string, key: string | undefined, request: ApiRequest): Promise<ApiResponse> {
  const { text, headers } = encode(key, request);
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), TIMEOUT_MS);
  try {
    const response = await fetch(server + request.path, {
      method: 'POST',
      body: text,
      headers,
      credentials: 'omit',
      keepalive: text.length < KEEPALIVE_CHARS,
      signal: abort.signal,
    });
    const after = response.headers.get('retry-after');
    // The header holds seconds or a date.
    const wait = after ? (+after >= 0 ? +after * 1e3 : Date.parse(after) - Date.now()) : undefined;
    return { status: response.status, wait, body: await response.json().catch(() => null) };
  } catch {
    return { status: 0, body: null };
  } finally {
    clearTimeout(timer);
  }
}

/** Whether the same request may succeed later: the server has not confirmed or refused it. */
export const isRetryable = ({ status, body }: ApiResponse): boolean =>
  status < 400 ? status > 299 || !body?.status || body.status === 'pending' : status > 499 || [408, 425, 429].includes(status);

/** Describes a failed request for `onError`. */
export const toError = (path: string, { status, body }: ApiResponse): Error =>
  new Error(`askwhen: ${path}: ${status ? `${status} ${body?.code ?? ''} ${body?.detail ?? ''}` : 'no answer'}`);
