// Which page the address names, and what happens between pages.

import { fail } from './api.js';
import { runs } from './runs.js';
import { run } from './run.js';
import { compare } from './compare.js';
import { generate } from './generate.js';
import { methods } from './methods.js';
import { start } from './start.js';

const pages = { runs, run, compare, generate, methods, start };
const main = document.getElementById('main');
let leave = null;
let turn = 0;

async function show() {
  const [, name = 'runs', query = ''] = /^#\/(\w+)\??(.*)$/.exec(location.hash) ?? [];
  const page = Object.hasOwn(pages, name) ? name : 'runs';
  const mine = ++turn;
  leave?.();
  leave = null;
  fail(null);
  for (const anchor of document.querySelectorAll('nav a')) {
    const here = anchor.hash === `#/${page === 'run' ? 'runs' : page}`;
    if (here) anchor.setAttribute('aria-current', 'page');
    else anchor.removeAttribute('aria-current');
  }
  try {
    const shown = await pages[page](new URLSearchParams(query));
    if (mine !== turn) {
      shown.leave?.();
      return;
    }
    main.replaceChildren(...shown.elements);
    leave = shown.leave ?? null;
    const title = main.querySelector('h1');
    document.title = `${title?.textContent ?? 'Runs'} · Modelsmith studio`;
    main.dataset.page = page;
    if (mine > 1) main.focus({ preventScroll: true });
    window.scrollTo(0, 0);
    shown.enter?.();
  } catch (error) {
    if (mine === turn) {
      main.replaceChildren();
      fail(error);
    }
  }
}

// The skip link names an element, not a page.
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener('hashchange', show);
show();
