// Elements and numbers. Text is only ever set as text, so nothing that a run wrote becomes markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, properties, children) {
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const h = (tag, properties, ...children) =>
  fill(document.createElement(tag), properties, children);

export const svg = (tag, properties, ...children) =>
  fill(document.createElementNS(SVG, tag), properties, children);

// Text in which words between backticks are code.
export const prose = (text) =>
  text.split('`').map((part, index) => (index % 2 ? h('code', {}, part) : part)).filter(Boolean);

export function number(value, digits = 4) {
  if (typeof value !== 'number' || !Number.isFinite(value)) return '–';
  if (Number.isInteger(value)) return value.toLocaleString('en').replaceAll(',', '\u2009');
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}

export function seconds(value) {
  if (typeof value !== 'number') return '–';
  if (value < 10) return `${Number(value.toPrecision(2))} s`;
  if (value < 60) return `${value.toFixed(1)} s`;
  const minutes = Math.floor(value / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(value % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export const bytes = (value) => (typeof value === 'number' ? `${(value / 1e6).toFixed(0)} MB` : '–');

export const when = (unix) => (unix ? new Date(unix * 1000).toLocaleString() : '–');

export function shown(value) {
  if (value === null || value === undefined || value === '') return '–';
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

export const badge = (status) => h('span', { class: `badge ${status}`, 'data-status': status }, status ?? 'gone');

export const link = (page, parameters, text, properties) =>
  h('a', { href: address(page, parameters), ...properties }, text);

export function address(page, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  return `#/${page}${query ? `?${query}` : ''}`;
}

export function table(head, rows) {
  const cell = (value, column) => {
    const label = typeof head[column] === 'object' ? head[column].text : head[column];
    const right = typeof head[column] === 'object';
    const tag = column === 0 ? 'th' : 'td';
    return h(tag, { class: right ? 'number' : null, scope: column === 0 ? 'row' : null, 'data-label': column ? label : null }, value ?? '');
  };
  return h('div', { class: 'scroll' }, h('table', { class: 'stack' },
    h('thead', {}, h('tr', {}, head.map((title) => h('th', { scope: 'col', class: typeof title === 'object' ? 'number' : null }, title.text ?? title)))),
    h('tbody', {}, rows.map((row) => h('tr', {}, row.map(cell))))));
}
