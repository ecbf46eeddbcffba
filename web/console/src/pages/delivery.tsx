/** One delivery beside the list: what was sent, how each attempt went, and sending it again. */
import { useState } from 'preact/hooks';
import { base, call, query, route, type JsonObject } from '../api';
import { shellQuote, span, short } from '../format';
import { useGet, useLoaded } from '../live';
import { href } from '../route';
import { useCanChange } from '../session';
import type { Delivery, Endpoint } from '../types';
import { Await, Badge, Button, Code, Copy, Dialog, Facts, Loading, Notice, Time, Trouble, useAction } from '../ui';
import { resend, useDelivery } from './deliveries';

interface Response extends JsonObject {
  created_at: string;
  updated_at: string;
}
const SLACK_MS = 2000;

/**
 * The response that a message reports, as it stands now. The list of deliveries keeps no
 * bodies, so the body is made again from what the message was made from.
 */
async function bodyOf(delivery: Delivery, signal: AbortSignal): Promise<JsonObject | null> {
  if (!delivery.type.startsWith('response.') || !delivery.survey_id) return null;
  const { data } = await call<{ responses: Response[] }>('GET', '/v1/responses' + query({ user_id: delivery.user_id, survey_id: delivery.survey_id, limit: 50 }), { signal });
  const made = +new Date(delivery.created_at) + SLACK_MS;
  const response = data.responses.find((one) => +new Date(one.created_at) <= made);
  return response ? { type: delivery.type, timestamp: delivery.created_at, data: response } : null;
}

/** Why the server has no body of a delivery. */
const MISSING: Record<string, string> = {
  user_erased: 'The user was erased, and the body with them.',
  not_kept: 'The topics that held the body do not go back so far any more.',
  endpoint_removed: 'Its endpoint was removed, and with it how the body is written.',
};

/** How a header is shown whose value the server keeps sealed. */
const SEALED = '(sealed)';

const bodyText = (body: unknown): string => (typeof body === 'string' ? body : JSON.stringify(body, null, 2));

/** The message as a command; without a body, the command that shows the delivery. */
export function curlOf(delivery: Delivery, body: unknown, url: string | undefined): string {
  if (body == null || !url)
    return `curl -H "authorization: Bearer $ASKWHEN_KEY" ${shellQuote(location.origin + base + route`/v1/deliveries/${delivery.delivery_id}`)}`;
  const headers = { 'content-type': 'application/json', 'webhook-id': delivery.message_id, ...delivery.headers };
  const known = Object.entries(headers).filter(([, value]) => value !== SEALED);
  const sent = typeof body === 'string' ? body : JSON.stringify(body);
  return [
    `curl -X POST ${shellQuote(url)}`,
    ...known.map(([name, value]) => `-H ${shellQuote(`${name}: ${value}`)}`),
    `--data-binary ${shellQuote(sent)}`,
  ].join(' \\\n  ');
}

export function Preview({ id, onClose, onOpen }: { id: string; onClose: () => void; onOpen: (id: string) => void }) {
  const loaded = useDelivery(id);
  const canChange = useCanChange();
  const action = useAction();
  const [sent, setSent] = useState('');
  const endpoint = useGet<Endpoint>(loaded.data ? route`/v1/endpoints/${loaded.data.endpoint_id}` : null);
  const made = useLoaded(loaded.data && loaded.data.body === undefined ? 'body:' + id : null, (signal) => bodyOf(loaded.data!, signal));
  return (
    <Dialog title="Delivery" onClose={onClose} side>
      <Await of={loaded} what="Loading the delivery">
        {(delivery) => (
          <>
            <div class="actions">
              <Copy text={() => curlOf(delivery, delivery.body ?? made.data, endpoint.data?.url)} children="Copy as curl" />
              {canChange && delivery.type !== 'endpoint.test' && <Button look="main" busy={action.busy} onClick={() => void action.run(async () => setSent(await resend(delivery.delivery_id)))}>Resend</Button>}
            </div>
            {action.error && <Trouble error={action.error} />}
            {sent && (
              <Notice tone="good" title="It is being sent again.">
                <p>Under the same message ID, as a delivery of its own: <button type="button" class="link mono" onClick={() => { setSent(''); onOpen(sent); }}>{sent}</button></p>
              </Notice>
            )}
            <Facts of={[
              ['Delivery', <code>{delivery.delivery_id}</code>],
              ['Message ID', <code>{delivery.message_id}</code>],
              ['Status', <><Badge name={delivery.status} /> {delivery.reason}</>],
              ['Endpoint', <a href={href('/endpoints/' + encodeURIComponent(delivery.endpoint_id))}>{delivery.endpoint_id}</a>],
              ['Type', delivery.type],
              ...(delivery.survey_id ? [['Survey', <a href={href('/surveys/' + encodeURIComponent(delivery.survey_id))}>{delivery.survey_id}</a>] as [string, preact.ComponentChild]] : []),
              ['User', <a href={href('/users/' + encodeURIComponent(delivery.user_id))} class="long">{delivery.user_id}</a>],
              ['Created', <Time at={delivery.created_at} />],
              ...([['Sent again as', delivery.resent_as], ['Sent in place of', delivery.resend_of]] as const).flatMap(([name, other]) => (other ? [[name, <button type="button" class="link mono" onClick={() => onOpen(other)}>{other}</button>] as [string, preact.ComponentChild]] : [])),
              ['Next attempt', <Time at={delivery.next_attempt_at} empty="none" />],
            ]} />
            <h3>Attempts</h3>
            {delivery.attempts?.length ? (
              <ol class="attempts">
                {delivery.attempts.map((attempt) => (
                  <li key={attempt.attempt}>
                    <p>
                      <strong>{attempt.attempt}.</strong> <Badge name={attempt.outcome} /> {attempt.http_status != null && <code>{attempt.http_status}</code>} <Time at={attempt.started_at} /> <span class="quiet">{span(attempt.duration_ms)}</span>
                    </p>
                    {attempt.error && <p class="quiet" dir="auto">{attempt.error}</p>}
                    {attempt.response && <Code text={attempt.response} label={`answer to attempt ${attempt.attempt}`} />}
                  </li>
                ))}
              </ol>
            ) : <p class="quiet">It has not been tried yet.</p>}
            <h3>Body</h3>
            {delivery.body === null ? <p class="quiet">{MISSING[delivery.body_missing ?? ''] ?? 'The server keeps no body of this delivery.'}</p>
              : delivery.body !== undefined ? <Code text={short(bodyText(delivery.body), 200_000)} label="body" />
              : made.data ? (
                <>
                  <p class="quiet">From the response as it stands now, in the profile standard.</p>
                  <Code text={short(bodyText(made.data), 200_000)} label="body" />
                </>
              )
              : made.loading ? <Loading what="Loading the response" />
              : <p class="quiet">The list keeps no body of this delivery.</p>}
            {delivery.headers && (
              <>
                <h3>Headers</h3>
                <Code text={Object.entries(delivery.headers).map(([name, value]) => `${name}: ${value}`).join('\n')} label="headers" />
              </>
            )}
          </>
        )}
      </Await>
    </Dialog>
  );
}
