/**
 * The shapes that the API answers with, as far as the console reads them: those of
 * `/openapi.json`, and what its schemas leave open.
 */
import type { JsonObject } from './api';
import type { components } from './openapi';

type Schemas = components['schemas'];

/** The members that a schema names. Most are open to others, and then a misspelt one would be any of them. */
type Named<Schema> = { [Name in keyof Schema as string extends Name ? never : Name]: Schema[Name] };

/**
 * A schema with what it leaves open. A member of both must be one that the schema has, so
 * that another schema is noticed here.
 */
type Known<Name extends keyof Schemas, More extends { [M in keyof More]: M extends keyof Named<Schemas[Name]> ? Named<Schemas[Name]>[M] : unknown } = object> =
  Omit<Named<Schemas[Name]>, keyof More> & More;

export type KeyKind = Schemas['KeyRequest']['kind'];
export type Session = Known<'Session', { kind: KeyKind }>;

/** `uses`: how many surveys name it, which the console counts. */
export type Trigger = Known<'Trigger'> & { uses?: number };

/** A survey's definition with its version; the editor keeps members that it does not know. */
export type SurveyDefinition = JsonObject & Known<'StoredSurvey', { questions: JsonObject[] & Schemas['StoredSurvey']['questions'] }>;

/** What `?dry_run=true` says of a definition. */
export type DryRun = Known<'ChangedOrDryRun', { current?: JsonObject | null; body?: JsonObject | null }>;

export type Stats = Known<'SurveyStats'>;
export type Endpoint = JsonObject & Known<'StoredEndpoint', { state_reason: string | null; state_since: string | null }>;
export type Attempt = Known<'Attempt'>;

export type Delivery = Known<'Delivery', { next_attempt_at: string | null; reason: string | null; survey_id: string | null; user_id: string; attempts?: Attempt[] }> & {
  outcome?: string | null;
  http_status?: number | null;
  resent_as?: string | null;
  resend_of?: string | null;
};

/** `outcome` is how the last attempt ended; null where there was none. */
export type Cause = Known<'Cause', { http_status: number | null; error: string | null; example: string }>;

/** `hint`: what to do about it, where the server knows. */
export type Evaluation = Known<'Evaluation'> & { hint?: string; shadow?: boolean };
export type Decision = Known<'Decision', { evaluations?: Evaluation[] }>;
export type SurveyStanding = Known<'SurveyStanding'> & { actual?: unknown };

export type UserState = Known<'User', { attributes: JsonObject; offers: JsonObject[]; counters: JsonObject; surveys: SurveyStanding[] }>;
/** The schema says only that it is an object. */
export interface Explanation {
  user_id: string;
  at: string;
  user: UserState;
  decision: Decision | null;
}

export type TimelineItem = JsonObject & Known<'TimelineItem'>;
export type ApiKey = Known<'Key', { kind: KeyKind; created_at: string | null; last_used_at: string | null }>;
export type Job = Known<'Job'> & { result?: unknown; error?: string | null };

export type QuestionResult = Known<'QuestionResults'>;
export type Results = Known<'SurveyResults'>;

export type SurveyVersion = Known<'Version', { definition: JsonObject | null }>;
export type Settings = JsonObject & Known<'Settings'>;
