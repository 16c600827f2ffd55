// Normalizers and pre-tokenizers of a tokenizer.json, as the `tokenizers` library runs them. @huggingface/tokenizers rewrites
// the patterns for JavaScript; they are applied here.
import { byteOfCharacter } from "./detokenizer.js";
import type { Json } from "../base/check.js";
import { foldedPattern } from "./case-folding.js";
import { normalForm } from "./unicode-normal-form.js";
import type { Steps } from "./pausable.js";

/** What of @huggingface/tokenizers is used. */
export interface PatternLibrary {
  SplitPreTokenizer: new (config: Json) => { pattern: RegExp };
}

export type Normalize = (text: string) => Steps<string>;
/** `first`: the text is the beginning of all that is encoded. An empty piece is a place to pause. */
export type PreTokenize = (text: string, first: boolean) => Iterable<string>;

const blank = "\\p{White_Space}";
const startBlanks = new RegExp(`^${blank}+`, "u");

/** Without the blanks at its end; a regex would be quadratic. */
function stripEnd(text: string): string {
  let end = text.length;
  while (end > 0 && isBlank(text[end - 1]!)) end--;
  return text.slice(0, end);
}
const blanks = new Set(
  Array.from({ length: 0x3001 }, (_, i) => String.fromCharCode(i)).filter((c) => /\p{White_Space}/u.test(c)),
);
const isBlank = (c: string) => blanks.has(c);
/** What a pause may wait for: characters that are copied, or matches that give no piece. */
const slice = 1 << 14;

/** The text with every match replaced by `content` as it stands. */
function* replaced(text: string, pattern: RegExp, content: string): Steps<string> {
  const done: string[] = [];
  let parts: string[] = [];
  let at = 0;
  for (const m of text.matchAll(pattern)) {
    parts.push(text.slice(at, m.index), content);
    at = m.index + m[0].length;
    if (parts.length < slice) continue;
    done.push(parts.join(""));
    parts = [];
    yield;
  }
  return [...done, ...parts, text.slice(at)].join("");
}

export const blanksAtStart = (text: string): number => startBlanks.exec(text)?.[0].length ?? 0;
export const blanksAtEnd = (text: string): number => text.length - stripEnd(text).length;

/** The library maps characters one by one: no final sigma. */
const lowercase = (text: string) =>
  text
    .split("\u03a3")
    .map((part) => part.toLowerCase())
    .join("\u03c3");

function patternOf(library: PatternLibrary, given: Json): RegExp {
  const pattern = typeof given.Regex === "string" ? { Regex: foldedPattern(given.Regex) } : given;
  return new library.SplitPreTokenizer({ type: "Split", pattern, behavior: "Isolated", invert: true }).pattern;
}

export function normalizerOf(library: PatternLibrary, n: Json | null): Normalize | null {
  if (n === null) return null;
  if (n.type === "Sequence") {
    const all = (n.normalizers as Json[]).map((x) => normalizerOf(library, x)!);
    return function* (text) {
      let out = text;
      for (const f of all) out = yield* f(out);
      return out;
    };
  }
  if (/^NFK?[CD]$/.test(n.type as string)) return (text) => normalForm(text, n.type as string);
  if (n.type === "Replace") {
    const pattern = patternOf(library, n.pattern as Json);
    return (text) => replaced(text, pattern, n.content as string);
  }
  if (n.type === "StripAccents") return (text) => replaced(text, /\p{M}+/gu, "");
  const change = changeOf(n);
  // biome-ignore lint/correctness/useYield: what is done at once has no place to pause
  return function* (text) {
    return change(text);
  };
}

/** Normalizers whose time is next to nothing. */
function changeOf(n: Json): (text: string) => string {
  switch (n.type) {
    case "Prepend":
      return (text) => (text === "" ? "" : (n.prepend as string) + text);
    case "Lowercase":
      return lowercase;
    default:
      return (text) => {
        const end = n.strip_right ? stripEnd(text) : text;
        return n.strip_left ? end.slice(blanksAtStart(end)) : end;
      };
  }
}

interface Cut {
  text: string;
  match: boolean;
}

function* cuts(text: string, pattern: RegExp): Generator<Cut> {
  pattern.lastIndex = 0;
  let at = 0;
  for (const m of text.matchAll(pattern)) {
    if (m[0] === "") continue;
    if (m.index > at) yield { text: text.slice(at, m.index), match: false };
    yield { text: m[0], match: true };
    at = m.index + m[0].length;
  }
  if (at < text.length) yield { text: text.slice(at), match: false };
}

/** Texts that `behavior` makes of matches and of what lies between them. */
function* split(text: string, pattern: RegExp, behavior: string, invert: boolean): Generator<string> {
  let held: Cut | null = null;
  let count = 0;
  for (const cut of cuts(text, pattern)) {
    if (++count % slice === 0) yield "";
    const match = cut.match !== invert;
    if (behavior === "Removed" || behavior === "Isolated") {
      if (!(match && behavior === "Removed")) yield cut.text;
      continue;
    }
    const joins: boolean =
      held !== null &&
      (behavior === "Contiguous"
        ? held.match === match
        : behavior === "MergedWithPrevious"
          ? match && !held.match
          : held.match && !match);
    if (joins) held = { text: held!.text + cut.text, match };
    else {
      if (held) yield held.text;
      held = { text: cut.text, match };
    }
  }
  if (held) yield held.text;
}

const characterOfByte: readonly string[] = (() => {
  const characters: string[] = [];
  for (const [c, b] of byteOfCharacter) characters[b] = c;
  return characters;
})();
const codeOfByte = Uint16Array.from(characterOfByte, (c) => c.charCodeAt(0));
const encoder = new TextEncoder();
/** Up to so many bytes a string grows by characters; a longer one would be a rope of as many parts, slow to read. */
const shortWord = 256;

/** The text with a character for each of its bytes, behind places to pause. */
function* byteText(text: string): Generator<string> {
  const bytes = encoder.encode(text);
  if (bytes.length <= shortWord) {
    let word = "";
    for (const b of bytes) word += characterOfByte[b]!;
    yield word;
    return;
  }
  const units = new Uint16Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) {
    if (i % slice === slice - 1) yield "";
    units[i] = codeOfByte[bytes[i]!]!;
  }
  yield new TextDecoder("utf-16le", { ignoreBOM: true }).decode(units);
}

const gpt2 =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const word = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200c\\u200d";
const words = new RegExp(`[${word}]+|[^${word}${blank}]+`, "gu");
const punctuation = /[\p{P}$+<=>^`|~]/gu;

function metaspace(p: Json): PreTokenize {
  const mark = (p.replacement as string) ?? "▁";
  const scheme = p.prepend_scheme ?? (p.add_prefix_space === false ? "never" : "always");
  return function* (text, first) {
    const steps = replaced(text, / /g, mark);
    let next = steps.next();
    for (; !next.done; next = steps.next()) yield "";
    const marked = next.value;
    const prepend = !marked.startsWith(mark) && (scheme === "always" || (scheme === "first" && first));
    const whole = prepend ? mark + marked : marked;
    if (p.split === false) yield whole;
    else yield* beforeMarks(whole, mark);
  };
}

/** Cut in front of every mark. */
function* beforeMarks(text: string, mark: string): Generator<string> {
  for (let at = 0; at < text.length; ) {
    const next = text.indexOf(mark, at + 1);
    const end = next < 0 ? text.length : next;
    yield text.slice(at, end);
    at = end;
  }
}

export function preTokenizerOf(library: PatternLibrary, p: Json | null): PreTokenize {
  if (p === null) return (text) => [text];
  switch (p.type) {
    case "Sequence": {
      const all = (p.pretokenizers as Json[]).map((x) => preTokenizerOf(library, x));
      return (text, first) => all.reduce<Iterable<string>>((pieces, f) => each(pieces, f, first && text), [text]);
    }
    case "ByteLevel":
      return function* (text) {
        const spaced = p.add_prefix_space === true && !text.startsWith(" ") ? ` ${text}` : text;
        if (p.use_regex === false) yield* byteText(spaced);
        else for (const cut of cuts(spaced, new RegExp(gpt2))) yield* byteText(cut.text);
      };
    case "Split": {
      const pattern = patternOf(library, p.pattern as Json);
      return (text) => split(text, new RegExp(pattern), p.behavior as string, p.invert === true);
    }
    case "Digits":
      return (text) =>
        p.individual_digits ? split(text, /\p{N}/gu, "Isolated", false) : split(text, /\p{N}/gu, "Contiguous", false);
    case "Punctuation":
      return (text) => split(text, new RegExp(punctuation), (p.behavior as string) ?? "Isolated", false);
    case "Whitespace":
      return (text) => split(text, new RegExp(words), "Removed", true);
    case "WhitespaceSplit":
      return (text) => split(text, new RegExp(blank, "gu"), "Removed", false);
    default:
      return metaspace(p);
  }
}

/** `whole`: the text at the beginning of all that is encoded; only a piece that still begins it is the first one. */
function* each(pieces: Iterable<string>, f: PreTokenize, whole: string | false): Generator<string> {
  let begins = whole !== false;
  for (const piece of pieces) {
    if (piece === "") {
      yield piece;
      continue;
    }
    yield* f(piece, begins && (whole as string).startsWith(piece));
    begins = false;
  }
}
