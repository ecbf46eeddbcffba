/** The shapes that the API answers with, as far as the console reads them. */
import type { JsonObject } from './api';

export type KeyKind = 'client' | 'server' | 'viewer' | 'admin';

export interface Session {
  name?: string | null;
  kind: KeyKind;
  project?: string;
  expires_at?: string;
}

export interface Trigger {
  trigger_id: string;
  name: string;
  kind: 'backend' | 'frontend' | 'custom';
  first_seen_at: string | null;
  uses?: number;
}

/** A survey's definition with its version; the editor keeps members that it does not know. */
export type SurveyDefinition = JsonObject & { survey_id: string; name: string; status: string; version: number };

export interface Stats {
  considered: number;
  offered: number;
  displayed: number;
  dismissed: number;
  answered: number;
  completed: number;
  not_offered: Record<string, number>;
}

export interface Endpoint extends JsonObject {
  endpoint_id: string;
  url: string;
  profile: string;
  enabled: boolean;
  version: number;
  state: string;
  state_reason: string | null;
  state_since: string | null;
}

export interface Attempt {
  attempt: number;
  started_at: string;
  duration_ms: number | null;
  http_status: number | null;
  outcome: string;
  error?: string;
  response?: string;
}

export interface Delivery {
  delivery_id: string;
  message_id: string;
  endpoint_id: string;
  type: string;
  survey_id: string | null;
  user_id: string;
  status: string;
  attempt_count: number;
  next_attempt_at: string | null;
  reason: string | null;
  created_at: string;
  outcome?: string | null;
  http_status?: number | null;
  attempts?: Attempt[];
  body?: unknown;
  headers?: Record<string, string>;
  resent_as?: string | null;
  resend_of?: string | null;
}

export interface Cause {
  cause: string;
  endpoint_id: string;
  /** How the last attempt ended; null where there was none. */
  outcome: string | null;
  http_status: number | null;
  error: string | null;
  count: number;
  first_at: string;
  last_at: string;
  example: string;
}

export interface Evaluation {
  survey_id: string;
  pass: boolean;
  gate?: string;
  actual?: unknown;
  until?: string | null;
}

export interface Decision {
  decision_id: string;
  user_id: string;
  trigger: string;
  decided_at: string;
  reason: string;
  survey: { survey_id: string; version: number; name: string; offer_id: string } | null;
  evaluations?: Evaluation[];
}

export interface UserState {
  user_id: string;
  known: boolean;
  attributes: JsonObject;
  windows: { survey_id: string; opens_at: string; expires_at: string; activation: JsonObject | null }[];
  offers: JsonObject[];
  counters: JsonObject;
  surveys: { survey_id: string; eligible: boolean; gate: string | null; until: string | null; actual?: unknown }[];
}

export interface Explanation {
  user_id: string;
  at: string;
  user: UserState;
  decision: Decision | null;
}

export interface TimelineItem extends JsonObject {
  at: string;
  kind: string;
}

export interface ApiKey {
  key_id: string;
  name: string | null;
  kind: KeyKind;
  prefix: string;
  created_at: string | null;
  last_used_at: string | null;
  source: 'file' | 'runtime';
}

export interface Job {
  job_id: string;
  kind: string;
  state: 'queued' | 'running' | 'done' | 'cancelled' | 'failed';
  done: number;
  total: number | null;
  started_at: string | null;
  eta: string | null;
  result?: unknown;
  error?: string | null;
}

export interface QuestionResult {
  question_id: string;
  type: string;
  text?: string;
  answered: number;
  skipped: number;
  distribution: { value: string | number; text?: string | null; count: number }[];
  mean?: number | null;
  nps?: { score: number; promoters: number; passives: number; detractors: number; margin: number } | null;
  texts?: (string | { text: string; at?: string })[];
}

export interface Results {
  survey_id: string;
  responses: number;
  completed: number;
  completion_rate: number | null;
  median_duration_ms: number | null;
  questions: QuestionResult[];
  series: JsonObject[];
}

export interface SurveyVersion {
  version: number;
  changed_at: string;
  actor: string | null;
  definition: JsonObject;
}
