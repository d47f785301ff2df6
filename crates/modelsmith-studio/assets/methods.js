// The catalogue: every registered method with its options.

import { methods as catalogue } from './api.js';
import { h, link, prose, shown, table } from './dom.js';
import { choices, kind, resolve } from './form.js';

function options(method) {
  const { schema, defaults } = method;
  const rows = Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const enumerated = choices(resolve(schema, property));
    const type = enumerated ? enumerated.map((one) => one.value).join(' | ') : kind(schema, property).replace('json', 'structure');
    return [h('code', {}, name), type, shown(defaults[name]), h('span', {}, prose(property.description ?? ''))];
  });
  return rows.length ? table(['Option', 'Type', 'Default', 'What it does'], rows) : h('p', { class: 'faint' }, 'It has no options.');
}

function card(method) {
  const start = method.family === 'adapter' ? link('start', { method: method.id }, 'Start a run', { class: 'button' }) : null;
  const label = method.number ? [`card ${method.number}`] : [];
  return h('article', { class: 'card', id: `method-${method.id}` },
    h('div', { class: 'row spread' }, h('h3', {}, method.title), start),
    h('p', { class: 'faint small' }, h('code', {}, method.id), ['', ...label, method.paper].join(' · ')),
    h('p', {}, method.summary),
    h('details', {}, h('summary', {}, 'Options'), options(method)));
}

export async function methods() {
  const { methods: all } = await catalogue();
  const families = [...new Set(all.map((method) => method.family))];
  const search = h('input', { type: 'search', class: 'search', placeholder: 'Name, paper, option', 'aria-label': 'Search methods' });
  const list = h('div', {});
  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (method) => {
      const text = `${method.id} ${method.title} ${method.paper} ${method.summary} ${Object.keys(method.schema.properties ?? {}).join(' ')}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    const sections = families.flatMap((family) => {
      const found = all.filter((method) => method.family === family && matches(method));
      return found.length ? [h('section', {}, h('h2', {}, family.replaceAll('_', ' ')), found.map(card))] : [];
    });
    list.replaceChildren(...(sections.length ? sections : [h('p', { class: 'empty' }, 'No method holds these words.')]));
  };
  search.addEventListener('input', draw);
  draw();
  return { elements: [h('div', { class: 'row spread head' }, h('h1', {}, 'Methods'), search), list] };
}
