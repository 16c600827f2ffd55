// The text of a generation while it grows: tokens are decoded one by one, the text is cut at the first stop string, and no
// part of a stop string is ever shown.
import type { ModelTokenizer } from "../text/model-tokenizer.js";

/** Length of the longest end of `text` that could still grow into one of `stops`. */
function heldBack(text: string, stops: readonly string[]): number {
  let held = 0;
  for (const stop of stops)
    for (let n = Math.min(stop.length - 1, text.length); n > held; n--)
      if (text.endsWith(stop.slice(0, n))) {
        held = n;
        break;
      }
  return held;
}

export class TextBranch {
  readonly #stream: { push(id: number): string; end(): string };
  readonly #stops: readonly string[];
  readonly #minTokens: number;
  #text = "";
  #shown = 0;
  #tokens = 0;
  /** Tokens up to the one that completed a stop string, once one did. */
  stoppedAfter: number | undefined;

  /** A stop string counts when a token behind the first `minTokens` completes it. */
  constructor(tokenizer: ModelTokenizer, stops: readonly string[], minTokens = 0) {
    this.#stream = tokenizer.stream({ skipSpecial: true });
    this.#stops = stops;
    this.#minTokens = minTokens;
  }

  /** Text without what follows a stop string. */
  get text(): string {
    return this.#text;
  }

  /** Takes a token; gives the text that is now sure. */
  push(id: number): string {
    if (this.stoppedAfter !== undefined) return "";
    this.#tokens += 1;
    return this.#take(this.#stream.push(id), false);
  }

  end(): string {
    return this.stoppedAfter === undefined ? this.#take(this.#stream.end(), true) : "";
  }

  #take(piece: string, last: boolean): string {
    const before = this.#text.length;
    this.#text += piece;
    const from = (stop: string) => this.#text.indexOf(stop, Math.max(0, before - stop.length + 1));
    const counts = this.#tokens > this.#minTokens;
    const matches = counts ? this.#stops.map(from).filter((at) => at >= 0) : [];
    if (matches.length > 0) {
      this.#text = this.#text.slice(0, Math.min(...matches));
      this.stoppedAfter = this.#tokens;
    }
    const sure = matches.length > 0 || last ? this.#text.length : this.#text.length - heldBack(this.#text, this.#stops);
    const fresh = this.#text.slice(this.#shown, Math.max(sure, this.#shown));
    this.#shown = Math.max(sure, this.#shown);
    return fresh;
  }
}
