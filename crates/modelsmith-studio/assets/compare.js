// Two runs beside each other: curves over one another, figures, and keys that differ.

import { get } from './api.js';
import { h, address, badge, bytes, link, number, seconds, shown, table } from './dom.js';
import { Chart } from './chart.js';

const FIRST = ['eval.loss', 'train.loss', 'eval.accuracy'];
const KINDS = { train: 'training', eval: 'held out' };

const title = (key) => {
  const [kind, ...name] = key.split('.');
  return `${KINDS[kind] ?? kind} ${name.join(' ').replaceAll('_', ' ')}`;
};

function figures({ a, b }) {
  const rows = [
    ['Held-out loss, before', (s, view) => number(view.loss_before)],
    ['Held-out loss, after', (s) => number(s?.loss_after)],
    ['Held-out accuracy', (s) => number(s?.accuracy_after)],
    ['Steps', (s) => number(s?.steps)],
    ['Trained numbers', (s) => number(s?.trained_parameters)],
    ['Norm of the change', (s) => number(s?.change_norm)],
    ['Training time', (s) => seconds(s?.seconds)],
    ['Peak memory', (s) => bytes(s?.peak_memory)],
  ];
  const body = rows.map(([name, read]) => [name, read(a.summary, a), read(b.summary, b)]);
  return table(['Figure', { text: a.name }, { text: b.name }], body);
}

function curves(found) {
  const { a, b } = found;
  const keys = Object.keys(found.curves).sort((x, y) => {
    const rank = (key) => (FIRST.includes(key) ? FIRST.indexOf(key) : FIRST.length);
    return rank(x) - rank(y) || x.localeCompare(y);
  });
  const chart = new Chart('Curves of both runs');
  // A curve of one point says little at first sight.
  const both = (key) => found.curves[key].some((curve) => curve.length > 2);
  const first = keys.find(both) ?? keys[0];
  const select = h('select', { 'aria-label': 'Metric', onchange: () => draw() },
    keys.map((key) => h('option', { value: key, selected: key === first }, title(key))));
  const draw = () => {
    const [left, right] = found.curves[select.value] ?? [[], []];
    const names = a.name === b.name ? [`${a.name} (A)`, `${b.name} (B)`] : [a.name, b.name];
    chart.set([{ name: names[0], points: left }, { name: names[1], points: right }], [select]);
  };
  draw();
  return chart;
}

export async function compare(parameters) {
  const { runs } = await get('/api/runs');
  const chosen = ['a', 'b'].map((side) => parameters.get(side) ?? '');
  const go = () => {
    const [a, b] = selects.map((select) => select.value);
    location.hash = address('compare', { a, b });
  };
  const selects = chosen.map((name, side) => h('select', { id: `side-${'ab'[side]}`, onchange: go },
    h('option', { value: '' }, 'choose a run'),
    runs.map((run) => h('option', { value: run.name, selected: run.name === name }, run.name))));
  const pick = h('div', { class: 'columns' }, selects.map((select, side) =>
    h('div', { class: 'field' }, h('label', { for: select.id }, `Run ${'AB'[side]}`), select)));
  const elements = [h('h1', {}, 'Compare'), pick];
  if (!chosen[0] || !chosen[1]) {
    elements.push(h('p', { class: 'empty' }, 'Choose two runs to see their curves over each other and where their recipes differ.'));
    return { elements };
  }
  const query = chosen.map((name, side) => `${'ab'[side]}=${encodeURIComponent(name)}`).join('&');
  const found = await get(`/api/compare?${query}`);
  const chart = curves(found);
  const differences = found.differences.map((one) => [h('code', {}, one.key), shown(one.a), shown(one.b)]);
  const heads = [found.a, found.b].map((view) => h('p', { class: 'row' }, link('run', { name: view.name }, view.name), badge(view.status)));
  elements.push(
    h('div', { class: 'columns' }, heads),
    h('section', { class: 'card', 'aria-label': 'Curves' }, chart.element),
    h('section', { class: 'card' }, h('h2', {}, 'Figures'), figures(found)),
    h('section', { class: 'card', id: 'differences' }, h('h2', {}, 'Recipe differences'),
      differences.length ? table(['Key', found.a.name, found.b.name], differences) : h('p', { class: 'empty' }, 'Their recipes are equal.')),
  );
  return { elements, leave: () => chart.leave() };
}
