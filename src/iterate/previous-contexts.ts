// The contexts of an iteration's judge: those of the last iteration, or new ones.
import type { ExportedContext, Records } from "./iteration-exports.js";

/** Contexts as they stand before the iteration. */
export interface Before {
  /** They are written anew. */
  writes: boolean;
  previous: ReadonlyMap<string, string>;
  sha256: string | null;
}

/** A context of no words is none, in the iteration that wrote it and in later ones. */
export const said = (text: string | undefined): string | null => (text?.trim() ? text : null);

/** The contexts that the iteration's judge had: written now, or with `fixed` those of before. */
export function contextsOf(records: Records, { writes, previous }: Before) {
  function* contexts(): Generator<ExportedContext> {
    if (writes)
      for (const { video, text, ids } of records.contexts.values())
        yield { video, text, ids, previous: said(previous.get(video)) };
    else for (const [video, text] of previous) yield { video, text, ids: [], previous: text };
  }
  const textOf = (video: string) => (writes ? records.contexts.get(video)?.text : previous.get(video));
  return { contexts: contexts(), of: (video: string): string | null => textOf(video)?.trim() || null };
}
