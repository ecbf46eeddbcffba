// One Chromium for a test file, with a page per test that notices every error.
import { chromium } from 'playwright-core';
import { KEY } from './server.mjs';

export const LAUNCH = { executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', '--disable-dev-shm-usage'] };
let browser;

export async function open() {
  return (browser ??= await chromium.launch(LAUNCH));
}

export async function shut() {
  await browser?.close();
  browser = undefined;
}

/** A page in a context of its own; `page.errors` collects what the console and the page complain of. */
export async function fresh(options = {}) {
  const context = await (await open()).newContext({ viewport: { width: 1000, height: 700 }, ...options });
  return tab(context);
}

export async function tab(context) {
  const page = await context.newPage();
  page.errors = [];
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && page.errors.push(message.text()));
  page.on('pageerror', (error) => page.errors.push('uncaught: ' + error.message));
  return page;
}

/** A page with the script tag. `tag`: more attributes; `body`: what else is on the page. */
export const html = (origin, { tag = '', body = '<p>Some page</p>', head = '', key = KEY } = {}) =>
  `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Page</title>` +
  `<meta name="viewport" content="width=device-width, initial-scale=1">${head}` +
  `<script async src="${origin}/sdk/askwhen.js" ${key ? `data-key="${key}"` : ''} ${tag}></script></head>` +
  `<body><main><h1>A page</h1>${body}</main></body></html>`;

/** Waits until the script has put its API in place. */
export const loaded = (page) => page.waitForFunction(() => window.askwhen?.trigger);

/** Asks, and gives the decision when it is answered (and shown, if there is something to show). */
export const trigger = (page, name = 'T', properties = {}) =>
  page.evaluate(([name, properties]) => window.askwhen.trigger(name, properties), [name, properties]);

export const dialog = (page) => page.getByRole('dialog');

/** Until `probe` gives something true; the time out says what for. */
export async function until(what, probe, ms = 8000) {
  const end = Date.now() + ms;
  for (;;) {
    const found = await probe();
    if (found) return found;
    if (Date.now() > end) throw new Error(`timed out waiting until ${what}`);
    await new Promise((done) => setTimeout(done, 25));
  }
}

/** The eight types, one question each. */
export const TYPES = {
  text: { type: 'text', text: 'What could we do better?' },
  nps: { type: 'nps', text: 'How likely are you to recommend us to a friend or colleague?', labels: { low: 'Not at all', high: 'Very likely' } },
  single_choice: { type: 'single_choice', text: 'What is your main reason?', options: ['price', { value: 'bugs', text: 'Too many bugs' }, 'Missing features'], other: { text: 'Something else' } },
  multi_choice: { type: 'multi_choice', text: 'What woke you?', options: ['noise', { value: 'light', text: 'The light' }, 'heat'], other: { text: 'Something else' } },
  rating_number: { type: 'rating_number', text: 'How easy was it to set up?', scale: 7, labels: { low: 'Hard', high: 'Easy' } },
  rating_star: { type: 'rating_star', text: 'How did you sleep?' },
  rating_emoji: { type: 'rating_emoji', text: 'How do you feel about the new editor?', labels: { low: 'Bad', high: 'Great' } },
  info: { type: 'info', text: 'We read every answer.\nThank you for taking the time.' },
};

export const survey = (...questions) => ({
  questions: questions.map((q, i) => ({ question_id: 'q' + (i + 1), ...(typeof q === 'string' ? TYPES[q] : q) })),
});
