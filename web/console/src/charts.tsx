/** Charts as SVG. Each has a table with the same numbers. */
import { useEffect, useId, useRef, useState } from 'preact/hooks';
import { number, percent } from './format';

export interface Point {
  label: string;
  value: number;
}

function Twin({ title, head, rows }: { title: string; head: string[]; rows: (string | number)[][] }) {
  return (
    <details class="twin">
      <summary>Show as table</summary>
      <div class="scroll" tabIndex={0} role="group" aria-label={`${title}, as a table`}>
        <table>
          <caption class="unseen">{title}</caption>
          <thead><tr>{head.map((name) => <th key={name} scope="col">{name}</th>)}</tr></thead>
          <tbody>{rows.map((row, i) => <tr key={i}>{row.map((cell, j) => <td key={j} class={j ? 'numeric' : ''} dir="auto">{typeof cell === 'number' ? number(cell) : cell}</td>)}</tr>)}</tbody>
        </table>
      </div>
    </details>
  );
}

/** One bar for each label; `of` is what 100 % is. */
export function Bars({ title, points, of, unit = 'Count' }: { title: string; points: Point[]; of?: number; unit?: string }) {
  const most = Math.max(1, of ?? 0, ...points.map((point) => point.value));
  const total = of ?? points.reduce((sum, point) => sum + point.value, 0);
  return (
    <figure class="chart">
      <figcaption>{title}</figcaption>
      <div class="bars" aria-hidden="true">
        {points.map((point) => (
          <div class="bar" key={point.label}>
            <span class="bar-label" title={point.label} dir="auto">{point.label}</span>
            <svg viewBox="0 0 100 10" preserveAspectRatio="none">
              <rect class="track" width="100" height="10" rx="1.5" />
              <rect class="fill" width={(100 * point.value) / most} height="10" rx="1.5" />
            </svg>
            <span class="bar-value">{number(point.value)}{total ? ` · ${percent(point.value, total)}` : ''}</span>
          </div>
        ))}
      </div>
      <Twin title={title} head={['What', unit, 'Share']} rows={points.map((point) => [point.label, point.value, percent(point.value, total)])} />
    </figure>
  );
}

const HEIGHT = 180;
const BOTTOM = 22;
/** Widths of a digit and of a label below a column, in pixels. */
const DIGIT = 7;
const LABEL = 64;
/** A few columns do not fill the chart. */
const WIDEST = 56;

/** How wide an element is now, so that what is drawn in it keeps the size of its letters. */
function useWidth() {
  const frame = useRef<SVGSVGElement>(null);
  const [width, setWidth] = useState(640);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.max(160, Math.round(entry!.contentRect.width))));
    observer.observe(frame.current!);
    return () => observer.disconnect();
  }, []);
  return [width, frame] as const;
}

/** Columns over time, one colour. */
export function Series({ title, points, unit = 'Count' }: { title: string; points: Point[]; unit?: string }) {
  const label = useId();
  const [width, frame] = useWidth();
  const most = Math.max(1, ...points.map((point) => point.value));
  const marks = [0, most / 2, most].map((value) => ({ value, text: number(Math.round(value * 10) / 10) }));
  const left = 10 + DIGIT * Math.max(...marks.map(({ text }) => text.length));
  const step = (width - left) / Math.max(1, points.length);
  const y = (value: number) => (HEIGHT - BOTTOM) * (1 - value / most) + 6;
  const wide = Math.min(step * 0.76, WIDEST);
  const every = Math.max(1, Math.ceil(LABEL / step));
  return (
    <figure class="chart">
      <figcaption id={label}>{title}</figcaption>
      <svg ref={frame} class="series" viewBox={`0 0 ${width} ${HEIGHT + 6}`} role="img" aria-labelledby={label}>
        {marks.map(({ value, text }) => (
          <g key={value}>
            <line class="grid" x1={left} x2={width} y1={y(value)} y2={y(value)} />
            <text class="axis" x={left - 6} y={y(value) + 4} text-anchor="end">{text}</text>
          </g>
        ))}
        {points.map((point, i) => (
          <g key={point.label}>
            <rect class="fill" x={left + (i + 0.5) * step - wide / 2} width={wide} y={y(point.value)} height={y(0) - y(point.value)}>
              <title>{`${point.label}: ${number(point.value)}`}</title>
            </rect>
            {i % every === 0 && <text class="axis" x={left + i * step + step / 2} y={HEIGHT + 4} text-anchor="middle">{point.label.replace(/^\d{4}-/, '')}</text>}
          </g>
        ))}
      </svg>
      <Twin title={title} head={['Group', unit]} rows={points.map((point) => [point.label, point.value])} />
    </figure>
  );
}

/** A small line without axes; the table that it stands in has the numbers beside it. */
export function Spark({ values, label }: { values: number[]; label: string }) {
  const most = Math.max(1, ...values);
  const step = values.length > 1 ? 76 / (values.length - 1) : 0;
  const points = values.map((value, i) => `${2 + i * step},${20 - (17 * value) / most}`).join(' ');
  return (
    <svg class="spark" viewBox="0 0 80 24" width="80" height="24" role="img" aria-label={`${label}: ${values.join(', ')}`}>
      <polyline points={points} />
    </svg>
  );
}
