// Added tokens in a text, found as the `tokenizers` library finds them: the longest at the leftmost place.
import { show } from "../base/check.js";
import { tokenizerError } from "./tokenizer-files.js";
import { blanksAtEnd, blanksAtStart } from "./pre-tokenizers.js";

export interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
  singleWord: boolean;
}

/**
 * Which token has which id. `take` gives an added token its id: throws TOKENIZER where the token has another one already, or
 * the id is another token's, so that one of the two could never be meant.
 */
export function idsHeld(pieces: Iterable<readonly [content: string, id: number]>) {
  const ids = new Map(pieces);
  const holders = new Map<number, string>();
  for (const [content, id] of ids) holders.set(id, content);
  return {
    take(path: string, at: string, content: string, id: number): void {
      const has = ids.get(content);
      if (has !== undefined && has !== id)
        throw tokenizerError(path, `${at}: ${show(content)}: expected the id ${has}, which it has already, got ${id}`);
      const holder = holders.get(id);
      if (holder !== undefined && holder !== content)
        throw tokenizerError(
          path,
          `${at}: ${show(content)}: expected an id of its own, got ${id}, which is ${show(holder)}`,
        );
      ids.set(content, id);
      holders.set(id, content);
    },
  };
}

/** Parts of a text, [from, to), in order, in which special tokens are words. */
export type Literal = readonly (readonly [from: number, to: number])[];

/** Characters compared in vain between two pauses. */
const slice = 1 << 15;

interface Node {
  next: Map<string, Node>;
  token?: AddedToken;
}

export interface Found {
  token: AddedToken;
  from: number;
  to: number;
}

const endsWithWord = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d]$/u;
const startsWithWord = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d]/u;

export class TokenFinder {
  private readonly root: Node = { next: new Map() };
  private readonly begin: RegExp | null;

  /** `spelled`: how each token is written in the texts that are searched; of two that are written alike the first is found. */
  constructor(tokens: Iterable<readonly [spelled: string, token: AddedToken]>) {
    const first = new Set<string>();
    for (const [spelled, token] of tokens) {
      if (spelled === "") continue;
      let node = this.root;
      for (const unit of spelled.split("")) {
        if (!node.next.has(unit)) node.next.set(unit, { next: new Map() });
        node = node.next.get(unit)!;
      }
      node.token ??= token;
      first.add(spelled[0]!);
    }
    const units = [...first].map((c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
    this.begin = units.length === 0 ? null : new RegExp(`[${units.join("")}]`, "g");
  }

  /** `looked`: how many characters were compared. */
  private longestAt(text: string, at: number): { found: { token: AddedToken; to: number } | null; looked: number } {
    let node: Node | undefined = this.root;
    let found: { token: AddedToken; to: number } | null = null;
    let i = at;
    for (; i < text.length; i++) {
      node = node.next.get(text[i]!);
      if (!node) break;
      if (node.token) found = { token: node.token, to: i + 1 };
    }
    return { found, looked: i - at };
  }

  /** Tokens with the blanks that they take along. `taken` false: a match that stays a word, and is passed over. */
  *find(text: string, taken: (found: Found) => boolean): Generator<Found> {
    if (!this.begin) return;
    let done = 0; // everything before this index has been yielded
    let looked = 0; // characters since the last pause
    for (let at = 0; ; ) {
      this.begin.lastIndex = at;
      const begin = this.begin.exec(text);
      if (!begin) return;
      const { found, looked: here } = this.longestAt(text, begin.index);
      at = found ? found.to : begin.index + 1;
      if (found) {
        const whole = stripped(text, { token: found.token, from: begin.index, to: found.to }, done, taken);
        if (whole) {
          yield whole;
          done = whole.to; // a token that begins among the blanks which this one takes along is found too
          looked = 0;
          continue;
        }
      }
      looked += here;
      if (looked < slice) continue;
      looked = 0;
      yield { token: none, from: done, to: done };
    }
  }
}

/** Yielded as a place to pause: it is no token. */
export const none: AddedToken = {
  id: -1,
  content: "",
  special: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  singleWord: false,
};

function stripped(text: string, found: Found, done: number, taken: (found: Found) => boolean): Found | null {
  const { token, from, to } = found;
  if (!taken(found)) return null;
  if (token.singleWord) {
    const before = text.slice(Math.max(0, from - 2), from);
    if (endsWithWord.test(before) || startsWithWord.test(text.slice(to, to + 2))) return null;
  }
  const left = token.lstrip ? blanksAtEnd(text.slice(done, from)) : 0;
  const right = token.rstrip ? blanksAtStart(text.slice(to)) : 0;
  const begin = token.lstrip ? Math.max(from - left, done) : from;
  return begin < to + right ? { token, from: begin, to: to + right } : null;
}

/** Whether [from, to) touches one of the parts. */
export function touches(literal: Literal, from: number, to: number): boolean {
  let [low, high] = [0, literal.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (literal[middle]![1] <= from) low = middle + 1;
    else high = middle;
  }
  return low < literal.length && literal[low]![0] < to;
}
