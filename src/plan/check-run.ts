// The refusals of a plan: files and folders that the run would read, prompts that do not fit, a learning rate that is always
// 0. These are the checks of the run itself (src/iterate/check-inputs.ts, src/iterate/preflight.ts), without the weights.
import { existsSync } from "node:fs";
import { asyncDispose } from "../base/addon.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { lookRuleOf } from "../iterate/frame-policy.js";
import { unusedSettings } from "../iterate/iteration-settings.js";
import { proveWindow } from "../iterate/preflight.js";
import { builtIn, type Prompts, readPrompts, unusedPrompts } from "../iterate/method-prompts.js";
import { proveInputs, provePlannedRate } from "../iterate/check-inputs.js";
import { outlineModel } from "../model/model.js";
import { stepPlan } from "../train/item-order.js";
import { proveRate } from "../train/learning-rate.js";
import { unusedTrainerOptions } from "../train/unused-options.js";
import type { PlanSettings, Reads } from "./plan-settings.js";

const never = new AbortController().signal;

type RunReads = Extract<Reads, { kind: "run" }>;

/** The judge's endpoint as the run would make it; nothing is sent. */
async function proveJudge({ settings: { judge } }: RunReads): Promise<void> {
  if (judge.kind !== "openai") return;
  const { openaiJudge } = await import("../judge/openai-judge.js");
  openaiJudge({ ...judge.endpoint! });
}

/** The prompts that the run will ask with. */
async function promptsOfRun({ settings, prompts }: RunReads): Promise<Prompts> {
  const own = builtIn(settings.preset);
  return prompts ?? (settings.prompts === undefined ? own : await readPrompts(settings.prompts, own));
}

/** Texts that nobody will be asked with, and whether the longest prompts fit. A note where the checkpoint's files are not all there to say it. */
async function proveBudgets(s: PlanSettings, reads: RunReads): Promise<string[]> {
  const { settings, samples } = reads;
  const prompts = await promptsOfRun(reads);
  const { design } = settings.context;
  const unused = unusedPrompts(prompts, builtIn(settings.preset), design === "none", false);
  return [...unused, ...(await proveLengths(s, settings, samples, prompts))];
}

async function proveLengths(
  s: PlanSettings,
  settings: RunReads["settings"],
  samples: RunReads["samples"],
  prompts: Prompts,
): Promise<string[]> {
  const unproven = (why: string) => [`whether the prompts fit into the context window is not proven: ${why}`];
  if (settings.load.visionTower !== undefined) return unproven("the vision tower stands in another folder");
  const outlined = await outlineModel(s.model).catch((e) => {
    if (isIsrDpoError(e)) return e.message;
    throw e;
  });
  if (typeof outlined === "string") return unproven(outlined);
  try {
    const asked = samples ?? [{ id: "longest", video: "-", question: "word ".repeat(64) }];
    const all = { model: outlined, samples: asked, settings, prompts };
    await proveWindow({ ...all, looks: lookRuleOf(settings), signal: never });
    return [];
  } catch (e) {
    if (isIsrDpoError(e, "TOKENIZER")) return unproven(e.message);
    throw e;
  } finally {
    await outlined[asyncDispose]();
  }
}

/** What a run on this machine would refuse is, of a run on another one, a note: its files need not be here. */
async function unlessElsewhere(s: PlanSettings, notes: string[], work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (e) {
    if (s.memory === undefined || !isIsrDpoError(e, "NOT_FOUND")) throw e;
    notes.push(`not proven for another machine: ${e.message}`);
  }
}

async function proveRun(s: PlanSettings, reads: RunReads): Promise<string[]> {
  const notes: string[] = [];
  const emit = (e: { type: string; message?: string }) => {
    if (e.type === "warning") notes.push(e.message!);
  };
  const { unusedText } = await import("../config/unused-keys.js");
  notes.push(...(await unusedSettings(reads.settings)).map(unusedText));
  provePlannedRate(reads.settings, s.items);
  await unlessElsewhere(s, notes, () => proveInputs({ settings: reads.settings, emit, signal: never }, reads.samples));
  await unlessElsewhere(s, notes, () => proveJudge(reads));
  await unlessElsewhere(s, notes, async () => void notes.push(...(await proveBudgets(s, reads))));
  return notes;
}

async function proveFiles(files: Extract<Reads, { kind: "train" }>["files"]): Promise<void> {
  for (const [key, path] of Object.entries(files)) {
    if (existsSync(path)) continue;
    const expected = key === "videos" ? "a folder" : "a file";
    throw new IsrDpoError("NOT_FOUND", `${key}: expected ${expected}, got nothing at ${path}`, {
      path,
      detail: { field: key },
    });
  }
}

/** Throws what the run would throw before it begins; what could not be proven, in words. */
export async function provePlan(s: PlanSettings): Promise<string[]> {
  const { reads } = s;
  if (reads.kind === "run") return proveRun(s, reads);
  proveRate(reads.trainer, stepPlan(s.items, s.itemsPerStep, s.epochs).totalSteps, "trainer");
  const notes = unusedTrainerOptions(reads.givenTrainer);
  await unlessElsewhere(s, notes, () => proveFiles(reads.files));
  return notes;
}
