// The pages that runs leave behind, as a reader uses them: hover values, zoom, curves on and off, the
// keyboard, all against the numbers that the page carries. Ends with an error at the first thing that
// is not as it should be; `node report.mjs PROGRAM OUT`, started by test.sh.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { launch, pictures, watched } from './browser.mjs';

const [program, out] = process.argv.slice(2).map((path) => resolve(path));
const STEPS = 24;
const scratch = await mkdtemp(join(tmpdir(), 'modelsmith-report-'));
const runs = join(scratch, 'runs');
let browser = null;
let code = 1;

const say = (text) => console.log(`report test: ${text}`);

function makeRun(name, rank) {
  const set = {
    'data.held_out_path': 'assets/house/questions-held-out.jsonl',
    'method.rank': rank,
    'method.target_modules': 'all-linear',
    'train.learning_rate': 0.003,
    'train.eval_every': 8,
    'train.eval_batches': 2,
  };
  const sets = Object.entries(set).flatMap(([key, value]) => ['--set', `${key}=${value}`]);
  const words = ['tune', '--quiet', '--host', 'assets/house', '--data', 'assets/house/questions.jsonl', '--steps', String(STEPS), '--output', runs, '--name', name];
  execFileSync(program, [...words, ...sets], { stdio: ['ignore', 'ignore', 'inherit'] });
}

// One chart of the page, with its numbers and its place on the screen.
async function chart(page, title) {
  const box = page.locator('.chart-box').filter({ has: page.locator('figcaption', { hasText: new RegExp(`^${title}$`) }) });
  const svg = box.locator('svg.chart');
  await svg.scrollIntoViewIfNeeded();
  const data = JSON.parse(await box.locator('.chart-data').textContent());
  return { box, svg, data, tip: box.locator('.tip'), all: box.locator('button.reset'), legend: box.locator('.legend button:not(.reset)') };
}

// The point of the screen at a share of the plotted width.
async function at(found, share) {
  const seen = await found.svg.boundingBox();
  const wide = await found.svg.evaluate((node) => node.viewBox.baseVal.width);
  const [left, top, right, bottom] = found.data.plot;
  const scale = seen.width / wide;
  return [seen.x + (left + share * (right - left)) * scale, seen.y + ((top + bottom) / 2) * scale];
}

// What the tip says: the step, and a value by the name of its curve.
async function reading(found) {
  if (!(await found.tip.isVisible())) return null;
  const lines = await found.tip.locator('> div').allTextContents();
  const [head, ...rows] = lines.map((line) => line.trim());
  const values = rows.map((row) => [row.slice(0, row.lastIndexOf(' ')), Number(row.slice(row.lastIndexOf(' ') + 1))]);
  return { step: Number(head.replace('step ', '')), values: Object.fromEntries(values) };
}

function agrees(found, { step, values }, names) {
  assert.deepEqual(Object.keys(values), names, `at step ${step} the tip names these curves`);
  for (const name of names) {
    const line = found.data.lines.find((one) => one.label === name);
    const [, y] = line.points.find(([x]) => x === step);
    assert.ok(Math.abs(values[name] - y) <= 1e-3 * Math.abs(y) + 1e-9, `${name} at step ${step} is ${y}, the tip says ${values[name]}`);
  }
}

// Marks of the lower axis that are shown.
const marks = (found) => found.svg.evaluate((svg) => [...svg.querySelectorAll('.tick-x')].map((node) => Number(node.textContent)));

// Curves that are drawn, told by the colours of the legend.
const drawn = (found) => found.box.evaluate((box) => {
  const colors = [...box.querySelectorAll('.legend .swatch')].map((node) => getComputedStyle(node).backgroundColor);
  const lines = [...box.querySelectorAll('svg.chart polyline')];
  return lines.filter((node) => node.getClientRects().length > 0 && colors.includes(getComputedStyle(node).stroke)).length;
});

async function hovers(page, title, names) {
  const found = await chart(page, title);
  const steps = [];
  for (const share of [0.02, 0.34, 0.66, 0.98]) {
    await page.mouse.move(...(await at(found, share)));
    const seen = await reading(found);
    assert.ok(seen, `${title}: the pointer over the chart shows values`);
    const shown = names.filter((name) => found.data.lines.find((one) => one.label === name).points.some(([x]) => x === seen.step));
    agrees(found, seen, shown);
    assert.equal(await found.svg.locator('.cross').count(), 1, 'a line marks the step');
    steps.push(seen.step);
  }
  assert.ok(steps.every((step, place) => place === 0 || step > steps[place - 1]), `steps grow from left to right: ${steps}`);
  await page.mouse.move(2, 2);
  assert.equal(await reading(found), null, 'the values go when the pointer leaves');
  say(`${title}: values at steps ${steps.join(', ')}`);
}

async function zooms(page, title) {
  const found = await chart(page, title);
  const [low, high] = found.data.x;
  assert.equal(await found.all.isVisible(), false, 'nothing to reset yet');
  await page.mouse.move(...(await at(found, 0.25)));
  await page.mouse.down();
  await page.mouse.move(...(await at(found, 0.5)), { steps: 5 });
  await page.mouse.up();
  await found.all.waitFor();
  const close = await marks(found);
  const from = low + 0.2 * (high - low);
  const to = low + 0.55 * (high - low);
  assert.ok(close.length >= 2 && close.every((mark) => mark >= from && mark <= to), `dragged to a quarter, the axis has ${close}`);
  await page.mouse.move(...(await at(found, 0.5)));
  const inside = await reading(found);
  assert.ok(inside.step > from && inside.step < to, `values come from the part that is shown: ${inside.step}`);
  await found.svg.dblclick({ position: { x: 150, y: 60 } });
  assert.equal(await found.all.isVisible(), false, 'a double click shows all again');

  const before = await page.evaluate(() => window.scrollY);
  await page.evaluate(() => document.activeElement.blur());
  await page.mouse.move(...(await at(found, 0.5)));
  await page.mouse.wheel(0, -40);
  await page.waitForTimeout(100);
  assert.equal(await found.all.isVisible(), false, 'the wheel over a chart that is not selected scrolls the page');
  await page.evaluate((y) => window.scrollTo(0, y), before);
  await found.svg.focus();
  await page.mouse.move(...(await at(found, 0.5)));
  await page.mouse.wheel(0, -120);
  await found.all.waitFor();
  await found.all.click();
  assert.equal(await found.all.isVisible(), false, 'the button shows all again');
  say(`${title}: zoomed to ${close.join(', ')} and back`);
}

async function switches(page, title, names) {
  const found = await chart(page, title);
  assert.equal(await found.legend.count(), names.length);
  assert.equal(await drawn(found), names.length, 'every curve is drawn');
  const first = found.legend.first();
  await first.click();
  assert.equal(await first.getAttribute('aria-pressed'), 'false');
  assert.equal(await drawn(found), names.length - 1, 'a curve that is off is not drawn');
  await page.mouse.move(...(await at(found, 1)));
  const seen = await reading(found);
  assert.deepEqual(Object.keys(seen.values), names.slice(1), 'a curve that is off has no value');
  await first.click();
  assert.equal(await drawn(found), names.length, 'and comes back');
  say(`${title}: ${names[0]} off and on`);
}

// Everything that can be used is reached with Tab, and does its work with keys alone.
async function keyboard(page, title) {
  await page.evaluate(() => { document.activeElement.blur(); window.scrollTo(0, 0); });
  await page.mouse.move(2, 2);
  const wanted = await page.evaluate(() => {
    const all = [...document.querySelectorAll('a[href], button, summary, svg.chart, .scroll[tabindex]')];
    const shown = all.filter((node) => node.checkVisibility({ contentVisibilityAuto: true }) && node.getClientRects().length > 0);
    shown.forEach((node, place) => { node.dataset.place = place; });
    return shown.length;
  });
  const reached = new Set();
  for (let press = 0; press < 3 * wanted && reached.size < wanted; press += 1) {
    await page.keyboard.press('Tab');
    const place = await page.evaluate(() => document.activeElement.dataset.place ?? null);
    if (place !== null) reached.add(place);
  }
  const missed = await page.evaluate((seen) => [...document.querySelectorAll('[data-place]')].filter((node) => !seen.includes(node.dataset.place)).map((node) => node.outerHTML.slice(0, 80)), [...reached]);
  assert.deepEqual(missed, [], 'Tab reaches every control');

  const found = await chart(page, title);
  await found.svg.focus();
  await page.keyboard.press('ArrowRight');
  const first = await reading(found);
  assert.ok(first, 'an arrow key shows values');
  await page.keyboard.press('ArrowRight');
  const second = await reading(found);
  assert.equal(second.step, first.step + 1, 'the next key goes to the next step, whichever curve has it');
  await page.keyboard.press('ArrowLeft');
  assert.equal((await reading(found)).step, first.step, 'and back');
  await page.keyboard.press('+');
  assert.ok(await found.all.isVisible(), '+ zooms in');
  await page.keyboard.press('0');
  assert.equal(await found.all.isVisible(), false, '0 shows all');
  await page.keyboard.press('Escape');
  assert.equal(await reading(found), null, 'Escape puts the values away');
  await found.legend.first().focus();
  await page.keyboard.press('Space');
  assert.equal(await found.legend.first().getAttribute('aria-pressed'), 'false', 'Space switches a curve');
  await page.keyboard.press('Space');
  const outline = await found.legend.first().evaluate((node) => getComputedStyle(node).outlineStyle);
  assert.notEqual(outline, 'none', 'what has the focus is seen');
  say(`${wanted} controls reached with Tab`);
}

// Held-out rows with the texts before and after; on a phone every cell says what it is.
async function samples(page, columns, rows) {
  const table = page.locator('table.samples');
  assert.deepEqual(await table.locator('thead th').allTextContents(), columns);
  assert.equal(await table.locator('tbody tr').count(), rows);
  const prompts = await table.locator('tbody td:first-child').allTextContents();
  assert.ok(prompts.every((text) => text.startsWith('Question: ')), prompts.join());
  await page.setViewportSize({ width: 390, height: 844 });
  const cells = await table.locator('tbody tr').first().locator('td').evaluateAll((nodes) => nodes.map((node) => [getComputedStyle(node, '::before').content, node.getBoundingClientRect().width]));
  assert.ok(cells.every(([label, width], place) => label === JSON.stringify(columns[place]) && width > 250 && width <= 390), JSON.stringify(cells));
  await page.setViewportSize({ width: 1280, height: 900 });
}

async function noEmptyChart(page) {
  const charts = await page.locator('svg.chart').evaluateAll((all) => all.map((svg) => {
    const boxes = [...svg.querySelectorAll('polyline')].map((node) => node.getBBox());
    return boxes.filter((box) => box.width > 0).length;
  }));
  assert.ok(charts.length >= 4 && charts.every((curves) => curves > 0), `curves by chart: ${charts}`);
}

async function unscripted(url) {
  const plain = await launch(join(scratch, 'plain'), { javaScriptEnabled: false });
  const page = await plain.newPage();
  await page.goto(url);
  assert.ok(await page.locator('svg.chart').first().locator('polyline[stroke="#2563C9"]').first().isVisible(), 'curves are there without the script');
  assert.equal(await page.locator('.script-only').first().isVisible(), false, 'what needs the script is not promised');
  await plain.close();
}

async function walk(page, url, name, { title, names, columns }) {
  await page.goto(url);
  await noEmptyChart(page);
  await hovers(page, title, names);
  await zooms(page, title);
  await switches(page, title, names);
  await samples(page, columns, 4);
  await keyboard(page, title);
  await page.mouse.move(2, 2);
  await page.evaluate(() => { document.activeElement.blur(); window.scrollTo(0, 0); });
  await pictures(page, name, out);
}

try {
  makeRun('first', 4);
  makeRun('second', 2);
  const comparison = join(runs, 'compare.html');
  execFileSync(program, ['runs', 'compare', 'first', 'second', '--folder', runs, '--output', comparison], { stdio: ['ignore', 'ignore', 'inherit'] });
  browser = await launch(scratch);
  const page = watched(await browser.newPage(), (from) => from.protocol === 'file:' && from.pathname.endsWith('.html'));
  const report = pathToFileURL(join(runs, 'first', 'report.html')).href;
  await unscripted(report);
  await walk(page, report, 'report', { title: 'Loss', names: ['held out', 'training'], columns: ['prompt', 'reference', 'before', 'after'] });
  await page.locator('details').evaluateAll((all) => all.forEach((one) => { one.open = true; }));
  await pictures(page, 'report-open', out);
  await walk(page, pathToFileURL(comparison).href, 'compare', { title: 'Loss, training', names: ['first', 'second'], columns: ['prompt', 'reference', 'before', 'first', 'second'] });
  assert.deepEqual(page.problems, [], 'no errors in the console, no requests elsewhere');
  say('passed');
  code = 0;
} catch (error) {
  console.error(error);
  const page = browser?.pages().at(-1);
  await page?.screenshot({ path: join(out, 'report-failed.png') }).catch(() => {});
  console.error('problems of the page:', page?.problems);
}
await browser?.close().catch(() => {});
await rm(scratch, { recursive: true, force: true, maxRetries: 3 });
process.exit(code);
