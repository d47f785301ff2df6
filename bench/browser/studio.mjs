// The studio as a visitor uses it, in headless Chromium. Ends with an error at the first thing
// that is not as it should be; `node studio.mjs PROGRAM OUT`, started by test.sh.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { launch, pictures as pictured, watched } from './browser.mjs';

const [program, out] = process.argv.slice(2).map((path) => resolve(path));
const LIVE = 90_000;
const QUESTION = 'Question: Which trade does Kira Yates follow?\nAnswer:';

const scratch = await mkdtemp(join(tmpdir(), 'modelsmith-studio-'));
const started = [];
let browser = null;
let code = 1;

const say = (text) => console.log(`studio test: ${text}`);

// Starts a studio and gives the address that it tells.
async function address(runs, ...more) {
  const words = ['studio', '--port', '0', '--json', '--runs', join(scratch, runs), ...more];
  const studio = spawn(program, words, { stdio: ['ignore', 'pipe', 'inherit'] });
  started.push(studio);
  for await (const line of createInterface({ input: studio.stdout })) return JSON.parse(line).url;
  throw new Error('the studio ended before it told its address');
}

async function openPage(url) {
  browser = await launch(scratch);
  const page = await browser.newPage();
  return watched(page, (from) => from.origin === new URL(url).origin);
}

const pictures = (page, name) => pictured(page, `studio-${name}`, out);

// Runs outlive the studio, so those of a test that failed are asked to stop.
const stopAll = (page) => page.evaluate(async () => {
  const headers = { 'content-type': 'application/json', 'x-studio-csrf': document.querySelector('meta[name=csrf]').content };
  const { runs } = await (await fetch('/api/runs')).json();
  for (const run of runs.filter((one) => one.status === 'running' || one.status === 'starting')) {
    await fetch(`/api/runs/${run.name}/stop`, { method: 'POST', headers, body: '{}' });
  }
});

const points = (page) => page.locator('svg.chart').getAttribute('data-points').then(Number);

const status = (page, wanted, timeout = LIVE) =>
  page.locator(`h1 + span .badge[data-status=${wanted}]`).waitFor({ timeout });

// Waits until the curve has more points than `before`; the point of the whole test.
async function moves(page, before, timeout = LIVE) {
  const end = Date.now() + timeout;
  while (Date.now() < end) {
    const now = await points(page);
    if (now > before) return now;
    await page.waitForTimeout(100);
  }
  throw new Error(`the live curve stayed at ${before} points for ${timeout / 1000} s`);
}

async function startRun(page) {
  await page.locator('nav >> text=Start').click();
  await page.locator('#run-name').fill('first');
  await page.locator('[name="host.path"]').fill('assets/house');
  await page.locator('[name="data.path"]').fill('assets/house/questions.jsonl');
  await page.locator('[name="data.held_out_path"]').fill('assets/house/questions-held-out.jsonl');
  await page.locator('[name="method.rank"]').fill('-1');
  await page.locator('#go').click();
  assert.equal(await page.evaluate(() => document.querySelector(':invalid[name]')?.name), 'method.rank', 'a rank below 0 is refused by the form');
  await page.locator('[name="method.rank"]').fill('4');
  await page.locator('[name="method.target_modules"]').fill('all-linear');
  await page.locator('[name="train.learning_rate"]').fill('0.003');
  await page.locator('[name="train.max_steps"]').fill('300');
  await page.locator('summary >> text=Every other key of training').click();
  await page.locator('[name="train.eval_every"]').fill('100');
  await page.locator('[name="train.eval_batches"]').fill('2');
  await pictures(page, 'start');
  await page.locator('#go').click();
  await page.waitForURL(/#\/run\?name=first/);
}

async function watchStopResume(page) {
  await status(page, 'running');
  const first = await moves(page, 0);
  const second = await moves(page, first);
  const third = await moves(page, second);
  say(`the curve moved: ${first}, ${second}, ${third} points`);
  await pictures(page, 'live');
  await page.locator('#stop').click();
  await status(page, 'interrupted');
  const stopped = await points(page);
  assert.ok(stopped < 300, `stopped before its end, at ${stopped} points`);
  assert.match(await page.locator('pre.log').textContent(), /training .* numbers/);
  say(`stopped at ${stopped} points`);
  await page.locator('#resume').click();
  await status(page, 'finished', 3 * LIVE);
  await page.waitForFunction(() => Number(document.querySelector('svg.chart').dataset.points) >= 300);
  say('resumed and finished');
}

async function secondRun(page) {
  await page.locator('text=Start alike').click();
  await page.locator('#run-name').waitFor();
  assert.equal(await page.locator('[name="method.rank"]').inputValue(), '4', 'the form is filled from the run');
  await page.locator('#run-name').fill('second');
  await page.locator('#method').selectOption('dora');
  await page.locator('[name="method.rank"]').fill('2');
  await page.locator('[name="train.max_steps"]').fill('20');
  await page.locator('#go').click();
  await page.waitForURL(/#\/run\?name=second/);
  await status(page, 'finished', 2 * LIVE);
  await pictures(page, 'finished');
  await page.locator('svg.chart').focus();
  await page.keyboard.press('ArrowLeft');
  assert.match(await page.locator('output.reading').textContent(), /step 20: .*training/, 'arrow keys read values');
}

async function lists(page) {
  await page.locator('nav >> text=Runs').click();
  await page.locator('tbody tr').nth(1).waitFor();
  await pictures(page, 'runs');
  await page.locator('input[type=search]').fill('second dora');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 1);
  await page.locator('input[type=search]').fill('nothing like it');
  await page.locator('text=No run holds these words').waitFor();
}

async function compares(page) {
  await page.locator('nav >> text=Compare').click();
  await page.locator('#side-a').selectOption('first');
  await page.waitForURL(/a=first/);
  await page.locator('#side-b').selectOption('second');
  await page.locator('#differences code >> text=method.rank').waitFor();
  await page.locator('svg.chart path.line').nth(1).waitFor({ state: 'attached' });
  assert.doesNotMatch(await page.locator('tbody tr >> text=Held-out loss, before').locator('..').textContent(), /–/, 'a resumed run knows its first loss');
  await pictures(page, 'compare');
}

async function generates(page) {
  await page.locator('nav >> text=Generate').click();
  await page.locator('#generate-a').selectOption('first');
  await page.locator('#generate-b').selectOption('');
  await page.locator('#prompt').fill(QUESTION);
  await page.locator('#tokens').fill('12');
  await page.locator('button >> text=Generate').click();
  await page.locator('#results mark').nth(1).waitFor({ timeout: LIVE });
  const texts = await page.locator('#results mark').allTextContents();
  assert.ok(texts.every((text) => text.trim()), `both sides say something: ${JSON.stringify(texts)}`);
  say(`generated ${JSON.stringify(texts)}`);
  await pictures(page, 'generate');
}

async function catalogue(page) {
  await page.locator('nav >> text=Methods').click();
  await page.locator('#method-lora').waitFor();
  await page.locator('#method-lora summary').click();
  await pictures(page, 'methods');
  await page.locator('input[type=search]').fill('adamw');
  assert.equal(await page.locator('article').count(), 1);
}

async function keyboard(page, url) {
  await page.goto(url);
  await page.locator('h1').waitFor();
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.className), 'skip', 'the skip link comes first');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
}

// Bound to every address it asks for the token once, and keeps it out of sight after that.
async function token() {
  const url = await address('guarded', '--bind', '0.0.0.0');
  const page = await browser.newPage();
  const refused = await page.goto(new URL('/', url).href);
  assert.equal(refused.status(), 401, 'without the token nothing is shown');
  await page.goto(url);
  await page.locator('text=No runs yet').waitFor();
  assert.ok(!page.url().includes('token'), 'the token leaves the address');
  await page.reload();
  await page.locator('text=No runs yet').waitFor();
  await page.close();
}

try {
  const url = await address('runs');
  const page = await openPage(url);
  await page.goto(url);
  await page.locator('text=No runs yet').waitFor();
  await keyboard(page, url);
  await startRun(page);
  await watchStopResume(page);
  await secondRun(page);
  await lists(page);
  await compares(page);
  await generates(page);
  await catalogue(page);
  await token();
  assert.deepEqual(page.problems, [], 'no errors in the console, no requests elsewhere');
  say('passed');
  code = 0;
} catch (error) {
  console.error(error);
  const page = browser?.pages().at(-1);
  await page?.screenshot({ path: join(out, 'studio-failed.png'), fullPage: true }).catch(() => {});
  await Promise.race([page ? stopAll(page).catch(() => {}) : null, new Promise((done) => { setTimeout(done, 5000); })]);
  console.error('on the page:', await page?.locator('#problem').textContent({ timeout: 1000 }).catch(() => ''), page?.problems);
}
await browser?.close().catch(() => {});
for (const studio of started) studio.kill();
await rm(scratch, { recursive: true, force: true, maxRetries: 3 });
process.exit(code);
