// Unicode's normal forms in linear time. String.normalize() orders combining marks by walking back for each of them, so that a
// megabyte of marks in the wrong order would block the process for minutes. Long runs of marks are ordered here first.
import type { Steps } from "./pausable.js";

/** Marks that are put in order between two pauses. */
const slice = 4096;

/** Marks in a row below which walking back costs nothing. */
const longRun = /\p{M}{64,}/gu;

/** Whether normalising moves a mark that stands behind another one in front of it: its combining class is lower. */
function passes(mark: string, other: string): boolean {
  const text = `a${other}${mark}`;
  return text.normalize("NFD") !== text;
}

/** U+0345 has the highest class of all: every mark that has one passes it. */
const highest = "\u0345";

let known: ReadonlyMap<string, number> | undefined;

/** The place of each mark's combining class among the classes. Marks without one are not moved, and none pass them. */
function classes(): ReadonlyMap<string, number> {
  if (known) return known;
  const marks: string[] = [];
  for (let code = 0x300; code < 0x20000; code++) {
    const c = String.fromCodePoint(code);
    if (!/\p{M}/u.test(c) || c.normalize("NFD") !== c) continue;
    if (c === highest || passes(c, highest)) marks.push(c);
  }
  marks.sort((a, b) => (passes(a, b) ? -1 : passes(b, a) ? 1 : 0));
  const places = new Map<string, number>();
  let place = 0;
  marks.forEach((c, i) => {
    if (i > 0 && passes(marks[i - 1]!, c)) place++;
    places.set(c, place);
  });
  known = places;
  return places;
}

/** A text that grows by characters and is joined as it grows: joining all of them at the end would take its time at once. */
class Growing {
  private readonly joined: string[] = [];
  private open: string[] = [];

  push(c: string): void {
    if (this.open.push(c) === slice) this.joined.push(this.taken());
  }

  private taken(): string {
    const text = this.open.join("");
    this.open = [];
    return text;
  }

  parts(): readonly string[] {
    return [...this.joined, this.taken()];
  }
}

/** Marks decomposed, and in order of their classes; those of one class stay in the order they have. */
function* inOrder(run: string, form: "NFD" | "NFKD"): Steps<string> {
  const places = classes();
  const out = new Growing();
  const buckets: Growing[] = [];
  const flush = () => {
    for (const bucket of buckets) for (const part of bucket?.parts() ?? []) out.push(part);
    buckets.length = 0;
  };
  const decomposed = new Map<string, string>();
  let count = 0;
  for (const given of run) {
    if (++count % slice === 0) yield;
    if (!decomposed.has(given)) decomposed.set(given, given.normalize(form));
    for (const c of decomposed.get(given)!) {
      const place = places.get(c);
      if (place === undefined) {
        flush();
        out.push(c);
        continue;
      }
      buckets[place] ??= new Growing();
      buckets[place]!.push(c);
    }
  }
  flush();
  return out.parts().join("");
}

/** `form`: NFC, NFD, NFKC or NFKD. */
export function* normalForm(text: string, form: string): Steps<string> {
  const parts: string[] = [];
  let at = 0;
  for (const { 0: run, index } of text.matchAll(longRun)) {
    parts.push(text.slice(at, index), yield* inOrder(run, form.startsWith("NFK") ? "NFKD" : "NFD"));
    at = index + run.length;
  }
  parts.push(text.slice(at));
  yield;
  return parts.join("").normalize(form);
}
