// Reports about this machine and about a checkpoint, without loading weights.
import { binaryPath, machine, type NativeReport, sharedHost } from "../base/addon.js";
import { options, path } from "../base/check.js";
import { type CudaCard, findCards } from "../base/device.js";
import { isIsrDpoError } from "../base/errors.js";
import { mediaKinds, visualTokens } from "./media-registry.js";
import type { ModelTokenizer } from "../text/model-tokenizer.js";
import { type FfmpegReport, inspectFfmpeg } from "../video/ffmpeg-tools.js";
import type { ModelInfo, Tokenizer, TokenizerOptions } from "../base/types.js";

/** A report about this machine. */
export interface DeviceReport {
  /** Path of the binary in use. */
  binary: string;
  /** Instruction-set level in use, such as "avx2". */
  isa: string;
  /** Number of threads that a model uses by default. */
  threads: number;
  /** Memory that this process may use, in bytes. */
  memoryBytes: number;
  /** Cards that the driver sees; "cuda:0" is the first. */
  cuda: readonly CudaCard[];
  /** The library of products on cards: name, version and file; null: none was found, or none was looked for. */
  cudaLibrary: string | null;
  /** What ranks with cards speak through: name, version and file, or why there is none; null: no card was found. */
  cudaRanksLibrary: string | null;
  /** Why no card can be computed on, and what to do about it; null: one can. */
  cudaProblem: string | null;
  /** What prevents this machine from computing, in words; empty: nothing. */
  problems: readonly string[];
  /** The ffmpeg that reads videos; null: none was found. */
  ffmpeg: FfmpegReport | null;
}

/**
 * Reports about this machine: binary, instructions, memory, cards, ffmpeg. A card's driver is asked in a process of its own.
 * @throws {@link IsrDpoError} BINARY_MISSING: no binary can be loaded
 */
export async function inspectDevice(): Promise<DeviceReport> {
  const m = machine();
  const [ffmpeg, { cards, library, ranksLibrary, problem, hint }] = await Promise.all([inspectFfmpeg(), findCards()]);
  return {
    binary: binaryPath(),
    isa: m.isa ?? m.machineIsa,
    threads: m.threads,
    memoryBytes: m.memoryBytes,
    cuda: cards,
    cudaLibrary: library ?? null,
    cudaRanksLibrary: ranksLibrary ?? null,
    cudaProblem: problem === undefined ? null : hint ? `${problem}; ${hint}` : problem,
    problems: m.problem === undefined ? [] : [m.problem],
    ffmpeg,
  };
}

/** A report about a checkpoint. */
export interface CheckpointReport extends Omit<ModelInfo, "device" | "isa"> {
  /** Files that are read, relative to the folder. */
  files: readonly string[];
  /** The parts of the model, such as decoder and tower. */
  parts: readonly {
    /** Name of the part. */
    name: string;
    /** Number of its parameters. */
    parameters: number;
    /** Types of its tensors in the files. */
    dtypes: readonly string[];
  }[];
  /** Tensors that the model needs and the files lack. */
  missing: readonly string[];
  /** Tensors of the files that the model does not use. */
  unused: readonly string[];
  /** What is unusual, in words: what is read in an unexpected way, and what does not fit together (docs/checkpoints.md). */
  notes: readonly string[];
}

/** What of a tokenizer does not fit its checkpoint's other files. */
function tokenizerNotes(t: ModelTokenizer, r: NativeReport, ends: readonly number[]): string[] {
  const notes: string[] = [];
  const spelled = (id: number) => `${t.piece(id)} (${id})`;
  const beyond = Array.from({ length: Math.max(0, t.vocabSize - r.vocabSize) }, (_, i) => r.vocabSize + i).filter(
    (id) => t.piece(id) !== null,
  );
  if (beyond.length > 0) {
    const shown = beyond.slice(0, 4).map(spelled).join(", ");
    const more = beyond.length > 4 ? ` and ${beyond.length - 4} more` : "";
    notes.push(
      `the tokenizer has ${beyond.length} tokens that the embedding of ${r.vocabSize} rows lacks: ${shown}${more}; a text that holds one is refused`,
    );
  }
  const others = t.template?.others ?? [];
  if (others.length > 0)
    notes.push(
      `of the named chat templates the default is used; not used: ${others.map((name) => JSON.stringify(name)).join(", ")}`,
    );
  if (t.templateFault) notes.push(`${t.templateFault.message}; prompts as ids need no template`);
  if (ends.length === 0) notes.push("no end token in any file: answers end at maxTokens");
  else if (t.endId !== null && !ends.includes(t.endId))
    notes.push(
      `the tokenizer's end token is ${spelled(t.endId)}, at which generation does not stop: it stops at ${ends.map(spelled).join(", ")}`,
    );
  for (const id of ends)
    if (t.piece(id) === null) notes.push(`the end token ${id} is none of the tokenizer's, so that no text can hold it`);
  if (r.vision && !r.vision.original)
    for (const [word, id, used] of [
      ["<image>", r.vision.imageToken, r.vision.image],
      ["<video>", r.vision.videoToken, r.vision.video],
    ] as const) {
      const own = t.tokenId(word);
      if (used && own !== null && own !== id)
        notes.push(`${word} is token ${own} of the tokenizer and ${id} of config.json, which is the one that is used`);
    }
  return notes;
}

async function textNotes(dir: string, r: NativeReport): Promise<{ ends: readonly number[]; notes: string[] }> {
  const { endTokens } = await import("../text/stop-tokens.js");
  const style = !r.vision ? "none" : r.vision.original ? "original" : "expanded";
  const ends = (t: ModelTokenizer | null) => endTokens(t, style, [...r.endTokenIds], r.vocabSize);
  const without = (note: string) => ({ ends: ends(null).ids, notes: [note] });
  try {
    const { loadTokenizer } = await import("../text/tokenizer.js");
    const t = await loadTokenizer(dir);
    const found = ends(t);
    return { ends: found.ids, notes: [...tokenizerNotes(t, r, found.ids), ...found.notes] };
  } catch (e) {
    if (isIsrDpoError(e, "NOT_FOUND")) return without("no tokenizer: only token ids can be given");
    if (isIsrDpoError(e)) return without(`the tokenizer cannot be used: ${e.message}`);
    throw e;
  }
}

/**
 * Reports about a checkpoint: its family and parts, missing and unused tensors, and what is unusual. It reads no weights.
 * @param dir - folder of the checkpoint
 * @throws {@link IsrDpoError} NOT_FOUND, INVALID_CONFIG, CHECKPOINT_UNSUPPORTED, CHECKPOINT_CORRUPT, IO
 */
export async function inspectCheckpoint(dir: string): Promise<CheckpointReport> {
  const r = await sharedHost().call<NativeReport>("inspect", { dir: path("dir", dir) });
  const { ends, notes } = await textNotes(dir, r);
  return {
    family: r.family,
    modelType: r.modelType,
    dtype: r.parts.some((p) => p.dtypes.includes("BF16")) ? "bf16" : "f32",
    parameters: r.parameters,
    trainable: r.parameters,
    contextLength: r.contextLength,
    vocabSize: r.vocabSize,
    endTokenIds: [...ends],
    visualTokens: visualTokens(r),
    adapter: null,
    media: mediaKinds(r),
    files: r.files,
    parts: r.parts,
    missing: r.missing,
    unused: r.unused,
    notes: [...r.notes, ...notes],
  };
}

/**
 * Loads the tokenizer of a checkpoint (tokenizer.json, or tokenizer.model) without its weights.
 * @param dir - folder of the checkpoint
 * @param o - the date that chat templates print
 * @throws {@link IsrDpoError} NOT_FOUND: there is no tokenizer; TOKENIZER: it cannot be used; INVALID_ARGUMENT, IO
 */
export async function loadTokenizer(dir: string, o?: TokenizerOptions): Promise<Tokenizer> {
  const folder = path("dir", dir);
  const { templateDate } = options("options", o, ["templateDate"]) as TokenizerOptions;
  const text = await import("../text/tokenizer.js");
  return text.loadTokenizer(folder, templateDate === undefined ? {} : { templateDate });
}
