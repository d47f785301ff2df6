// One run: its curves and log as they come, what it found, and the buttons to stop and resume it.

import { get, post, fail, run as path } from './api.js';
import { h, badge, bytes, link, number, seconds, when } from './dom.js';
import { Chart } from './chart.js';

const LOG = 200000;
const METRICS = [
  ['loss', 'Loss'],
  ['accuracy', 'Held-out accuracy'],
  ['perplexity', 'Held-out perplexity'],
  ['gradient_norm', 'Gradient norm'],
  ['learning_rate', 'Learning rate'],
  ['tokens_per_second', 'Tokens per second'],
];

// Curves by `kind.value`, filled from batches of records.
class Curves {
  constructor() {
    this.all = new Map();
  }

  add(records) {
    for (const { kind, step, ...values } of records) {
      for (const [name, value] of Object.entries(values)) {
        if (typeof value !== 'number') continue;
        const key = `${kind}.${name}`;
        if (!this.all.has(key)) this.all.set(key, []);
        this.all.get(key).push([step, value]);
      }
    }
  }

  of(metric) {
    return [['train', 'training'], ['eval', 'held out']]
      .map(([kind, name]) => ({ name, points: this.all.get(`${kind}.${metric}`) ?? [] }))
      .filter((one) => one.points.length);
  }
}

function facts(view) {
  const { summary, environment } = view;
  const rows = [
    ['Method', view.method],
    ['Host', view.host],
    ['Started', when(environment?.started_unix)],
    ['Device', environment?.device],
  ];
  if (summary) {
    rows.push(
      ['Steps', number(summary.steps)],
      ['Held-out loss', `${number(view.loss_before)} → ${number(summary.loss_after)}`],
      ['Held-out accuracy', number(summary.accuracy_after)],
      ['Trained numbers', `${number(summary.trained_parameters)} of ${number(summary.host_parameters)}`],
      ['Norm of the change', number(summary.change_norm)],
      ['Training time', seconds(summary.seconds)],
      ['Peak memory', bytes(summary.peak_memory)],
    );
  }
  const known = rows.filter(([, value]) => value);
  return h('table', {}, h('tbody', {}, known.map(([name, value]) => h('tr', {}, h('th', { scope: 'row' }, name), h('td', {}, value)))));
}

function buttons(view, reload) {
  const { name, status } = view;
  const act = (what) => async (event) => {
    event.target.disabled = true;
    try {
      await post(`${path(name)}/${what}`);
      fail(null);
    } catch (error) {
      fail(error);
    }
    await reload(what === 'resume');
  };
  const found = [];
  if (status === 'running' || status === 'starting') {
    const hint = view.own ? null : 'Started elsewhere: stop it there';
    found.push(h('button', { type: 'button', class: 'danger', id: 'stop', disabled: !view.own, title: hint, onclick: act('stop') }, 'Stop'));
  }
  if (status === 'interrupted' || status === 'failed') {
    found.push(h('button', { type: 'button', class: 'main', id: 'resume', onclick: act('resume') }, 'Resume'));
  }
  if (view.usable) found.push(link('generate', { a: name }, 'Generate', { class: 'button' }));
  found.push(link('compare', { a: name }, 'Compare', { class: 'button' }));
  found.push(link('start', { from: name }, 'Start alike', { class: 'button' }));
  if (view.report) found.push(h('a', { class: 'button', href: `${path(name)}/report`, target: '_blank', rel: 'noopener' }, 'Report'));
  return found;
}

export async function run(parameters) {
  const name = parameters.get('name') ?? '';
  let view = await get(path(name));
  let source = null;
  let curves = new Curves();
  let metric = 'loss';
  const chart = new Chart('Curves of the run');
  const status = h('span', { 'aria-live': 'polite' });
  const actions = h('div', { class: 'row head' });
  const log = h('pre', { class: 'log', tabindex: 0, 'aria-label': 'Log', role: 'log' });
  const table = h('div', {});
  const ended = h('p', { class: 'ended', hidden: true });
  const recipe = h('pre', {});
  const select = h('select', { 'aria-label': 'Metric', onchange: () => { metric = select.value; draw(); } },
    METRICS.map(([key, text]) => h('option', { value: key }, text)));

  const draw = () => chart.set(curves.of(metric), [select]);
  const render = () => {
    status.replaceChildren(badge(view.status));
    actions.replaceChildren(...buttons(view, reload));
    ended.hidden = view.status !== 'failed' || !view.error;
    ended.textContent = `It ended with: ${view.error}`;
    table.replaceChildren(facts(view));
    recipe.textContent = view.recipe_toml;
  };
  const reload = async (afresh) => {
    try {
      view = await get(path(name));
      render();
    } catch (error) {
      fail(error);
    }
    if (afresh) listen();
  };
  const append = (text) => {
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    log.textContent = (log.textContent + text).slice(-LOG);
    if (atEnd) log.scrollTop = log.scrollHeight;
  };
  const listen = () => {
    source?.close();
    curves = new Curves();
    source = new EventSource(`${path(name)}/events`);
    source.addEventListener('open', () => { log.textContent = ''; });
    source.addEventListener('metrics', (event) => { curves.add(JSON.parse(event.data).records); draw(); });
    source.addEventListener('reset', () => { curves = new Curves(); draw(); });
    source.addEventListener('log', (event) => append(JSON.parse(event.data).text));
    source.addEventListener('status', (event) => {
      if (JSON.parse(event.data).status !== view.status) reload(false);
    });
    source.addEventListener('end', () => {
      source.close();
      if (!log.textContent) log.textContent = 'The studio did not start this run; what it said went to its own terminal.';
      reload(false);
    });
  };

  render();
  draw();
  const head = h('div', { class: 'row head' }, h('h1', {}, name), status);
  const about = view.description ? h('p', { class: 'faint' }, view.description) : null;
  const elements = [
    head, about, ended, actions,
    h('section', { class: 'card', 'aria-label': 'Curves' }, chart.element),
    h('div', { class: 'columns' },
      h('section', { class: 'card' }, h('h2', {}, 'What it is'), table),
      h('section', { class: 'card' }, h('h2', {}, 'Log'), log)),
    h('details', { class: 'card' }, h('summary', {}, 'Recipe as resolved'), recipe),
  ].filter(Boolean);
  return {
    elements,
    enter: listen,
    leave: () => {
      source?.close();
      chart.leave();
    },
  };
}
