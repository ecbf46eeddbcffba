/** One delivery beside the list: what was sent, how each attempt went, and sending it again. */
import { useState } from 'preact/hooks';
import { base, parseJson, route } from '../api';
import { shellQuote, short, span, words } from '../format';
import { useGet } from '../live';
import { href } from '../route';
import { useCanChange } from '../session';
import type { Attempt, Delivery, Endpoint } from '../types';
import { Await, Badge, Button, Code, Copy, Dialog, Facts, Notice, Time, Trouble, useAction } from '../ui';
import { resend, useDelivery } from './deliveries';

/** Why the server has no body of a delivery. */
const MISSING: Record<string, string> = {
  user_erased: 'The user was erased, and the body with them.',
  not_kept: 'The topics that held the body do not go back so far any more.',
  endpoint_removed: 'Its endpoint was removed, and with it how the body is written.',
};

/** How a header is shown whose value the server keeps sealed. */
const SEALED = '(sealed)';

/** Characters of a body that are shown; *Copy* gives all of it. */
const MOST_SHOWN = 200_000;

type Headers = Record<string, string>;
const headerLines = (headers: Headers): string => Object.entries(headers).map(([name, value]) => `${name}: ${value}`).join('\n');

/** JSON with indents, to be read; anything else as it is. */
function readable(body: string): string {
  try {
    return JSON.stringify(parseJson(body), null, 2);
  } catch {
    return body;
  }
}

/** The headers of the newest attempt that sent this body: its signature fits no other. */
const signedHeaders = (attempts: Attempt[] = []): Headers =>
  attempts.filter((attempt) => attempt.headers && attempt.same_body !== false).at(-1)?.headers ?? {};

/** The message as a command; without a body, the command that shows the delivery. */
export function curlOf({ delivery_id, message_id, body, headers, attempts }: Delivery, url: string | undefined): string {
  if (body == null || !url)
    return `curl -H "authorization: Bearer $ASKWHEN_KEY" ${shellQuote(location.origin + base + route`/v1/deliveries/${delivery_id}`)}`;
  const all = { 'content-type': 'application/json', 'webhook-id': message_id, ...headers, ...signedHeaders(attempts) };
  const known = Object.entries(all).filter(([, value]) => value !== SEALED);
  return [
    `curl -X POST ${shellQuote(url)}`,
    ...known.map(([name, value]) => `-H ${shellQuote(`${name}: ${value}`)}`),
    `--data-binary ${shellQuote(body)}`,
  ].join(' \\\n  ');
}

export function Preview({ id, onClose, onOpen }: { id: string; onClose: () => void; onOpen: (id: string) => void }) {
  const loaded = useDelivery(id);
  const canChange = useCanChange();
  const action = useAction();
  const [sent, setSent] = useState('');
  const endpoint = useGet<Endpoint>(loaded.data ? route`/v1/endpoints/${loaded.data.endpoint_id}` : null);
  return (
    <Dialog title="Delivery" onClose={onClose} side>
      <Await of={loaded} what="Loading the delivery">
        {(delivery) => (
          <>
            <div class="actions">
              <Copy text={() => curlOf(delivery, endpoint.data?.url)} children="Copy as curl" />
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
              ['Status', <><Badge name={delivery.status} /> {delivery.reason && <span class="long">{words(delivery.reason)}</span>}</>],
              ['Endpoint', <a href={href('/endpoints/' + encodeURIComponent(delivery.endpoint_id))}>{delivery.endpoint_id}</a>],
              ['Type', delivery.type],
              ...(delivery.survey_id ? [['Survey', <a href={href('/surveys/' + encodeURIComponent(delivery.survey_id))}>{delivery.survey_id}</a>] as [string, preact.ComponentChild]] : []),
              ['User', <a href={href('/users/' + encodeURIComponent(delivery.user_id))} class="long">{delivery.user_id}</a>],
              ['Created', <Time at={delivery.created_at} />],
              ...([['Sent again as', delivery.resent_as], ['Sent in place of', delivery.resend_of]] as const).flatMap(([name, other]) => (other ? [[name, <button type="button" class="link mono" onClick={() => onOpen(other)}>{other}</button>] as [string, preact.ComponentChild]] : [])),
              ['Next attempt', <Time at={delivery.next_attempt_at} empty="none" />],
            ]} />
            <h3>Attempts</h3>
            {delivery.attempts?.length
              ? <ol class="attempts">{delivery.attempts.map((attempt) => <OneAttempt key={attempt.attempt} of={attempt} />)}</ol>
              : <p class="quiet">It has not been tried yet.</p>}
            <h3>Body</h3>
            {delivery.body == null
              ? <p class="quiet">{MISSING[delivery.body_missing ?? ''] ?? 'The server keeps no body of this delivery.'}</p>
              : <Code text={short(readable(delivery.body), MOST_SHOWN)} exact={delivery.body} label="body" />}
            {delivery.headers && (
              <>
                <h3>Headers of every attempt</h3>
                <Code text={headerLines(delivery.headers)} label="headers" />
                {Object.values(delivery.headers).includes(SEALED) && <p class="hint">What is sealed stands in the endpoint’s definition, and is left out of <em>Copy as curl</em>.</p>}
              </>
            )}
          </>
        )}
      </Await>
    </Dialog>
  );
}

function OneAttempt({ of: { attempt, outcome, http_status, started_at, duration_ms, error, response, same_body, headers } }: { of: Attempt }) {
  return (
    <li>
      <p>
        <strong>{attempt}.</strong> <Badge name={outcome} /> {http_status != null && <code>{http_status}</code>} <Time at={started_at} /> <span class="quiet">{span(duration_ms)}</span>
      </p>
      {error && <p class="quiet" dir="auto">{error}</p>}
      {same_body === false && <p class="quiet">It sent another body than the one below: its endpoint was defined otherwise then.</p>}
      {response && <Code text={response} label={`answer to attempt ${attempt}`} />}
      {headers && (
        <details class="twin">
          <summary>Headers of attempt {attempt}</summary>
          <Code text={headerLines(headers)} label={`headers of attempt ${attempt}`} />
        </details>
      )}
    </li>
  );
}
