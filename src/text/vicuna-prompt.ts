// The Vicuna v1 prompt of the LLaVA code line (Video-LLaVA, LLaVA-Hound, ISR-DPO), which has no template file:
//   SYSTEM USER: <video>\nquestion ASSISTANT: answer</s>USER: ...
// Text between placeholders is cut into tokens piece by piece, each as a text of its own.
import { IsrDpoError } from "../base/errors.js";
import { type LateMask, markedTurns, maskOf, sharedLength, type Turns, withMask } from "./conversation.js";
import type { Steps } from "./pausable.js";
import type { ModelTokenizer } from "./model-tokenizer.js";

export const vicunaSystem =
  "A chat between a curious user and an artificial intelligence assistant. " +
  "The assistant gives helpful, detailed, and polite answers to the user's questions.";

export const vicunaEnd = "</s>";

/** Text, the (negative) id of one placeholder, or somebody's words, in which special tokens are words too. */
export type Segment = string | number | { words: string };

export interface VicunaTurn {
  role: "user" | "assistant";
  content: readonly Segment[];
}

/** Segments of a conversation; `open`: a last user turn is followed by what opens the assistant's. `system` "": none. */
export function vicunaSegments(turns: readonly VicunaTurn[], open: boolean, system: Segment = vicunaSystem): Segment[] {
  const segments: Segment[] = system === "" ? [] : [system, " "];
  turns.forEach(({ role, content }, i) => {
    if (role === "assistant") segments.push(" ", ...content, vicunaEnd);
    else segments.push("USER: ", ...content, open || i + 1 < turns.length ? " ASSISTANT:" : " ");
  });
  return segments;
}

const textOf = (s: string | { words: string }) => (typeof s === "string" ? s : s.words);

/** Each run of text by itself with bos, of which the first alone is kept; placeholders in between. */
export function* encodeSegments(tokenizer: ModelTokenizer, segments: readonly Segment[]): Steps<Int32Array> {
  const empty = () => ({ text: "", literal: [] as [number, number][] });
  const chunks: (ReturnType<typeof empty> | number)[] = [empty()];
  for (const s of segments) {
    if (typeof s === "number") {
      chunks.push(s, empty());
      continue;
    }
    const last = chunks.at(-1) as ReturnType<typeof empty>; // a number is followed by a text
    if (typeof s === "object") last.literal.push([last.text.length, last.text.length + s.words.length]);
    last.text += textOf(s);
  }
  const ids: number[] = [];
  for (const [i, chunk] of chunks.entries()) {
    if (typeof chunk === "number") {
      ids.push(chunk);
      continue;
    }
    const own = yield* tokenizer.encodeSteps(chunk.text, { literal: chunk.literal });
    const bos = own.length > 0 && own[0] === tokenizer.bosId;
    for (const id of bos && i > 0 ? own.subarray(1) : own) ids.push(id);
  }
  return Int32Array.from(ids);
}

export interface VicunaPrompt extends LateMask {
  text: string;
  ids: Int32Array;
}

/** `spell`: how the text shows a placeholder; `generate`: open the assistant's turn; `turns`: whose tokens are marked. */
export function* vicunaPrompt(
  tokenizer: ModelTokenizer,
  turns: readonly VicunaTurn[],
  o: {
    generate: boolean;
    turns: Turns;
    spell: (id: number) => string;
    system?: Segment | undefined;
    fits?: ((fewest: number) => void) | undefined;
  },
): Steps<VicunaPrompt> {
  if (tokenizer.tokenId(vicunaEnd) === null)
    throw new IsrDpoError("TOKENIZER", `expected a tokenizer with the token ${vicunaEnd}, got one without`, {
      hint: "the Vicuna prompt is for Llama tokenizers; take the tokenizer of the checkpoint",
    });
  const segments = vicunaSegments(turns, o.generate, o.system);
  const text = segments.map((s) => (typeof s === "number" ? o.spell(s) : textOf(s))).join("");
  o.fits?.(tokenizer.fewest(text));
  const ids = yield* encodeSegments(tokenizer, segments);
  const until = function* (count: number): Steps<{ shared: number; own: number }> {
    if (count === turns.length && !o.generate) return { shared: ids.length, own: ids.length };
    const own = yield* encodeSegments(tokenizer, vicunaSegments(turns.slice(0, count), true, o.system));
    return { shared: sharedLength(ids, own), own: own.length };
  };
  return withMask({ text, ids }, () =>
    maskOf(ids.length, markedTurns(turns, o.turns), function* (i) {
      const { shared: from, own } = yield* until(i);
      return { from, own, to: (yield* until(i + 1)).shared };
    }),
  );
}
