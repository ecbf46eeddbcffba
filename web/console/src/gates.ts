/** One sentence for each gate: why a survey was not offered, with what was seen and until when. */
import { clock, short, words } from './format';

const until = (at: string | null | undefined): string => (at ? ` It can open at ${clock(at)}.` : '');

interface Shut {
  gate?: string | null;
  actual?: unknown;
  until?: string | null;
  /** The survey is decided, and never shown. */
  shadow?: boolean;
}

/** The sentences have `{}` where the value that was seen stands; without a value, the part in brackets goes. */
const SENTENCES: Record<string, string> = {
  not_active: 'The survey is not being offered to this user[: its status is {}].',
  out_of_schedule: 'It is outside of the days or hours of the survey’s schedule[ (it is {})].',
  platform_mismatch: 'The app’s platform is not one that the survey asks for[: it is {}].',
  locale_mismatch: 'The app’s language is not one that the survey asks for[: it is {}].',
  version_mismatch: 'The app’s version is not in the survey’s range[: it is {}].',
  show_on_mismatch: 'The trigger’s properties do not fit the survey’s filter[: {}].',
  not_activated: 'No event has armed the survey for this user, or that is long over[ ({})].',
  delay_pending: 'An event has armed the survey, but its delay is not over yet[ ({})].',
  cancelled: 'An event has taken the activation back[ ({})].',
  expired: 'The time after the event, in which the survey may show, is over[ (it ended {})].',
  targeting_failed: 'The user does not match the survey’s targeting[: what was seen is {}].',
  excluded: 'The project’s settings exclude this user from all surveys[: {}].',
  holdout: 'The user is in the share that is never asked[ ({})].',
  not_sampled: 'The user is not in the share of users that the survey asks[ ({})].',
  other_arm: 'The user belongs to the other arm of the experiment[: {}].',
  already_completed: 'The user has answered the survey already[ ({})].',
  max_displays: 'The user has seen the survey as often as it may be shown[ ({} times)].',
  cooldown: 'The user has seen this survey too lately[: last at {}].',
  global_cooldown: 'The user has seen another survey too lately[: last at {}].',
  session_cap: 'The user’s session has had as many surveys as it may have[ ({})].',
  quota_full: 'As many users as the survey’s limit allows have completed it, or are about to[ ({})].',
  cap_reached: 'A cap over several users is reached[: {}].',
  offer_outstanding: 'The survey was offered a moment ago and has not been shown yet[ ({})]; an app that sends the same session_id is offered it again.',
  preempted: 'Another survey was offered instead[: {}].',
};

type Seen = Record<string, unknown>;
const isAbsent = (value: unknown): boolean => value === undefined || value === null;
const happened = ({ at, count }: Seen): string => (isAbsent(at) ? 'never' : (isAbsent(count) ? '' : `${count} times, `) + `last at ${clock(at as string)}`);
const valueOf = (value: unknown): string => (typeof value === 'string' ? value : short(value, 200));

/** A cap with who is counted in it: `displayed at most 1 within 7d for company_id acme`. */
function ofCap({ cap, count, value, of }: Seen): string {
  const { count: what, max, within, per } = cap as Seen;
  const whom = isAbsent(per) ? '' : ` for ${valueOf((per as Seen).attribute)} ${isAbsent(value) ? '(which the user lacks)' : valueOf(value)}`;
  return `${of ? 'of the settings, ' : ''}${what} at most ${max}${within ? ` within ${within}` : ''}${whom}${isAbsent(count) ? '' : `; ${count} are counted or held`}`;
}

/** What a gate saw, by the members that it has; each form is one that the engine writes. */
const FORMS: [member: string, tell: (seen: Seen) => string][] = [
  ['cap', ofCap],
  ['question_id', (seen) => `the answer to ${seen.question_id} of ${seen.survey} ${isAbsent(seen.answer) ? 'is not there' : `is ${valueOf(seen.answer)}`}`],
  ['did', (seen) => `${isAbsent(seen.survey) ? `a survey with the tag ${seen.tag}` : seen.survey} was ${seen.did} ${happened(seen)}`],
  ['event', (seen) => `${seen.event} has come ${happened(seen)}`],
  ['attribute', (seen) => `the attribute ${seen.attribute} ${isAbsent(seen.actual) ? 'is not there' : `is ${valueOf(seen.actual)}`}`],
  ['property', (seen) => `${seen.property} ${isAbsent(seen.actual) ? 'is not there' : `is ${valueOf(seen.actual)}`}`],
  ['except', ({ except }) => `the span from ${clock((except as Seen).start_at as string)} to ${clock((except as Seen).end_at as string)}`],
  ['timezone', ({ timezone }) => (isAbsent(timezone) ? 'the user’s timezone is not known' : `${timezone} is no timezone`)],
  ['arm', (seen) => `${seen.arm} of ${seen.experiment}`],
  ['max_completed', (seen) => `at most ${seen.max_completed}`],
];

function told(actual: unknown): string {
  if (typeof actual === 'string' && /^\d{4}-\d\d-\d\dT/.test(actual)) return clock(actual);
  if (typeof actual !== 'object' || actual === null || Array.isArray(actual)) return short(actual, 300);
  const tell = FORMS.find(([member]) => member in actual)?.[1];
  return short(tell ? tell(actual as Seen) : Object.entries(actual).map(([name, value]) => `${words(name)} ${valueOf(value)}`).join(', '), 300);
}

export function sentence({ gate, actual, until: at, shadow }: Shut): string {
  if (!gate) return shadow ? 'The user passes every gate; the survey is in status shadow, so this is noted and it is never shown.' : 'The user would be offered this survey.';
  const known = SENTENCES[gate];
  const has = actual !== undefined && actual !== null && actual !== '';
  if (!known) return `${words(gate)}${has ? `: ${told(actual)}` : ''}.` + until(at);
  const filled = has ? known.replace(/\[|\]/g, '').replace('{}', () => told(actual)) : known.replace(/\[.*?\]/g, '');
  return filled + until(at);
}

export const GATES = Object.keys(SENTENCES);
