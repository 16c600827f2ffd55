// Templates with places in braces: "{question}".

const place = /\{([A-Za-z]+)\}/g;

/** The names of a template's places, in order. */
export const placesOf = (template: string): string[] => [...template.matchAll(place)].map(([, name]) => name!);

/** A template with its places filled, in one pass: what is filled in is never taken for a template. */
export const fill = (template: string, values: Readonly<Record<string, string>>): string =>
  template.replace(place, (whole, name: string) => (Object.hasOwn(values, name) ? values[name]! : whole));
