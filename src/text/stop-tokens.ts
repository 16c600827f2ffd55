// The tokens at which a generation ends: the ids that config.json and generation_config.json name, the tokenizer's eos token,
// and the token that the chat template writes after an answer. The files of a checkpoint often disagree: a chat model's
// template ends turns with a token that the base model's config does not know.
import { templateShape } from "./answer-span.js";
import type { PlaceholderRules } from "./media-prompt.js";
import type { ModelTokenizer } from "./model-tokenizer.js";

export interface EndTokens {
  /** All of them, those of the configs first. */
  ids: readonly number[];
  /** What is unusual about them, for people. */
  notes: readonly string[];
  /** The template's own, where no file names it; null: none. */
  ofTemplate: number | null;
}

/** `named`: the ids of config.json and generation_config.json; `vocabSize`: of the model, which makes no id beyond. */
export function endTokens(
  tokenizer: ModelTokenizer | null,
  style: PlaceholderRules["style"],
  named: readonly number[],
  vocabSize: number,
): EndTokens {
  const ids = [...named];
  const notes: string[] = [];
  const show = (id: number) => `${tokenizer!.piece(id)} (${id})`;
  const add = (id: number | null | undefined): boolean => {
    if (id === null || id === undefined || ids.includes(id) || id >= vocabSize) return false;
    ids.push(id);
    return true;
  };
  if (add(tokenizer?.endId))
    notes.push(
      `end token ${show(tokenizer!.endId!)} of the tokenizer is not among those of config.json and generation_config.json (${named.join(", ") || "none"}): a generation ends there too`,
    );
  const end = tokenizer && templateShape(tokenizer, style)?.end;
  const own = add(end);
  if (own)
    notes.push(
      `the chat template ends an answer with ${show(end!)}, which no file names as an end token: a generation ends there too; other programs need it in generation_config.json (eos_token_id)`,
    );
  return { ids, notes, ofTemplate: own ? end! : null };
}
