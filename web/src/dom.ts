/** Elements without `innerHTML` and without style attributes. */

type Props = Record<string, string | number | boolean | null | undefined | ((event: any) => void)>;

/** Functions become listeners; null, undefined and false leave the attribute out. */
export function set<E extends Element>(element: E, props: Props): E {
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value == null || value === false) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? '' : value + '');
  }
  return element;
}

export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: (Node | string | null | undefined | false)[]
): HTMLElementTagNameMap[K] {
  const element = set(document.createElement(tag), props);
  element.append(...(children.filter(Boolean) as (Node | string)[]));
  return element;
}

/** An icon of one path, drawn in the text's colour; hidden from screen readers. */
export function icon(path: string): SVGSVGElement {
  const svg = (tag: string, props: Props) => set(document.createElementNS('http://www.w3.org/2000/svg', tag), props);
  const root = svg('svg', { viewBox: '0 0 24 24', 'aria-hidden': 'true' }) as SVGSVGElement;
  root.append(svg('path', { d: path }));
  return root;
}
