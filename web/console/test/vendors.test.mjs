// What the vendors' documents have people do in dashboards, step by step, by clicking alone, on
// askwhen itself; and what they then run or receive is what their documents say.
import { after, afterEach, before, beforeEach, test } from 'node:test';
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { loaded, trigger } from '../../test/browser.mjs';
import { receiver, serve } from '../../test/program.mjs';
import { fresh, ownPages, settled, shut, until, wrongs } from './browser.mjs';

let server, hooks, page, state;
before(async () => {
  server = await serve();
  hooks = await receiver();
  await server.api('PUT', '/v1/settings', { global_cooldown: '0s', max_per_session: 1000 });
  page = await ownPages(await fresh(server));
  await page.goto(server.link);
  await page.getByRole('heading', { level: 1, name: 'Home' }).waitFor();
  state = await page.context().storageState();
  await page.context().close();
});
beforeEach(async () => {
  page = await ownPages(await fresh(server, { storageState: state }));
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  await page.goto(server.console + '/');
  await page.getByRole('heading', { level: 1, name: 'Home' }).waitFor();
});
afterEach(() => page.context().close());
after(async () => {
  await shut();
  hooks?.stop();
  await server?.stop();
});
const button = (name) => page.getByRole('button', { name, exact: true });
/** A page by the navigation, as people go there. */
async function open(name) {
  await page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name, exact: true }).click();
  await page.getByRole('heading', { level: 1, name, exact: true }).waitFor();
  await settled(page);
}
/** Presses a *Copy* button, and gives what it copied. */
async function copied(name) {
  await page.evaluate(() => navigator.clipboard.writeText(''));
  await button('Copy ' + name).click();
  return until(`${name} is copied`, () => page.evaluate(() => navigator.clipboard.readText()));
}
/** The names that a field suggests. */
const suggested = (label) => page.getByLabel(label, { exact: true }).evaluate((field) => [...field.list.options].map((option) => option.value));

/** A page of the shop, where the widget asks the user at the place. */
async function answered(user, place, stars) {
  const shop = await fresh(server);
  await shop.route('**/shop', (route) => route.fulfill({ contentType: 'text/html', body: `<!doctype html><meta charset="utf-8"><title>s</title><script async src="${server.origin}/sdk/askwhen.js" data-key="${server.keys.client}" data-user="${user}"></script><h1>Shop</h1>` }));
  await shop.goto(server.origin + '/shop');
  await loaded(shop);
  const { reason } = await trigger(shop, place);
  if (reason === 'offered') {
    await shop.getByRole('radio').nth(stars - 1).click();
    for (let left = 5; left && !(await shop.getByText('Thank you').count()); left--) await shop.getByRole('button', { name: /Next|Send/ }).click();
    await shop.getByText('Thank you').first().waitFor();
  }
  await shop.context().close();
  return reason;
}
const told = (path) => hooks.got.filter((message) => message.path === path).map(({ headers, body }) => ({ headers, text: body, body: JSON.parse(body) }));

test('Blitzllama, Backend Triggers: URL and key copied, the event seen, a survey that it arms', async () => {
  await open('Connections');
  await page.getByText('Waiting for the first event').waitFor();
  await page.getByText('URLs for code that was written for Blitzllama or Reward').click();
  const url = await copied("URL for Blitzllama's body");
  await button('New server key').click();
  const key = await copied('new server key');
  const properties = { id: 1, name: 'War and Peace', author: 'Leo Tolstoy', type: 'hardcover', category: 'novel' };
  const call = await fetch(url, { method: 'POST', headers: { 'x-api-key': key, 'content-type': 'application/json' }, body: JSON.stringify({ user_id: 'user_123', event_name: 'item_added_to_cart', properties }) });
  assert.deepEqual([call.status, (await call.json()).message], [200, 'success']);
  await page.getByText('First event received').waitFor();
  // Its name shows up among the triggers, and so does the place that the app reports.
  assert.equal(await answered('somebody', 'MainActivity', 1), 'not_offered');
  await open('Triggers');
  await page.getByRole('row', { name: /item_added_to_cart/ }).getByText('backend').waitFor();
  await page.getByRole('row', { name: /MainActivity/ }).getByText('frontend').waitFor();
  // The survey: armed by the event, for so long, shown at the place.
  await open('Surveys');
  await button('New survey').first().click();
  await page.getByRole('button', { name: /^CSAT/ }).click();
  await page.getByLabel('Name', { exact: true }).fill('After the cart');
  await until('the events are known', async () => (await suggested('Activate with backend event')).includes('item_added_to_cart'));
  assert.ok((await suggested('Show at')).includes('MainActivity'));
  await page.getByLabel('Activate with backend event').fill('item_added_to_cart');
  await page.getByLabel('Expires after').fill('101h');
  await page.locator('.field', { hasText: 'Expires after' }).locator('.fault').waitFor();
  await page.getByLabel('Expires after').fill('100h');
  await page.getByLabel('Show at').fill('MainActivity');
  await page.locator('.differences').getByText('item_added_to_cart').waitFor();
  await button('Publish').click();
  await page.getByRole('heading', { level: 1, name: 'After the cart' }).waitFor();
  // The event that came before the survey armed nothing; the next one does.
  assert.equal(await answered('user_123', 'MainActivity', 4), 'not_offered');
  await fetch(url, { method: 'POST', headers: { 'x-api-key': key, 'content-type': 'application/json' }, body: JSON.stringify({ user_id: 'user_123', event_name: 'item_added_to_cart', properties }) });
  assert.equal(await answered('user_123', 'MainActivity', 4), 'offered');
  const [response] = (await server.api('GET', '/v1/responses?user_id=user_123')).responses;
  assert.deepEqual(response.activation.properties, properties, 'the properties are in the response');
  assert.deepEqual(await wrongs(page), []);
});

test('Blitzllama, Webhook: URL and secret saved, each completed response signed with it, one looked at and resent', async () => {
  await open('Endpoints');
  await button('New endpoint').first().click();
  await page.getByLabel('URL').fill(hooks.url + '/blitz');
  await page.getByLabel('ID', { exact: true }).fill('blitz');
  await page.getByLabel('Profile').selectOption('blitzllama');
  assert.deepEqual([await page.getByLabel('response.completed').isChecked(), await page.getByLabel('response.answered').isChecked()], [true, false], 'what the profile is for is ticked');
  await page.getByLabel('Secret').fill('a secret of ours');
  await button('Save').click();
  await page.getByRole('heading', { level: 1, name: 'blitz' }).waitFor();
  await server.api('POST', '/v1/events', { user_id: 'bob', event_name: 'item_added_to_cart' });
  assert.equal(await answered('bob', 'MainActivity', 5), 'offered');
  await until('it is told', () => told('/blitz').length);
  const [{ headers, text, body }] = told('/blitz');
  assert.equal(headers['x-webhook-signature'], createHmac('sha256', 'a secret of ours').update(text).digest('hex'));
  assert.deepEqual([body.event_type, body.user_id, body.survey_name, body.responses[0].response, body.responses[0].question_type], ['response_group', 'bob', 'After the cart', '5', 'star_feedback']);
  // The message, looked at and sent again.
  await page.getByRole('link', { name: 'Deliveries' }).last().click();
  await page.getByRole('row', { name: /delivered/ }).first().getByRole('button').first().click();
  const dialog = page.getByRole('dialog', { name: 'Delivery' });
  assert.deepEqual(JSON.parse(await dialog.getByRole('region', { name: 'body', exact: true }).innerText()), body);
  await dialog.getByText('Headers of attempt 1').click();
  await dialog.getByText(headers['x-webhook-signature']).waitFor();
  await button('Resend').click();
  await until('it has come again', () => told('/blitz').length === 2);
  assert.equal(told('/blitz')[1].text, text);
  assert.equal(told('/blitz').filter((one) => one.body.event_type !== 'response_group').length, 0);
  // The other event: each answer as it is submitted, signed alike.
  await open('Endpoints');
  await page.getByRole('link', { name: 'blitz', exact: true }).click();
  await page.getByLabel('response.answered').check();
  await button('Save').click();
  await until('it is saved', async () => (await server.api('GET', '/v1/endpoints/blitz')).events.includes('response.answered'));
  hooks.got.length = 0;
  await server.api('POST', '/v1/events', { user_id: 'bert', event_name: 'item_added_to_cart' });
  assert.equal(await answered('bert', 'MainActivity', 2), 'offered');
  const single = await until('the answer is told by itself', () => told('/blitz').find((one) => one.body.question_id));
  assert.deepEqual([single.body.user_id, single.body.trigger, single.body.question_order, single.body.response, single.body.question_type], ['bert', 'MainActivity', 1, '2', 'star_feedback']);
  assert.equal(single.headers['x-webhook-signature'], createHmac('sha256', 'a secret of ours').update(single.text).digest('hex'));
  await until('and the whole response', () => told('/blitz').some((one) => one.body.event_type === 'response_group' && one.body.user_id === 'bert'));
  assert.deepEqual(await wrongs(page), []);
});

test('1Flow, webhook alerts: URL and switch saved; with the switch off nothing comes, with it on one alert for each survey', async () => {
  await open('Endpoints');
  await button('New endpoint').first().click();
  await page.getByLabel('URL').fill(hooks.url + '/flow');
  await page.getByLabel('ID', { exact: true }).fill('flow');
  await page.getByLabel('Profile').selectOption('1flow');
  await page.getByRole('switch', { name: 'Enabled' }).click();
  await button('Save').click();
  await button('I have kept it').click();
  await page.getByText('It is switched off.').waitFor();
  await server.api('PUT', '/v1/users/carl', { attributes: { firstName: 'John', lastName: 'Wick' } });
  await server.api('POST', '/v1/events', { user_id: 'carl', event_name: 'item_added_to_cart', properties: { content_id: '1234abcdef56' } });
  assert.equal(await answered('carl', 'MainActivity', 3), 'offered');
  await until('its message is cancelled', async () => (await server.api('GET', '/v1/deliveries?endpoint_id=flow&user_id=carl')).deliveries[0]?.status === 'cancelled');
  await page.getByRole('switch', { name: 'Enabled' }).click();
  await page.getByText('It takes what it is sent.').waitFor();
  await server.api('PUT', '/v1/users/dora', { attributes: { firstName: 'Dora' } });
  await server.api('POST', '/v1/events', { user_id: 'dora', event_name: 'item_added_to_cart', properties: { content_id: 'x' } });
  assert.equal(await answered('dora', 'MainActivity', 2), 'offered');
  await until('the alert has come', () => told('/flow').length);
  const [{ body }] = told('/flow');
  assert.deepEqual([body.alert_name, body.survey_info.name, body.survey_info.screens[0].answer, body.survey_info.screens[0].type], ['submitted_survey', 'After the cart', '2', 'rating-5-star']);
  assert.deepEqual([body.user.user_system_id, body.user.parameters, body.trigger_event], ['dora', { firstName: 'Dora' }, { event_name: 'item_added_to_cart', parameters: { content_id: 'x' } }]);
  assert.deepEqual(told('/flow').map((one) => one.body.user.user_system_id), ['dora'], 'one alert, and none of the time when it was off');
  assert.deepEqual(await wrongs(page), []);
});

test('Reward, Custom triggers: a name, its generated ID changed, kind custom, and an event of it', async () => {
  await open('Triggers');
  await button('Create trigger').click();
  await page.getByLabel('Name').fill('Successful payment');
  assert.equal(await page.getByLabel('ID').inputValue(), 'successful_payment');
  await page.getByLabel('ID').fill('paid');
  await page.getByLabel('Kind').selectOption('custom');
  await button('Save').click();
  const row = page.getByRole('row', { name: /Successful payment/ });
  await row.getByText('not yet').waitFor();
  assert.equal(await row.getByRole('cell').first().innerText(), 'paid');
  // A survey that it arms; custom triggers stand among the events.
  await open('Surveys');
  await button('New survey').first().click();
  await page.getByRole('button', { name: /^CSAT/ }).click();
  await page.getByLabel('Name', { exact: true }).fill('After the payment');
  await until('the events are known', async () => (await suggested('Activate with backend event')).includes('paid'));
  await page.getByLabel('Activate with backend event').fill('paid');
  await page.getByLabel('Show at').fill('Checkout');
  await page.locator('.differences').getByText('paid').waitFor();
  await button('Publish').click();
  await page.getByRole('heading', { level: 1, name: 'After the payment' }).waitFor();
  await open('Connections');
  await page.getByText('URLs for code that was written for Blitzllama or Reward').click();
  const url = (await copied("URL for Reward's body")).replace('TRIGGER', 'paid').replace('USER', encodeURIComponent('user/ü 7'));
  const call = await fetch(url, { method: 'POST', headers: { authorization: `Bearer ${server.keys.server}`, 'content-type': 'application/json' }, body: JSON.stringify({ value: 19.99 }) });
  assert.deepEqual([call.status, await call.json()], [200, { success: true }]);
  assert.equal(await answered('user/ü 7', 'Checkout', 4), 'offered');
  await open('Triggers');
  await until('it has been seen', async () => !(await row.innerText()).includes('not yet'));
  await open('Users');
  await page.getByLabel('User ID').fill('user/ü 7');
  await button('Find').click();
  await page.locator('.timeline').getByText('paid {"value":19.99}').waitFor();
  assert.deepEqual(await wrongs(page), []);
});
