/** Work in the background: what it would do, exactly, before it begins; then how far it is. */
import { useEffect, useState } from 'preact/hooks';
import { call, route } from '../api';
import { ago, count, number } from '../format';
import { useGet, useInterval } from '../live';
import { useCanChange } from '../session';
import type { Job } from '../types';
import { Badge, Button, Dialog, Loading, Trouble, useAction } from '../ui';

const POLL_MS = 1000;
export const isOver = (job: Job): boolean => ['done', 'cancelled', 'failed'].includes(job.state);

/** A job with its progress; asked for each second while it runs. */
export function useJob(id: string | null) {
  const loaded = useGet<Job>(id === null ? null : route`/v1/jobs/${id}`, ['jobs']);
  useInterval(id !== null && !(loaded.data && isOver(loaded.data)) ? POLL_MS : null, loaded.reload);
  return loaded;
}

export function Progress({ job, onCancelled }: { job: Job; onCancelled?: () => void }) {
  const canChange = useCanChange();
  const action = useAction();
  const told = job.total != null ? `${number(job.done)} of ${number(job.total)}` : number(job.done);
  return (
    <div class="progress">
      <p role="status"><Badge name={job.state} /> {told}{job.eta && !isOver(job) ? `, ready ${ago(job.eta)}` : ''}</p>
      <progress max={job.total ?? undefined} value={job.total != null ? job.done : isOver(job) ? 1 : undefined} aria-label={`Progress of ${job.kind}`} />
      {job.error && <p class="fault">{job.error}</p>}
      {job.state === 'cancelled' && <p>{count(job.done, 'message')} had been taken up when it was cancelled; the rest was not touched.</p>}
      {canChange && !isOver(job) && (
        <Button look="danger" busy={action.busy} onClick={() => void action.run(() => call('DELETE', route`/v1/jobs/${job.job_id}`)).then((done) => done && onCancelled?.())}>Cancel job</Button>
      )}
      {action.error && <Trouble error={action.error} />}
    </div>
  );
}

/** Sends again what a filter finds, after the exact number has been shown. */
export function BulkResend({ filter, about, onClose }: { filter: Record<string, string>; about: string; onClose: () => void }) {
  return <BulkJob title="Resend" body={{ kind: 'resend', filter }} onClose={onClose}
    ask={(n) => `${count(n, 'message')} will be sent again: ${about}. Each keeps its message ID, so that a receiver can tell.`} verb="Resend" />;
}

export function BulkJob({ title, body, ask, verb, onClose }: { title: string; body: Record<string, unknown>; ask: (n: number) => string; verb: string; onClose: () => void }) {
  const [total, setTotal] = useState<number>();
  const [id, setId] = useState<string | null>(null);
  const action = useAction();
  const job = useJob(id);
  useEffect(() => {
    void action.run(async () => setTotal((await call<{ count: number }>('POST', '/v1/jobs', { body: { ...body, dry_run: true } })).data.count));
  }, []);
  return (
    <Dialog title={title} onClose={onClose}>
      {action.error && <Trouble error={action.error} />}
      {total === undefined && !action.error && <Loading what="Counting" />}
      {total !== undefined && id === null && (
        <>
          <p>{total ? ask(total) : 'There is nothing to send: what is still being tried goes out by itself, and what was sent again is not sent once more.'}</p>
          <div class="actions">
            {total > 0 && <Button look="main" busy={action.busy} onClick={() => void action.run(async () => setId((await call<{ job_id: string }>('POST', '/v1/jobs', { body })).data.job_id))}>{verb} {number(total)}</Button>}
            <Button onClick={onClose}>{total ? 'Cancel' : 'Close'}</Button>
          </div>
        </>
      )}
      {job.error && !job.data && <Trouble error={job.error} retry={job.reload} />}
      {job.data && (
        <>
          <Progress job={job.data} onCancelled={job.reload} />
          {!isOver(job.data) && <p class="quiet">It goes on when you close this, and is listed under System.</p>}
          <div class="actions"><Button onClick={onClose}>Close</Button></div>
        </>
      )}
    </Dialog>
  );
}
