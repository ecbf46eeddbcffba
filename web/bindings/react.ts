import { createElement, useEffect, useRef } from 'react';
import askwhen from 'askwhen-browser';

export const useAskwhen = (options: any) =>
  useEffect(() => askwhen.init(options), [options.key, options.user, options.signature]);

export const useTrigger = (name: string | null | undefined, properties?: any) =>
  useEffect(() => void (name && askwhen.trigger(name, properties)), [name]);

export const InlineSurvey = ({ trigger, properties, ...rest }: any) => {
  const place = useRef(null);
  useEffect(() => void askwhen.trigger(trigger, properties, place.current), [trigger]);
  return createElement('div', { ref: place, ...rest });
};
