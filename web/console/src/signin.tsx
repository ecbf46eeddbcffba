/** The way in: a key of kind `viewer` or `admin`. */
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { signIn } from './session';
import type { Session } from './types';
import { Button, TextField, useAction, useTitle } from './ui';

export function SignIn({ message, done }: { message: string; done: (session: Session) => void }) {
  useTitle('Sign in');
  const [key, setKey] = useState('');
  const form = useRef<HTMLFormElement>(null);
  const action = useAction();
  useLayoutEffect(() => form.current?.querySelector('input')?.focus(), []);
  const refused = action.error && (action.error.status === 401 ? 'This key is not known here. Check that it is whole, and of this server.' : action.error.message);
  return (
    <main class="alone">
      <form
        ref={form}
        class="card sign-in"
        onSubmit={(event) => {
          event.preventDefault();
          if (key.trim()) void action.run(async () => done(await signIn({ key: key.trim() })));
        }}
      >
        <p class="brand">askwhen</p>
        <h1>Sign in</h1>
        {message && !action.error && <p class="notice info" role="status">{message}</p>}
        <TextField
          label="Key"
          type="password"
          name="key"
          value={key}
          onValue={setKey}
          required
          faults={refused ? [refused] : undefined}
          hint="A key of kind admin, or viewer to read only. The keys of a new server are in its keys.toml."
        />
        {refused && <p class="unseen" role="alert">{refused}</p>}
        <Button look="main" submit busy={action.busy}>Sign in</Button>
      </form>
    </main>
  );
}
