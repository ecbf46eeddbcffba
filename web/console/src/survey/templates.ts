export const TEMPLATES: { id: string; title: string; about: string }[] = [];
