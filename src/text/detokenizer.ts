// Turns ids back into text, in pieces or at once: tokens pass a chain of stages one by one, as the `decoder` of a
// tokenizer.json lists them. decode() feeds everything to the same stream, so that the two cannot differ.
import { isObject, type Json, show } from "../base/check.js";
import { tokenizerError } from "./tokenizer-files.js";

type Emit = (token: string) => void;

interface Stage {
  push(token: string, emit: Emit): void;
  end(emit: Emit): void;
}
export type StageFactory = () => Stage;

const each =
  (f: (token: string) => string): StageFactory =>
  () => ({ push: (token, emit) => emit(f(token)), end: () => {} });

/** The 256 characters by which byte-level BPE writes bytes: printable ones stand for themselves. */
export const byteOfCharacter: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let spare = 256;
  for (let b = 0; b < 256; b++) {
    const printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    map.set(String.fromCharCode(printable ? b : spare++), b);
  }
  return map;
})();

/** A token of other characters (an added one) stands for its own UTF-8. */
function bytesOf(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const b = byteOfCharacter.get(token[i]!);
    if (b === undefined) return new TextEncoder().encode(token);
    bytes[i] = b;
  }
  return bytes;
}

/** Byte-level tokens; invalid UTF-8 becomes U+FFFD as the WHATWG decoder has it, U+FEFF stays. */
export const byteLevel: StageFactory = () => {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return {
    push: (token, emit) => emit(decoder.decode(bytesOf(token), { stream: true })),
    end: (emit) => emit(decoder.decode()),
  };
};

const byteToken = /^<0x([0-9A-Fa-f]{2})>$/;

/** Gathers runs of <0xNN> tokens; `text` says what a whole run reads as. */
const byteRuns =
  (text: (run: Uint8Array) => string): StageFactory =>
  () => {
    let run: number[] = [];
    const flush = (emit: Emit) => {
      if (run.length === 0) return;
      emit(text(Uint8Array.from(run)));
      run = [];
    };
    return {
      push(token, emit) {
        const byte = byteToken.exec(token);
        if (byte) return void run.push(Number.parseInt(byte[1]!, 16));
        flush(emit);
        emit(token);
      },
      end: flush,
    };
  };

/** A run that is not UTF-8 as a whole becomes one U+FFFD a byte. */
export const byteFallback = byteRuns((run) => {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(run);
  } catch {
    return "\ufffd".repeat(run.length);
  }
});

/** The length of the valid UTF-8 character at `i`, or 0. */
function characterAt(bytes: Uint8Array, i: number): number {
  const lead = bytes[i]!;
  const length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  if (length === 0 || i + length > bytes.length) return 0;
  for (let k = 1; k < length; k++) if ((bytes[i + k]! & 0xc0) !== 0x80) return 0;
  const second = bytes[i + 1]!;
  if ((lead === 0xe0 && second < 0xa0) || (lead === 0xed && second > 0x9f)) return 0; // overlong, surrogate
  if ((lead === 0xf0 && second < 0x90) || (lead === 0xf4 && second > 0x8f)) return 0; // overlong, above U+10FFFF
  return length;
}

/** SentencePiece keeps the valid characters of a run and gives one U+FFFD for each byte that belongs to none. */
export const sentencePieceBytes = byteRuns((run) => {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let text = "";
  for (let i = 0; i < run.length; ) {
    const n = characterAt(run, i);
    text += n > 0 ? decoder.decode(run.subarray(i, i + n)) : "\ufffd";
    i += Math.max(n, 1);
  }
  return text;
});

export const replace = (from: string, to: string): StageFactory => each((token) => token.replaceAll(from, () => to));

/** In the first token the mark is dropped, elsewhere it is a space. */
const metaspace =
  (mark: string, dropFirst: boolean): StageFactory =>
  () => {
    let first = dropFirst;
    return {
      push(token, emit) {
        emit(token.replaceAll(mark, first ? "" : " "));
        first = false;
      },
      end: () => {},
    };
  };

const spaced: StageFactory = () => {
  let first = true;
  return {
    push(token, emit) {
      emit(first ? token : ` ${token}`);
      first = false;
    },
    end: () => {},
  };
};

/** Up to `start` characters `c` off the front and `stop` off the end of the whole text. */
export const strip =
  (c: string, start: number, stop: number): StageFactory =>
  () => {
    let left = start;
    let held = "";
    return {
      push(token, emit) {
        let text = held + token;
        while (left > 0 && text.startsWith(c)) {
          text = text.slice(c.length);
          left--;
        }
        if (text !== "") left = 0;
        let tail = 0;
        while (tail < stop && text.slice(0, text.length - tail * c.length).endsWith(c)) tail++;
        held = text.slice(text.length - tail * c.length);
        emit(text.slice(0, text.length - tail * c.length));
      },
      end: () => {},
    };
  };

/** The same for every token by itself. */
const stripEach =
  (c: string, start: number, stop: number): StageFactory =>
  () => ({
    push(token, emit) {
      const whole = strip(c, start, stop)();
      whole.push(token, emit);
    },
    end: () => {},
  });

const count = (x: unknown): x is number => Number.isInteger(x) && (x as number) >= 0 && (x as number) <= 64;
const short = (x: unknown): x is string => typeof x === "string" && x.length <= 256;

/** `whole`: an earlier stage has joined the tokens, so that what comes are parts of one text. */
function stageOf(path: string, d: Json, whole: boolean): { stage: StageFactory | null; whole: boolean } {
  const unsupported = () => tokenizerError(path, `decoder: ${show(d.type)} is not supported as it stands there`);
  switch (d.type) {
    case "ByteLevel":
      if (whole) throw unsupported();
      return { stage: byteLevel, whole: true };
    case "ByteFallback":
      if (whole) throw unsupported();
      return { stage: byteFallback, whole };
    case "Fuse":
      return { stage: null, whole: true };
    case "Metaspace": {
      const mark = d.replacement ?? "▁";
      const scheme = d.prepend_scheme ?? (d.add_prefix_space === false ? "never" : "always");
      if (whole || !short(mark) || mark === "") throw unsupported();
      return { stage: metaspace(mark, scheme !== "never"), whole };
    }
    case "Replace": {
      const from = isObject(d.pattern) ? d.pattern.String : undefined;
      if (!short(from) || from === "" || !short(d.content) || (whole && from.length > 1)) throw unsupported();
      return { stage: replace(from, d.content), whole };
    }
    case "Strip":
      if (!short(d.content) || d.content === "" || !count(d.start) || !count(d.stop)) throw unsupported();
      if (whole && d.content.length > 1) throw unsupported();
      return { stage: (whole ? strip : stripEach)(d.content, d.start, d.stop), whole };
    default:
      throw unsupported();
  }
}

/** The stages of a tokenizer.json's `decoder`. */
export function stagesOf(path: string, decoder: unknown): StageFactory[] {
  if (decoder === null || decoder === undefined) return [spaced];
  const stages: StageFactory[] = [];
  let whole = false;
  let parts = 0;
  const add = (d: unknown): void => {
    if (!isObject(d) || ++parts > 32)
      throw tokenizerError(path, `decoder: expected an object with a type, got ${show(d)}`);
    if (d.type === "Sequence") {
      if (!Array.isArray(d.decoders)) throw tokenizerError(path, "decoder.decoders: expected an array");
      for (const inner of d.decoders) add(inner);
      return;
    }
    const next = stageOf(path, d, whole);
    if (next.stage) stages.push(next.stage);
    whole = next.whole;
  };
  add(decoder);
  return stages;
}

export interface TextStream {
  /** The text that this token completes; "" while bytes of a character are missing. */
  push(token: string): string;
  end(): string;
}

export function textStream(factories: readonly StageFactory[]): TextStream {
  const stages = factories.map((make) => make());
  let out = "";
  const feed =
    (i: number): Emit =>
    (token) => {
      if (i === stages.length) out += token;
      else stages[i]!.push(token, feeds[i + 1]!);
    };
  const feeds = Array.from({ length: stages.length + 1 }, (_, i) => feed(i));
  const take = () => {
    const text = out;
    out = "";
    return text;
  };
  return {
    push(token) {
      feeds[0]!(token);
      return take();
    },
    end() {
      stages.forEach((stage, i) => {
        stage.end(feeds[i + 1]!);
      });
      return take();
    },
  };
}
