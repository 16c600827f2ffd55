// Options of train(), checked once. Options of the trainer and the loader are checked there.
import { choice, integer, object, options, path, refuse, seed, signal } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import { lossNames } from "./loss-options.js";
import type { TrainerOptions } from "./trainer.js";
import type { LoadOptions, TrainItem } from "../base/types.js";

const keys = [
  ...["kind", "model", "data", "evalData", "evalEvery", "videos", "runDir", "epochs", "itemsPerStep", "trainer"],
  ...["onBadRow", "onLong", "onEnd", "turns", "saveEverySteps", "load", "signal", "finish"],
];

const never = new AbortController().signal;

/** `finish` of a run's options; one that never aborts where there is none. */
export const finishOf = (value: unknown): AbortSignal => signal("options.finish", value) ?? never;

/** TrainOptions with their defaults. */
export interface TrainSettings {
  kind: "sft" | "dpo";
  model: string;
  data: string | AsyncIterable<TrainItem>;
  evalData: string | undefined;
  /** 0: before the first and after the last step. */
  evalEvery: number;
  videos: string | undefined;
  runDir: string;
  epochs: number;
  itemsPerStep: number;
  trainer: TrainerOptions;
  seed: bigint;
  onBadRow: "fail" | "skip";
  onLong: "fail" | "truncate";
  onEnd: "fail" | "repair";
  turns: "last" | "all";
  /** 0: about ten a run. */
  saveEverySteps: number;
  load: LoadOptions;
  finish: AbortSignal;
}

function dataOf(value: unknown): TrainSettings["data"] {
  if (typeof value === "string") return path("options.data", value);
  const items = value as Partial<AsyncIterable<TrainItem> & Iterable<TrainItem>> | null | undefined;
  if (typeof items === "object" && items !== null) {
    if (typeof items[Symbol.asyncIterator] === "function") return items as AsyncIterable<TrainItem>;
    if (typeof items[Symbol.iterator] === "function")
      return {
        async *[Symbol.asyncIterator]() {
          yield* items as Iterable<TrainItem>;
        },
      };
  }
  return refuse("options.data", "a path, or items (an iterable)", value);
}

function trainerOf(kind: TrainSettings["kind"], value: unknown): TrainerOptions {
  const o = value === undefined ? {} : object("options.trainer", value);
  if (kind === "sft" && o.loss !== undefined && o.loss !== "sft")
    refuse("options.trainer.loss", "'sft' for a supervised run", o.loss);
  if (kind === "dpo" && o.loss !== undefined) choice("options.trainer.loss", o.loss, lossNames);
  return { ...o, ...(kind === "sft" ? { loss: "sft" } : {}) };
}

/** What is scored of several turns: of examples alone, for a pair has one answer a side. */
function turnsOf(kind: TrainSettings["kind"], value: unknown): TrainSettings["turns"] {
  if (value === undefined) return kind === "sft" ? "all" : "last";
  const turns = choice("options.turns", value, ["last", "all"]);
  if (kind === "dpo" && turns === "all")
    refuse("options.turns", "'last' for pairs, which have one answer a side", turns);
  return turns;
}

export function trainSettings(value: unknown): TrainSettings {
  if (value === undefined) refuse("options", "an object", value);
  const o = options("options", value, keys);
  signal("options.signal", o.signal); // it is the run's
  const kind = choice("options.kind", o.kind, ["sft", "dpo"]);
  const count = (key: string, or: number) => (o[key] === undefined ? or : integer(`options.${key}`, o[key], 1));
  const place = (key: string) => (o[key] === undefined ? undefined : path(`options.${key}`, o[key]));
  const trainer = trainerOf(kind, o.trainer);
  if (o.evalEvery !== undefined && o.evalData === undefined)
    throw new IsrDpoError("INVALID_ARGUMENT", "options.evalEvery: expected evalData beside it, got none");
  return {
    kind,
    model: path("options.model", o.model),
    data: dataOf(o.data),
    evalData: place("evalData"),
    evalEvery: count("evalEvery", 0),
    videos: place("videos"),
    runDir: path("options.runDir", o.runDir),
    epochs: count("epochs", 1),
    itemsPerStep: count("itemsPerStep", 8),
    trainer,
    seed: seed("options.trainer.seed", trainer.seed),
    onBadRow: o.onBadRow === undefined ? "fail" : choice("options.onBadRow", o.onBadRow, ["fail", "skip"]),
    onLong: o.onLong === undefined ? "fail" : choice("options.onLong", o.onLong, ["fail", "truncate"]),
    onEnd: o.onEnd === undefined ? "repair" : choice("options.onEnd", o.onEnd, ["repair", "fail"]),
    turns: turnsOf(kind, o.turns),
    saveEverySteps: count("saveEverySteps", 0),
    load: o.load === undefined ? {} : (object("options.load", o.load) as LoadOptions),
    finish: finishOf(o.finish),
  };
}
