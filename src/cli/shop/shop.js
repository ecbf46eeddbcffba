// The shop's page: tells its backend of an order, asks askwhen what to show, and lists the
// webhooks that the backend has received.
const askwhen = () => (window.askwhen ??= { queue: [] });
const said = document.querySelector('#said');

document.querySelector('#buy').addEventListener('click', async () => {
  const answer = await fetch('/buy', { method: 'POST' });
  said.textContent = answer.ok ? 'The order is paid.' : 'The order could not be told: is the server still there?';
  if (answer.ok) askwhen().queue.push(['trigger', 'Thanks']);
});

let shown = 0;
function show({ type, verified, body }) {
  const item = document.createElement('li');
  const head = document.createElement('strong');
  head.textContent = `${type} · ${verified ? 'signature verified' : 'signature wrong'}`;
  const text = document.createElement('pre');
  text.textContent = JSON.stringify(body, null, 2);
  item.append(head, text);
  document.querySelector('#webhooks').prepend(item);
  document.querySelector('#none').hidden = true;
}
async function look() {
  if (document.hidden) return;
  const answer = await fetch('/webhooks?after=' + shown).catch(() => null);
  for (const webhook of answer?.ok ? await answer.json() : []) {
    shown++;
    show(webhook);
  }
}
setInterval(look, 500);
