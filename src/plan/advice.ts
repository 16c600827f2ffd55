// Changes that would help if a run does not fit: each change is planned like the run itself, and reported with its effect.
import type { NativePlan } from "../base/addon.js";
import type { Plan } from "./plan-result.js";
import { bytesOf, memoryOf, sizeText } from "./byte-sizes.js";
import { diskOf } from "./disk-space.js";
import { outline } from "./measure.js";
import type { PlanSettings } from "./plan-settings.js";
import { usualAdapter } from "../train/trainer-options.js";

interface Change {
  text: string;
  /** Null where it changes nothing. */
  apply(s: PlanSettings, facts: NativePlan): PlanSettings | null;
}

const trainer = (s: PlanSettings, o: Partial<PlanSettings["trainer"]>): PlanSettings => ({
  ...s,
  trainer: { ...s.trainer, ...o },
});

const withSharedGradients = (s: PlanSettings): PlanSettings | null =>
  s.trainer.shard && s.trainer.trainDecoder && !s.trainer.shardGradients ? trainer(s, { shardGradients: true }) : null;

/** Changes of speed and numbers first; those of what is learnt last. */
const changes: readonly Change[] = [
  {
    text: "checkpointing: true",
    apply: (s, f) => (f.checkpointing ? null : trainer(s, { checkpointing: 1 })),
  },
  {
    text: "microBatchTokens of one item",
    apply: (s, f) => (f.microBatchItems === 1 ? null : trainer(s, { microBatchTokens: f.tokens })),
  },
  {
    text: "shardGradients: true",
    apply: (s) => (s.ranks > 1 ? withSharedGradients(s) : null),
  },
  { text: "dtype: bf16", apply: (s, f) => (f.dtype === "bf16" ? null : { ...s, dtype: "bf16" }) },
  {
    text: "train.vision: false (freeze the tower)",
    apply: (s) =>
      s.trainer.trainVision && (s.trainer.trainDecoder || s.trainer.trainProjector)
        ? trainer(s, { trainVision: false })
        : null,
  },
  {
    text: "lora: {} (train adapters in place of the decoder)",
    apply: (s) =>
      s.trainer.trainDecoder && !s.trainer.lora
        ? trainer(s, { trainVision: false, trainProjector: false, lora: usualAdapter })
        : null,
  },
  {
    text: "train: { decoder: false, projector: true } (freeze the decoder)",
    apply: (s, f) =>
      s.trainer.trainDecoder && !s.trainer.lora && f.mediaTokens > 0
        ? trainer(s, { trainDecoder: false, trainVision: false, trainProjector: true })
        : null,
  },
];
const harmless = 5; // of them, leading: they may be taken together

const mostRanks = 1024;

async function needOf(s: PlanSettings): Promise<number> {
  return memoryOf(bytesOf(await outline(s, false), s));
}

/** The smallest number of ranks, each with `memory` of its own, that fits; undefined where none does. */
function ranksFor(facts: NativePlan, s: PlanSettings, memory: number): { ranks: number; need: number } | undefined {
  for (let ranks = s.ranks + 1; ranks <= mostRanks; ranks++) {
    const need = memoryOf(bytesOf(facts, { ...s, ranks }));
    if (need <= memory) return { ranks, need };
  }
  return undefined;
}

async function memoryAdvice(facts: NativePlan, s: PlanSettings, memory: number): Promise<string[]> {
  const verdict = (need: number) =>
    `${sizeText(need)} of ${sizeText(memory)}${need <= memory ? ": fits" : ", still too much"}`;
  const lines: string[] = [];
  let together = s;
  const taken: string[] = [];
  let enough = false;
  for (const [i, change] of changes.entries()) {
    const changed = change.apply(s, facts);
    if (!changed) continue;
    const need = await needOf(changed);
    enough ||= need <= memory && i < harmless;
    lines.push(`${change.text}: ${verdict(need)}`);
    if (i >= harmless) continue;
    together = change.apply(together, facts) ?? together;
    taken.push(change.text);
  }
  if (!enough && taken.length > 1) lines.push(`${taken.join(" and ")}: ${verdict(await needOf(together))}`);
  const ofRanks = (found: { ranks: number; need: number }, also = "") =>
    `ranks: ${found.ranks}${also}, each with ${sizeText(memory)}: ${sizeText(found.need)} per rank: fits`;
  const more = ranksFor(facts, s, memory);
  if (more) lines.push(ofRanks(more));
  const shared = withSharedGradients(s);
  const fewer = shared && ranksFor(facts, shared, memory);
  if (fewer && fewer.ranks < (more?.ranks ?? Infinity)) lines.push(ofRanks(fewer, " with shardGradients: true"));
  return lines;
}

function diskAdvice(facts: NativePlan, s: PlanSettings, disk: number): string[] {
  const { most } = diskOf(facts, s);
  const verdict = (o: PlanSettings) => {
    const need = diskOf(facts, o).most;
    return `${sizeText(need)} of ${sizeText(disk)}${need <= disk ? ": fits" : ", still too much"}`;
  };
  const lines = [`free ${sizeText(most - disk)} where the run folder will be, or put it elsewhere`];
  if (facts.mediaTokens > 0 && s.featureCache && !s.trainer.trainVision)
    lines.push(`no feature cache (features: false): ${verdict({ ...s, featureCache: false })}`);
  if (s.iteration && s.iteration.kept > 1)
    lines.push(`keep: last: ${verdict({ ...s, iteration: { ...s.iteration, kept: 1 } })}`);
  return lines;
}

export async function adviceFor(facts: NativePlan, s: PlanSettings, limit: Plan["limit"]): Promise<string[]> {
  const need = memoryOf(bytesOf(facts, s));
  const memory = need > limit.memory ? await memoryAdvice(facts, s, limit.memory) : [];
  return [...memory, ...(diskOf(facts, s).most > limit.disk ? diskAdvice(facts, s, limit.disk) : [])];
}
