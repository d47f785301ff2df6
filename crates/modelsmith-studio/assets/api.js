// Questions to the studio. Changes carry the proof that the page came from there.

const csrf = document.querySelector('meta[name=csrf]').content;

async function answer(response) {
  const text = await response.text();
  let value = {};
  try {
    value = JSON.parse(text);
  } catch {
    value = { error: text };
  }
  if (!response.ok) throw new Error(value.error || `the studio answered ${response.status}`);
  return value;
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error('the studio does not answer; is it still running?');
  }
  return answer(response);
}

export const get = (path) => ask(path);

export const post = (path, value = {}) => ask(path, {
  method: 'POST',
  headers: { 'content-type': 'application/json', 'x-studio-csrf': csrf },
  body: JSON.stringify(value),
});

export const run = (name) => `/api/runs/${encodeURIComponent(name)}`;

let catalogue;
export const methods = () => (catalogue ??= get('/api/methods'));

export function fail(error) {
  const box = document.getElementById('problem');
  box.textContent = error ? error.message : '';
  box.hidden = !error;
  if (error) box.scrollIntoView({ block: 'nearest' });
}
