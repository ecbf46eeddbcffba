import type { DefineComponent, Plugin, Ref } from 'vue';
import type { Options } from 'askwhen-browser';

/** `app.use(askwhenPlugin, options)` starts the widget. */
export declare const askwhenPlugin: Plugin<[Options]>;
/** Asks when the component is mounted, and when the name is another. */
export declare function useTrigger(name: string | Ref<string>, properties?: Record<string, unknown>): void;
/** A `div` in which the survey of this trigger appears, inline. */
export declare const InlineSurvey: DefineComponent<{ trigger: string; properties?: Record<string, unknown> }>;
