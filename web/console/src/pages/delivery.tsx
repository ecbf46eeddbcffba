/** One delivery beside the list: what was sent, how each attempt went, and sending it again. */
import { useState } from 'preact/hooks';
import { base } from '../api';
import { shellQuote, span, short } from '../format';
import { useGet } from '../live';
import { href } from '../route';
import { useCanChange } from '../session';
import type { Delivery, Endpoint } from '../types';
import { Await, Badge, Button, Code, Copy, Dialog, Facts, Notice, Time, Trouble, useAction } from '../ui';
import { resend, useDelivery } from './deliveries';
import { route } from '../api';

const bodyText = (body: unknown): string => (typeof body === 'string' ? body : JSON.stringify(body, null, 2));

/**
 * The message as a command. Without a body in the answer it is the command that
 * shows the delivery, because a message must not be made up.
 */
export function curlOf(delivery: Delivery, url: string | undefined): string {
  if (delivery.body === undefined || !url)
    return `curl -H "authorization: Bearer $ASKWHEN_KEY" ${shellQuote(location.origin + base + route`/v1/deliveries/${delivery.delivery_id}`)}`;
  const headers = { 'content-type': 'application/json', ...delivery.headers };
  const sent = typeof delivery.body === 'string' ? delivery.body : JSON.stringify(delivery.body);
  return [
    `curl -X POST ${shellQuote(url)}`,
    ...Object.entries(headers).map(([name, value]) => `-H ${shellQuote(`${name}: ${value}`)}`),
    `--data-binary ${shellQuote(sent)}`,
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
              ['Status', <><Badge name={delivery.status} /> {delivery.reason}</>],
              ['Endpoint', <a href={href('/endpoints/' + encodeURIComponent(delivery.endpoint_id))}>{delivery.endpoint_id}</a>],
              ['Type', delivery.type],
              ...(delivery.survey_id ? [['Survey', <a href={href('/surveys/' + encodeURIComponent(delivery.survey_id))}>{delivery.survey_id}</a>] as [string, preact.ComponentChild]] : []),
              ['User', <a href={href('/users/' + encodeURIComponent(delivery.user_id))} class="long">{delivery.user_id}</a>],
              ['Created', <Time at={delivery.created_at} />],
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
            {delivery.body === undefined
              ? <p class="quiet">The list keeps no body of this delivery.</p>
              : <Code text={short(bodyText(delivery.body), 200_000)} label="body" />}
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
