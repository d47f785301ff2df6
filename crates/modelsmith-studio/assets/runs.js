// The list of runs, with search; it looks again while the page is open.

import { get, fail } from './api.js';
import { h, badge, link, number, seconds, table, when } from './dom.js';

const EVERY = 3000;

function row(run) {
  const loss = run.loss_after ?? null;
  const change = loss === null ? '' : `${number(run.loss_before)} → ${number(loss)}`;
  return [
    link('run', { name: run.name }, run.name),
    badge(run.status),
    run.method,
    run.description,
    run.steps === null ? '' : number(run.steps),
    change,
    run.seconds === null ? '' : seconds(run.seconds),
    run.started_unix ? when(run.started_unix) : '',
  ];
}

const HEAD = ['Run', 'Status', 'Method', 'Description', { text: 'Steps' }, { text: 'Held-out loss' }, { text: 'Time' }, 'Started'];

export async function runs(parameters) {
  const list = h('div', { class: 'card' });
  let seen = '';
  let timer = null;
  let gone = false;
  const search = h('input', { type: 'search', class: 'search', placeholder: 'Name, method, host, description', 'aria-label': 'Search runs', value: parameters.get('search') ?? '' });
  const load = async () => {
    const found = await get(`/api/runs?search=${encodeURIComponent(search.value)}`);
    const text = JSON.stringify(found);
    // Nothing is replaced without need, so that the keyboard's place in the list stays.
    if (text === seen) return;
    seen = text;
    const empty = search.value ? 'No run holds these words.' : 'No runs yet.';
    const none = h('p', { class: 'empty' }, empty, ' ', link('start', {}, 'Start one'));
    const more = found.total > found.runs.length ? h('p', { class: 'faint' }, `${found.total - found.runs.length} more; search to see them`) : null;
    const warning = found.warning ? h('p', { class: 'faint' }, found.warning) : null;
    list.replaceChildren(...[found.runs.length ? table(HEAD, found.runs.map(row)) : none, more, warning].filter(Boolean));
  };
  const again = async () => {
    try {
      await load();
      if (!gone) fail(null);
    } catch (error) {
      if (!gone) fail(error);
    }
    if (!gone) timer = setTimeout(again, EVERY);
  };
  search.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(again, 150);
  });
  await load();
  timer = setTimeout(again, EVERY);
  const head = h('div', { class: 'row spread head' },
    h('h1', {}, 'Runs'), search, link('start', {}, 'Start a run', { class: 'button main' }));
  return {
    elements: [head, list],
    leave: () => {
      gone = true;
      clearTimeout(timer);
    },
  };
}
