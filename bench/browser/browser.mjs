// What the browser tests share: a headless Chromium, a page that keeps its problems, pictures.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const DESK = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844 };

export const launch = (scratch, more = {}) =>
  chromium.launchPersistentContext(join(scratch, 'profile'), {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: FLAGS,
    viewport: DESK,
    colorScheme: 'light',
    ...more,
  });

// Errors of the page, and requests to anywhere that is not its `own`, go to `page.problems`.
export function watched(page, own) {
  page.problems = [];
  page.on('console', (message) => message.type() === 'error' && page.problems.push(message.text()));
  page.on('pageerror', (error) => page.problems.push(error.message));
  page.on('request', (request) => {
    const from = new URL(request.url());
    if (from.protocol !== 'data:' && !own(from)) page.problems.push(`asked ${request.url()}`);
  });
  page.setDefaultTimeout(30_000);
  return page;
}

// The page as it is now, light and dark, wide and at phone width; nothing may stick out sideways.
export async function pictures(page, name, out) {
  const looks = [['light', DESK, 'light'], ['dark', DESK, 'dark'], ['phone', PHONE, 'light'], ['phone-dark', PHONE, 'dark']];
  for (const [look, size, colorScheme] of looks) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize(size);
    await page.waitForTimeout(150);
    await page.screenshot({ path: join(out, `${name}-${look}.png`), fullPage: true });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    assert.ok(wide <= 0, `${name} (${look}) is ${wide} pixels too wide`);
  }
  await page.emulateMedia({ colorScheme: 'light' });
  await page.setViewportSize(DESK);
}
