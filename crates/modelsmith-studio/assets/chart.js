// Curves as SVG: axes, hover and arrow keys for values, series on and off, logarithmic height.

import { h, svg, number } from './dom.js';

const MARGIN = { left: 54, right: 14, top: 10, bottom: 26 };
const DOTS = 40;

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of [1, 2, 5]) {
      const at = factor * 10 ** power;
      if (at >= low && at <= high) found.push(at);
    }
  }
  if (found.length > 8) return found.filter((at) => Number.isInteger(Number(Math.log10(at).toFixed(9))));
  return found.length ? found : [low, high];
}

export class Chart {
  // `series`: [{name, points: [[step, value], ...]}]; `label` says what is drawn, for listeners.
  constructor(label) {
    this.label = label;
    this.series = [];
    this.off = new Set();
    this.log = false;
    this.cursor = null;
    this.picture = svg('svg', { class: 'chart', role: 'img', tabindex: 0, 'aria-label': label });
    this.legend = h('div', { class: 'legend' });
    this.reading = h('output', { class: 'reading' });
    this.element = h('div', {}, this.legend, this.picture, this.reading);
    this.picture.addEventListener('pointermove', (event) => this.point(event));
    this.picture.addEventListener('pointerleave', () => this.read(null));
    this.picture.addEventListener('keydown', (event) => this.key(event));
    this.picture.addEventListener('blur', () => this.read(null));
    this.watcher = new ResizeObserver(() => this.draw());
    this.watcher.observe(this.picture);
  }

  leave() {
    this.watcher.disconnect();
    cancelAnimationFrame(this.waiting);
  }

  set(series, extra = []) {
    this.series = series;
    const names = series.map((one) => one.name).join('\n');
    if (names !== this.names) {
      this.names = names;
      const focused = document.activeElement;
      this.legend.replaceChildren(...series.map((one, index) => this.toggle(one.name, index)), this.logButton(), ...extra);
      if (extra.includes(focused)) focused.focus();
    }
    cancelAnimationFrame(this.waiting);
    this.waiting = requestAnimationFrame(() => this.draw());
  }

  toggle(name, index) {
    const press = () => {
      if (!this.off.delete(name)) this.off.add(name);
      button.setAttribute('aria-pressed', String(!this.off.has(name)));
      this.draw();
    };
    const pressed = String(!this.off.has(name));
    const button = h('button', { type: 'button', class: `s${index % 4}`, 'aria-pressed': pressed, onclick: press }, name);
    return button;
  }

  logButton() {
    const press = () => {
      this.log = !this.log;
      button.setAttribute('aria-pressed', String(this.log));
      this.draw();
    };
    const button = h('button', { type: 'button', class: 'plain', 'aria-pressed': String(this.log), onclick: press }, 'log scale');
    return button;
  }

  visible() {
    return this.series
      .map((one, index) => ({ ...one, index }))
      .filter((one) => !this.off.has(one.name) && one.points.length);
  }

  scales(drawn) {
    const points = drawn.flatMap((one) => one.points);
    const bounds = (pick) => points.reduce(([low, high], p) => [Math.min(low, pick(p)), Math.max(high, pick(p))], [Infinity, -Infinity]);
    const [left, right] = bounds((p) => p[0]);
    let [low, high] = bounds((p) => p[1]);
    const log = this.log && low > 0;
    const map = log ? Math.log : (value) => value;
    if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 1, high + 1];
    const wide = this.width - MARGIN.left - MARGIN.right;
    const tall = this.height - MARGIN.top - MARGIN.bottom;
    const x = (step) => MARGIN.left + (right === left ? 0.5 : (step - left) / (right - left)) * wide;
    const y = (value) => MARGIN.top + (1 - (map(value) - map(low)) / (map(high) - map(low))) * tall;
    return { x, y, left, right, low, high, log };
  }

  draw() {
    const { width, height } = this.picture.getBoundingClientRect();
    this.width = width;
    this.height = height;
    const drawn = this.visible();
    this.picture.dataset.points = drawn.reduce((sum, one) => sum + one.points.length, 0);
    this.picture.setAttribute('viewBox', `0 0 ${this.width || 1} ${this.height || 1}`);
    if (!this.width || !drawn.length) {
      const words = svg('text', { x: this.width / 2, y: this.height / 2, 'text-anchor': 'middle' }, 'no values yet');
      this.picture.replaceChildren(words);
      return;
    }
    this.scale = this.scales(drawn);
    this.picture.replaceChildren(...this.axes(), ...drawn.flatMap((one) => this.curve(one)));
    this.describe(drawn);
    this.read(this.cursor);
  }

  describe(drawn) {
    const last = drawn.map((one) => `${one.name} ${number(one.points.at(-1)[1])} at step ${one.points.at(-1)[0]}`);
    this.picture.setAttribute('aria-label', `${this.label}: ${last.join(', ')}. Arrow keys read values.`);
  }

  axes() {
    const { x, y, left, right, low, high, log } = this.scale;
    const base = this.height - MARGIN.bottom;
    const tall = log ? logTicks(low, high) : ticks(low, high, 5);
    const wide = ticks(left, right, Math.max(2, Math.floor(this.width / 110))).filter(Number.isInteger);
    const rows = tall.flatMap((at) => [
      svg('line', { class: 'grid', x1: MARGIN.left, x2: this.width - MARGIN.right, y1: y(at), y2: y(at) }),
      svg('text', { x: MARGIN.left - 7, y: y(at) + 4, 'text-anchor': 'end' }, number(at, 3)),
    ]);
    const columns = wide.map((at) => svg('text', { x: x(at), y: base + 18, 'text-anchor': 'middle' }, number(at)));
    return [...rows, svg('line', { class: 'grid', x1: MARGIN.left, x2: this.width - MARGIN.right, y1: base, y2: base }), ...columns];
  }

  curve({ points, index }) {
    const { x, y } = this.scale;
    const path = points.map(([step, value], at) => `${at ? 'L' : 'M'}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join('');
    const dots = points.length <= DOTS
      ? points.map(([step, value]) => svg('circle', { class: 'dot', r: 2.4, cx: x(step), cy: y(value) }))
      : [];
    return [svg('g', { class: `s${index % 4}` }, svg('path', { class: 'line', d: path }), ...dots)];
  }

  steps() {
    return [...new Set(this.visible().flatMap((one) => one.points.map((p) => p[0])))].sort((a, b) => a - b);
  }

  point(event) {
    if (!this.scale) return;
    const at = event.clientX - this.picture.getBoundingClientRect().left;
    const distance = (step) => Math.abs(this.scale.x(step) - at);
    const steps = this.steps();
    this.read(steps.length ? steps.reduce((best, step) => (distance(step) < distance(best) ? step : best)) : null);
  }

  key(event) {
    const steps = this.steps();
    const here = this.cursor === null ? steps.length : steps.indexOf(this.cursor);
    const moves = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: steps.length - 1 };
    if (!Object.hasOwn(moves, event.key) || !steps.length) return;
    event.preventDefault();
    this.read(steps[Math.max(0, Math.min(steps.length - 1, moves[event.key]))]);
  }

  read(step) {
    this.cursor = step;
    this.picture.querySelector('.cursor')?.remove();
    if (step === null || !this.scale) {
      this.reading.textContent = '';
      return;
    }
    const x = this.scale.x(step);
    this.picture.append(svg('line', { class: 'cursor', x1: x, x2: x, y1: MARGIN.top, y2: this.height - MARGIN.bottom }));
    const values = this.visible().flatMap((one) => {
      const found = one.points.find((p) => p[0] === step);
      return found ? [`${one.name} ${number(found[1])}`] : [];
    });
    this.reading.textContent = `step ${step}: ${values.join(' · ')}`;
  }
}
