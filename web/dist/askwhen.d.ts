/**
 * The shapes that the widget reads, writes and hands to the page. A decision is
 * what `POST /v1/users/{user_id}/triggers/{trigger}` answers to a client key.
 */

/** A string, a whole number, or a list of option values; `{other}` is free text beside the options. */
export type Value = string | number | Other | (string | Other)[];
export interface Other {
  other: string;
}

export type QuestionType =
  | 'text'
  | 'nps'
  | 'single_choice'
  | 'multi_choice'
  | 'rating_number'
  | 'rating_star'
  | 'rating_emoji'
  | 'info';

export interface Option {
  value: string;
  text?: string;
}

/** A condition on an answer. Without `when` a rule always fits. */
export interface NextRule {
  when?: { op: string; value?: unknown };
  goto: string;
}

export interface Question {
  question_id: string;
  type: QuestionType;
  text: string;
  /** True when left out. */
  required?: boolean;
  options?: (Option | string)[];
  other?: { text?: string };
  /** Options in an order of their own for each offer. */
  shuffle?: boolean;
  /** Highest value of a `rating_number`: 3, 5, 7 or 10; 5 when left out. */
  scale?: number;
  labels?: { low?: string; high?: string };
  next?: NextRule[];
}

export interface Theme {
  scheme?: 'auto' | 'light' | 'dark';
  accent?: string | null;
  background?: string | null;
  text?: string | null;
  radius?: string | null;
  font?: string | null;
}

export interface Ui {
  layout?: 'popover' | 'modal' | 'inline';
  position?: 'bottom_right' | 'bottom_left' | 'bottom_center' | 'center';
  theme?: Theme;
  progress?: boolean;
  labels?: {
    next?: string;
    back?: string;
    submit?: string;
    close?: string;
    required?: string;
    /** Said beside the questions of an anonymous survey. */
    anonymous?: string;
    /** Said of a text beyond 16 KiB. */
    too_long?: string;
    /** Name of the progress bar for screen readers. */
    progress?: string;
  };
  thank_you?: { text?: string; close_after?: string | null };
}

/** Where a path may end instead of `end`. */
export interface Ending {
  ending_id: string;
  text: string;
  link?: string | null;
}

export interface Survey {
  survey_id: string;
  version: number;
  name: string;
  offer_id: string;
  expires_at?: string;
  locale?: string;
  dir?: 'ltr' | 'rtl';
  ui?: Ui | null;
  activation?: {
    event_id: string;
    event_name: string;
    occurred_at: string;
    properties: Record<string, unknown>;
  } | null;
  questions: Question[];
  endings?: Ending[];
  /** Answers are passed on without who gave them, and the user is told so. */
  anonymous?: boolean;
}

export interface Decision {
  decision_id: string;
  event_id: string;
  user_id: string;
  trigger: string;
  decided_at: string;
  /** To a client key: `offered`, `not_offered` or `stale`. */
  reason: string;
  survey: Survey | null;
  evaluations?: { survey_id: string; pass: boolean; gate?: string; actual?: unknown; until?: string }[];
}

export interface Answer {
  question_id: string;
  value: Value;
  /** RFC 3339, by the clock of the device. */
  answered_at: string;
  /** How long the question was there, in milliseconds. */
  duration_ms: number;
}

/** `completed` and `dismissed` are the user's doing, `unmounted` the page's. */
export type CloseReason = 'completed' | 'dismissed' | 'unmounted';

export interface Options {
  /** A client key. */
  key: string;
  /** Base URL of askwhen. Where the script came from when left out; the npm package needs it. */
  server?: string;
  /** The user's id; without one an `anon-<uuid>` is made and kept. */
  user?: string;
  /** Hex of HMAC-SHA256(identity_secret, user), made by your backend. */
  signature?: string;
  /** A session id of your own; otherwise one for the tab, new after 30 minutes without use. */
  session?: string;
  context?: { platform?: string; locale?: string; app_version?: string; [member: string]: unknown };
  /** Wins over the survey's own `ui.theme`. */
  theme?: Theme;
  /** Where surveys with `layout: inline` go: an element, or a selector. */
  container?: Element | string | null;
  /** Called with each decision, before it is shown; `false` keeps it from being shown. */
  onDecision?: (decision: Decision) => unknown;
  onShow?: (survey: Survey) => unknown;
  onAnswer?: (answers: Answer[], completed: boolean, survey: Survey) => unknown;
  onClose?: (reason: CloseReason, survey: Survey) => unknown;
  onError?: (error: Error) => unknown;
  /** Shows the last decision and its reason in a corner of the page. */
  debug?: boolean;
}

export interface Askwhen {
  init(options: Options): void;
  /** Says who the user is; what was asked of the anonymous id before goes over to them. */
  identify(user: string, signature?: string): void;
  /**
   * Asks what to show here, and shows it. `container` shows it there, inline.
   * Gives null when the server could not be asked; never rejects.
   */
  trigger(
    name: string,
    properties?: Record<string, unknown>,
    container?: Element | string | null,
  ): Promise<Decision | null>;
  /** Shows a decision that you have kept back; gives whether it is on the page now. */
  show(decision: Decision, container?: Element | string | null): Promise<boolean>;
  close(): void;
  /** Sends what waits; resolves when nothing waits any more, or it cannot be sent now. */
  flush(): Promise<void>;
  /** Forgets the user: a new anonymous id and session from here on. */
  reset(): void;
  /** Calls as lists, `["trigger", "MainActivity"]`, as the page makes them before the script is there. */
  queue: { push(...calls: unknown[][]): number };
}

declare const askwhen: Askwhen;
export default askwhen;
export declare const init: Askwhen['init'];
export declare const identify: Askwhen['identify'];
export declare const trigger: Askwhen['trigger'];
export declare const show: Askwhen['show'];
export declare const close: Askwhen['close'];
export declare const flush: Askwhen['flush'];
export declare const reset: Askwhen['reset'];
export declare const queue: Askwhen['queue'];
