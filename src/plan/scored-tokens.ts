// The number of scored tokens in the first rows of a training run, which are read as the run reads them, without the weights.
import { asyncDispose } from "../base/addon.js";
import { isIsrDpoError } from "../base/errors.js";
import { outlineModel } from "../model/model.js";
import { measure } from "../train/load-dataset.js";
import type { PlanSettings } from "./plan-settings.js";

/** The tokens that the loss is computed on, counted in the first rows that would be trained on. */
export interface ScoredTokens {
  /** Number of rows that were read: 1,000, or all if there are fewer. */
  rows: number;
  /** Number of their scored tokens; for a pair, those of both answers. */
  tokens: number;
}

const measured = 1000; // rows: enough to show what is scored, and read in a moment

/**
 * null where no rows are read, and with a note where the checkpoint's files are not all there. Throws what the run would throw
 * for a bad row among the first.
 */
export async function scoredTokens(s: PlanSettings, notes: string[]): Promise<ScoredTokens | null> {
  const { reads } = s;
  if (reads.kind !== "train" || reads.rows === null || s.memory !== undefined) return null;
  const unknown = (why: string) => {
    notes.push(`how many tokens are scored is not known: ${why}`);
    return null;
  };
  if (reads.rows.towerElsewhere) return unknown("the vision tower stands in another folder");
  const model = await outlineModel(s.model).catch((e) => {
    if (isIsrDpoError(e)) return e.message;
    throw e;
  });
  if (typeof model === "string") return unknown(model);
  try {
    const { data, videos } = reads.files;
    const kind = s.kind === "sft" ? "sft" : "dpo";
    const found = await measure({ ...reads.rows, kind, model, data: data!, videos }, measured);
    return { rows: found.items, tokens: found.scoredTokens };
  } catch (e) {
    if (isIsrDpoError(e, "TOKENIZER")) return unknown(e.message);
    throw e;
  } finally {
    await model[asyncDispose]();
  }
}
