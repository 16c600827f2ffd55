// Bytes of memory of one rank, from the engine's sizes.
import type { NativePlan } from "../base/addon.js";
import type { Plan } from "./plan-result.js";
import type { PlanSettings } from "./plan-settings.js";

/** Items of a step that one rank has. */
export const stepItems = (s: PlanSettings): number => Math.min(s.items, Math.ceil(s.itemsPerStep / s.ranks));

type Memory = Omit<Plan["bytes"], "disk">;

const page = 64; // tokens
const f32 = 4;
const exchanged = 1 << 22; // elements of a shard whose gradients ranks exchange at once (native/train/reduction.cc)
const headChunk = 4096; // of the vocabulary: logits are never whole
/** Node with this package loaded, its tokenizer, and the engine's buffers for reading and writing files; measured. */
const processBytes = 160 << 20;
const threadBytes = 4 << 20; // of each thread: a stack, and staging while loading
/** The context of a CUDA device and its libraries' workspace. */
const cardBytes = 640 << 20;

/** Keys and values of the videos of a group: each prompt once, and a page begun for every branch. */
function kvCache(facts: NativePlan, s: PlanSettings): number {
  const it = s.iteration;
  if (!it) return 0;
  const pages = (tokens: number) => Math.ceil(tokens / page) + 1; // a branch never shares the page that it begins in
  const prompt = facts.tokens - 2 * facts.answerTokens;
  const judge = it.judged * pages(2 * it.responseTokens + it.contextTokens);
  const context = it.contextTokens > 0 ? pages(it.contextTokens) : 0;
  return it.groupVideos * (pages(prompt) + context + 2 * pages(it.responseTokens) + judge) * facts.kvPage;
}

function gradients(facts: NativePlan, s: PlanSettings): number {
  const shard = Math.ceil(facts.largestGroup / s.ranks);
  const piece = Math.min(exchanged, shard);
  const arriving = (s.ranks - 1) * 2 * Math.ceil(shard / piece) * piece;
  const parts = s.ranks > 1 && s.trainer.shardGradients ? facts.blockElements : 0;
  const turns = parts > 0 ? 2 * facts.largestBlock : 0;
  return (facts.trainedElements - parts + Math.ceil(parts / s.ranks) + turns + arriving) * f32;
}

/**
 * On a CPU weights are panels and, of what trains or passes a gradient on, row-major values. On a card they are one
 * row-major copy. Gradients are float32, and whole on every rank, or (`shardGradients`) shared out, but for two blocks' in turn; beside them
 * is room for what two shards get from each other rank. Masters and moments are float32 and shared out over the ranks, and then no float32
 * value is its own master.
 */
export function bytesOf(facts: NativePlan, s: PlanSettings): Memory {
  const { decoder, vision } = facts;
  const weights = (p: typeof decoder) => (s.card ? p.rowMajor : p.panels + p.rows);
  const whole = facts.trainedElements * f32;
  const shared = s.ranks > 1 && s.trainer.shard;
  const scored = facts.microBatchItems * (s.kind === "sft" ? 1 : 2) * facts.answerTokens;
  return {
    weights: weights(decoder) + (shared && facts.dtype === "f32" && !s.card ? whole : 0),
    gradients: gradients(facts, s),
    optimizer: 3 * (shared ? Math.ceil(facts.trainedElements / s.ranks) * f32 : whole),
    activations: facts.activations + (facts.deviceMeasured ? facts.scratch : scored * headChunk * f32),
    kvCache: kvCache(facts, s),
    vision: weights(vision) + facts.media * Math.min(s.items, 2 * stepItems(s)), // the next step's are opened meanwhile
    runtime: s.card ? cardBytes : processBytes + (s.threads || facts.threads) * threadBytes,
  };
}

/** The most at one time: keys and values are gone when the trainer comes. */
export const memoryOf = (b: Memory): number =>
  b.weights + b.activations + b.vision + b.runtime + Math.max(b.kvCache, b.gradients + b.optimizer);

export const sizeText = (bytes: number): string =>
  bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
