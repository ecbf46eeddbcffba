/** All responses of a survey as a file. The request carries the console's header, which a plain link could not. */
import { route, send } from '../api';
import { Button, Trouble, useAction } from '../ui';

const FORMATS = [['csv', 'CSV'], ['ndjson', 'NDJSON']] as const;

export function ResponsesDownload({ id }: { id: string }) {
  const action = useAction();
  async function save(format: string): Promise<void> {
    const response = await send('GET', route`/v1/surveys/${id}/responses.` + format);
    const url = URL.createObjectURL(await response.blob());
    const link = document.createElement('a');
    link.href = url;
    link.download = `${id}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
  return (
    <>
      {FORMATS.map(([format, name]) => <Button key={format} class="small" busy={action.busy} onClick={() => void action.run(() => save(format))}>Responses as {name}</Button>)}
      {action.error && <Trouble error={action.error} />}
    </>
  );
}
