import type { HTMLAttributes, ReactElement } from 'react';
import type { Options } from 'askwhen-browser';

/** Starts the widget once, and again when the key or the user is another. */
export declare function useAskwhen(options: Options): void;
/** Asks when the component is there, and when the name is another; not without a name. */
export declare function useTrigger(name: string | null | undefined, properties?: Record<string, unknown>): void;
/** A `div` in which the survey of this trigger appears, inline. */
export declare function InlineSurvey(
  props: { trigger: string; properties?: Record<string, unknown> } & HTMLAttributes<HTMLDivElement>,
): ReactElement;
