// An app of two views. Surveys follow what is on the page; nothing has to be
// taken away by hand when a view goes.
import { StrictMode, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { InlineSurvey, useAskwhen, useTrigger } from 'askwhen-browser/react';

function Home() {
  useTrigger('Home');
  return <p>Welcome. A survey may appear in the corner.</p>;
}

function Checkout() {
  return (
    <section>
      <p>Your order is on its way.</p>
      <InlineSurvey trigger="Checkout" properties={{ amount: 20 }} className="survey" />
    </section>
  );
}

/** `config` is what the page says: `{server, key, user}`. */
function App({ config }) {
  const [view, setView] = useState('home');
  useAskwhen(config);
  return (
    <main>
      <h1>An app</h1>
      <button onClick={() => setView('home')}>Home</button>
      <button onClick={() => setView('checkout')}>Checkout</button>
      {view === 'home' ? <Home /> : <Checkout />}
    </main>
  );
}

const config = JSON.parse(document.getElementById('config').textContent);
createRoot(document.getElementById('app')).render(
  <StrictMode>
    <App config={config} />
  </StrictMode>,
);
