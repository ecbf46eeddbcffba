import { h, onMounted, ref, watch, type Ref } from 'vue';
import askwhen from 'askwhen-browser';

export const askwhenPlugin = { install: (_: unknown, options: any) => askwhen.init(options) };

export const useTrigger = (name: string | Ref<string>, properties?: any) =>
  onMounted(() => watch(ref(name), (now) => now && askwhen.trigger(now, properties), { immediate: true }));

export const InlineSurvey = {
  props: ['trigger', 'properties'],
  setup(given: any) {
    const place = ref();
    onMounted(() => askwhen.trigger(given.trigger, given.properties, place.value));
    return () => h('div', { ref: place });
  },
};
