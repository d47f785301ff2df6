// A run from a form: the parts of a recipe, built from its schema and the method's.

import { get, post, fail, methods as catalogue, run as path } from './api.js';
import { h, address } from './dom.js';
import { form, resolve } from './form.js';

const BASICS = {
  host: ['path'],
  data: ['path', 'held_out_path', 'batch_size'],
  train: ['learning_rate', 'epochs', 'max_steps'],
};

const merged = (...parts) => Object.assign({}, ...parts);

function part(recipe, table, choice, optimizers) {
  const schema = resolve(recipe.schema, recipe.schema.properties[table]);
  return form(recipe.schema, schema, recipe.defaults[table], { ...choice, prefix: `${table}.`, dotted: table !== 'train', optimizers });
}

// The fields of several parts in one grid.
const together = (...parts) => h('div', { class: 'fields' }, parts.flatMap((one) => [...one.element.children]));

export async function start(parameters) {
  const { methods, recipe } = await catalogue();
  const from = parameters.get('from');
  const earlier = from ? (await get(path(from))).recipe : null;
  const adapters = methods.filter((method) => method.family === 'adapter');
  const optimizers = methods.filter((method) => method.family === 'optimize').map((method) => method.id);
  const chosen = earlier?.method.name ?? parameters.get('method') ?? 'lora';

  const general = form(recipe.schema, recipe.schema, recipe.defaults, { only: ['description', 'seed', 'device'] });
  const basic = Object.fromEntries(Object.entries(BASICS).map(([table, only]) => [table, part(recipe, table, { only }, optimizers)]));
  const rest = Object.fromEntries(Object.entries(BASICS).map(([table, except]) => [table, part(recipe, table, { except }, optimizers)]));
  const name = h('input', { id: 'run-name', name: 'name', autocomplete: 'off', spellcheck: 'false', pattern: '[A-Za-z0-9][A-Za-z0-9._\\-]*', maxlength: 100 });
  const select = h('select', { id: 'method', name: 'method' },
    adapters.map((method) => h('option', { value: method.id, selected: method.id === chosen }, `${method.id} – ${method.title}`)));
  const summary = h('span', { class: 'doc' });
  const box = h('div', {});
  let options = null;
  const choose = () => {
    const method = adapters.find((one) => one.id === select.value);
    options = form(method.schema, method.schema, method.defaults, { prefix: 'method.' });
    if (earlier?.method.name === method.id) options.set(earlier.method);
    summary.textContent = `${method.summary} ${method.paper}.`;
    box.replaceChildren(options.element);
  };
  select.addEventListener('change', choose);
  choose();
  for (const table of Object.keys(BASICS)) {
    basic[table].set(earlier?.[table]);
    rest[table].set(earlier?.[table]);
  }
  general.set(earlier);

  const read = () => {
    const tables = Object.keys(BASICS).map((table) => [table, merged(basic[table].read(), rest[table].read())]);
    return merged(general.read(), Object.fromEntries(tables), { method: merged({ name: select.value }, options.read()) });
  };
  const go = h('button', { class: 'main', id: 'go' }, 'Start the run');
  const submit = async (event) => {
    event.preventDefault();
    const recipeRead = read();
    if (!element.checkValidity()) {
      for (const closed of element.querySelectorAll('details')) closed.open ||= Boolean(closed.querySelector(':invalid'));
      element.reportValidity();
      return;
    }
    go.disabled = true;
    try {
      const begun = await post('/api/runs', { name: name.value.trim(), recipe: recipeRead });
      location.hash = address('run', { name: begun.name });
    } catch (error) {
      fail(error);
      go.disabled = false;
    }
  };
  const field = (label, control, doc) => h('div', { class: 'field' }, h('label', { for: control.id }, label), control, doc);
  const named = field('name', name, h('span', { class: 'doc' }, 'Name of the run folder; empty makes one of the method\u2019s name.'));
  general.element.prepend(named);
  const sections = [
    h('fieldset', {}, h('legend', {}, 'Run'), general.element),
    h('fieldset', {}, h('legend', {}, 'Host and data'), together(basic.host, basic.data),
      h('p', { class: 'faint small' }, 'Paths are on the studio\u2019s machine, from the folder in which it was started.')),
    h('fieldset', {}, h('legend', {}, 'Method'), h('div', { class: 'fields' }, field('method', select, summary)),
      h('details', { open: true }, h('summary', {}, 'Options of the method'), box)),
    h('fieldset', {}, h('legend', {}, 'Training'), basic.train.element),
    h('details', { class: 'card' }, h('summary', {}, 'Every other key of host and data'), together(rest.host, rest.data)),
    h('details', { class: 'card' }, h('summary', {}, 'Every other key of training'), rest.train.element),
  ];
  const element = h('form', { novalidate: true, onsubmit: submit }, sections, h('p', { class: 'row' }, go));
  return { elements: [h('h1', {}, from ? `Start a run like ${from}` : 'Start a run'), element] };
}
