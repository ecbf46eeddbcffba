/** A table that sorts, keeps which columns it shows, and gives itself as CSV. */
import type { ComponentChildren } from 'preact';
import { useMemo, useState } from 'preact/hooks';
import { csvField, download } from './format';
import { kept, keep } from './kept';
import { Button } from './ui';

export interface Column<Row> {
  name: string;
  /** What sorting compares and CSV holds; a column of links or buttons has nothing of the kind. */
  value?: (row: Row) => string | number | boolean | null | undefined;
  show?: (row: Row) => ComponentChildren;
  numeric?: boolean;
  /** A column that is shown only when it is asked for. */
  extra?: boolean;
}

function compare(a: unknown, b: unknown): number {
  if (a == null || b == null) return a == null ? (b == null ? 0 : 1) : -1;
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  return String(a).localeCompare(String(b), 'en', { numeric: true });
}

export function Table<Row>({ name, columns, rows, rowKey, selected, tools, more }: {
  name: string;
  columns: Column<Row>[];
  rows: Row[];
  rowKey: (row: Row) => string;
  selected?: string | undefined;
  tools?: ComponentChildren;
  more?: ComponentChildren;
}) {
  const memory = 'columns:' + name;
  const [hidden, setHidden] = useState(() => kept<string[]>(memory) ?? columns.filter((c) => c.extra).map((c) => c.name));
  const [order, setOrder] = useState<{ column: string; down: boolean } | null>(null);
  const [choosing, setChoosing] = useState(false);
  const shown = columns.filter((column) => !hidden.includes(column.name));
  const sorted = useMemo(() => {
    const by = columns.find((column) => column.name === order?.column);
    if (!by?.value) return rows;
    const { value } = by;
    const up = [...rows].sort((a, b) => compare(value(a), value(b)));
    return order!.down ? up.reverse() : up;
  }, [rows, order, columns]);

  function toggle(column: string): void {
    const next = hidden.includes(column) ? hidden.filter((one) => one !== column) : [...hidden, column];
    if (next.length === columns.length) return;
    setHidden(next);
    keep(memory, next);
  }
  function save(): void {
    const held = shown.filter((column) => column.value);
    const lines = [held.map((column) => csvField(column.name)), ...sorted.map((row) => held.map((column) => csvField(column.value!(row))))];
    download(`${name.toLowerCase().replace(/\W+/g, '-')}.csv`, lines.map((line) => line.join(',')).join('\r\n') + '\r\n');
  }

  return (
    <div class="table">
      <div class="table-tools">
        {tools}
        <span class="spacer" />
        <details class="columns" onToggle={(event) => setChoosing(event.currentTarget.open)}>
          <summary class="button small">Columns</summary>
          {choosing && <fieldset class="pop">
            <legend class="unseen">Columns of {name}</legend>
            {columns.map((column) => (
              <label key={column.name}>
                <input type="checkbox" checked={!hidden.includes(column.name)} onChange={() => toggle(column.name)} /> {column.name}
              </label>
            ))}
          </fieldset>}
        </details>
        <Button class="small" onClick={save}>Export CSV</Button>
      </div>
      <div class="scroll" tabIndex={0} role="region" aria-label={`${name}: table`}>
        <table>
          <caption class="unseen">{name}</caption>
          <thead>
            <tr>
              {shown.map((column) => {
                const mine = order?.column === column.name;
                return (
                  <th key={column.name} scope="col" class={column.numeric ? 'numeric' : ''} aria-sort={mine ? (order!.down ? 'descending' : 'ascending') : undefined}>
                    {column.value ? <button type="button" onClick={() => setOrder(mine && order!.down ? null : { column: column.name, down: mine })}>
                      {column.name}
                      <span aria-hidden="true">{mine ? (order!.down ? ' ↓' : ' ↑') : ''}</span>
                    </button> : column.name}
                  </th>
                );
              })}
            </tr>
          </thead>
          <tbody>
            {sorted.map((row) => (
              <tr key={rowKey(row)} aria-current={selected === rowKey(row) ? 'true' : undefined}>
                {shown.map((column) => (
                  <td key={column.name} class={column.numeric ? 'numeric' : ''} dir="auto">{column.show ? column.show(row) : <span class="long">{column.value?.(row)}</span>}</td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {more}
    </div>
  );
}
