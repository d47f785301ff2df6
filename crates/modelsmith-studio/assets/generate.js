// The same prompt through two runs, side by side.

import { get, post, fail } from './api.js';
import { h, number, seconds } from './dom.js';

const ENDS = { end: 'the model ended it', stop: 'a stop string came', length: 'the limit was reached' };

function field(label, control, doc) {
  return h('div', { class: 'field' }, h('label', { for: control.id }, label), control, doc ? h('span', { class: 'doc' }, doc) : null);
}

function output(side) {
  const name = side.run || 'host alone';
  const end = side.out_of_time ? 'time was up' : ENDS[side.finish];
  return h('section', { class: 'card' }, h('h2', {}, name),
    h('p', { class: 'text' }, h('span', { class: 'prompt' }, side.prompt), h('mark', {}, side.text)),
    h('p', { class: 'faint small' }, `${number(side.tokens)} tokens in ${seconds(side.seconds)}; ${end}`));
}

export async function generate(parameters) {
  const { runs } = await get('/api/runs');
  const finished = runs.filter((run) => run.status === 'finished');
  const side = (key, fallback) => {
    const wanted = parameters.get(key) ?? fallback;
    return h('select', { id: `generate-${key}` }, h('option', { value: '' }, 'the host alone'),
      finished.map((run) => h('option', { value: run.name, selected: run.name === wanted }, run.name)));
  };
  const a = side('a', finished[0]?.name ?? '');
  const b = side('b', '');
  const prompt = h('textarea', { id: 'prompt', required: true, rows: 4 });
  prompt.value = parameters.get('prompt') ?? '';
  const tokens = h('input', { id: 'tokens', type: 'number', min: 1, max: 256, value: 48, required: true });
  const heat = h('input', { id: 'temperature', type: 'number', min: 0, max: 5, step: 'any', value: 0, required: true });
  const seed = h('input', { id: 'seed', type: 'number', min: 0, step: 1, value: 0, required: true });
  const chat = h('input', { id: 'chat', type: 'checkbox' });
  const go = h('button', { class: 'main' }, 'Generate');
  const results = h('div', { class: 'columns', 'aria-live': 'polite', id: 'results' });
  const submit = async (event) => {
    event.preventDefault();
    go.disabled = true;
    go.textContent = 'Generating …';
    try {
      const sides = await post('/api/generate', {
        sides: [a.value, b.value],
        prompt: prompt.value,
        max_tokens: tokens.valueAsNumber,
        temperature: heat.valueAsNumber,
        seed: seed.valueAsNumber,
        chat: chat.checked,
      });
      results.replaceChildren(...sides.map(output));
      fail(null);
    } catch (error) {
      fail(error);
    }
    go.disabled = false;
    go.textContent = 'Generate';
  };
  const form = h('form', { class: 'card', onsubmit: submit },
    h('div', { class: 'fields' },
      field('Left', a), field('Right', b),
      h('div', { class: 'field wide' }, h('label', { for: 'prompt' }, 'Prompt'), prompt),
      field('Tokens at most', tokens), field('Temperature', heat, '0 takes the likeliest token each time.'), field('Seed', seed),
      h('div', { class: 'field check' }, h('label', {}, chat, 'As the user\u2019s turn of a chat'))),
    h('p', { class: 'row' }, go, finished.length ? null : h('span', { class: 'faint' }, 'No run has finished yet.')));
  return { elements: [h('h1', {}, 'Generate side by side'), form, results] };
}
