// Options that commands share: how a model is loaded, which frames are used, how answers are sampled.
import { type Command, InvalidArgumentError, Option } from "commander";
import { type FrameSampling, loadModel, type MediaReport, type Sampling, type VideoLM } from "../index.js";
import type { LoadFlags, SamplingFlags } from "./flag-types.js";
import { inRange, nearest, type Range } from "../base/check.js";
import type { Row } from "../base/option-rows.js";
import { type ConfigKind, rowAt } from "../config/config-rows.js";
import { loadRows } from "../model/load-options.js";
import { samplingRows } from "../model/sampling-options.js";
import { remarksOf } from "../model/media-registry.js";
import { tellUnusedOfTextModel } from "./unused-flags.js";
import { modelFolder } from "./newest-model.js";
import { checkMade } from "../runfolder/made-model.js";
import { say } from "./terminal.js";

function parsed(text: string, ok: (x: number) => boolean, expected: string): number {
  const x = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : Number.NaN;
  if (!Number.isFinite(x) || !ok(x)) throw new InvalidArgumentError(`Expected ${expected}.`);
  return x;
}

export const wholeNumber =
  (min: number, max = 2 ** 31 - 1) =>
  (text: string): number =>
    parsed(text, (x) => Number.isInteger(x) && x >= min && x <= max, `a whole number from ${min} to ${max}`);

export const realNumber =
  (expected: string, ok: (x: number) => boolean) =>
  (text: string): number =>
    parsed(text, ok, expected);

function seedFlag(text: string): bigint {
  const seed = /^\d{1,20}$/.test(text) ? BigInt(text) : -1n;
  if (seed < 0n || seed >= 1n << 64n) throw new InvalidArgumentError("Expected a whole number from 0 to 2^64 - 1.");
  return seed;
}

function windowFlag(text: string): [number, number] {
  const expected = "FROM:TO in seconds, FROM before TO";
  const [from, to, ...rest] = text.split(":");
  if (to === undefined || rest.length > 0) throw new InvalidArgumentError(`Expected ${expected}.`);
  const begin = parsed(from!, (x) => x >= 0, expected);
  return [begin, parsed(to, (x) => x > begin, expected)];
}

function stopFlag(text: string, before: string[] = []): string[] {
  if (text === "") throw new InvalidArgumentError("Expected a text that is not empty.");
  return [...before, text];
}

export const addSampling = (command: Command): Command =>
  command
    .addOption(optionFlag("--max-tokens <n>", samplingRows.maxTokens))
    .addOption(optionFlag("--temperature <t>", samplingRows.temperature))
    .addOption(optionFlag("--top-p <p>", samplingRows.topP))
    .addOption(optionFlag("--top-k <k>", samplingRows.topK))
    .addOption(optionFlag("--seed <s>", samplingRows.seed).argParser(seedFlag))
    .option("--stop <text>", "end an answer before this text (may be given again)", stopFlag);

/** A range of numbers, as messages of the command line say it. */
function rangeWords({ integer, min, above, max, below }: Range): string {
  const noun = integer ? "a whole number" : "a number";
  if (min !== undefined && max !== undefined) return `${noun} from ${min} to ${max}`;
  const low = min === undefined ? (above === undefined ? [] : [`above ${above}`]) : [`of at least ${min}`];
  const high = max === undefined ? (below === undefined ? [] : [`below ${below}`]) : [`at most ${max}`];
  return [noun, [...low, ...high].join(" and ")].join(" ").trim();
}

/** The flag of an option: its meaning, its default and the values that it takes are those of the option's row. */
export function optionFlag(flag: string, { about, fallback, shape }: Row): Option {
  const meaning = about.replace(/\.$/, "").replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase());
  const scalar = fallback !== undefined && (typeof fallback !== "object" || fallback === null);
  const facts = [
    ...(shape.kind === "choice" ? [shape.of.join(", ")] : []),
    ...(scalar ? [`default: ${fallback}`] : []),
  ];
  const option = new Option(flag, facts.length === 0 ? meaning : `${meaning} (${facts.join("; ")})`);
  if (shape.kind === "choice") return option.argParser((text: string) => oneOf(text, shape.of));
  if (shape.kind !== "number") return option;
  const range = shape.range.integer ? { max: 2 ** 31 - 1, ...shape.range } : shape.range;
  return option.argParser((text: string) => parsed(text, (x) => inRange(x, range), rangeWords(range)));
}

function oneOf(text: string, of: readonly string[]): string {
  if (of.includes(text)) return text;
  const meant = nearest(text, of);
  throw new InvalidArgumentError(`Expected ${of.join(" or ")}${meant ? `; did you mean '${meant}'?` : "."}`);
}

/** The flag of a key of the configuration. */
export function configFlag(flag: string, kind: ConfigKind, key: string): Option {
  const row = rowAt(kind, key);
  if (!row) throw new TypeError(`${flag}: a configuration of kind ${kind} has no key ${key}`);
  return optionFlag(flag, row);
}

/** Replaces keys of a configuration file; may be given again. */
export const setOption = (): Option =>
  new Option("--set <key=value>", "any key of the configuration (may be given again)")
    .argParser((text: string, before: string[]) => [...before, text])
    .default([], "none");

export const addFrames = (command: Command): Command =>
  command
    .addOption(configFlag("--frames <n>", "run", "video.frames"))
    .addOption(configFlag("--window <from:to>", "run", "video.window").argParser(windowFlag))
    .addOption(configFlag("--fps <n>", "run", "video.fps"));

export const addLoading = (command: Command): Command =>
  command
    .addOption(optionFlag("--dtype <type>", loadRows.dtype))
    .addOption(optionFlag("--threads <n>", loadRows.threads))
    .addOption(optionFlag("--vision-tower <dir>", loadRows.visionTower))
    .addOption(optionFlag("--adapter <dir>", loadRows.adapter))
    .option("--feature-cache <dir>", "folder that keeps the vision tower's features of each video");

export const samplingOf = ({ maxTokens, temperature, topP, topK, seed, stop }: SamplingFlags): Sampling => ({
  ...{ maxTokens, temperature, topP, topK, seed, stop },
});

export const frameSamplingOf = ({ frames, window, fps }: FrameSampling): FrameSampling | undefined =>
  frames === undefined && window === undefined && fps === undefined ? undefined : { frames, window, fps };

/** What a reader of the answers should know about a file. */
const unusual = (report: MediaReport): string[] => [
  ...remarksOf(report),
  ...(report.rotated ? ["turned upright"] : []),
];

function mediaLine(report: MediaReport): string {
  const { kind, path, sourceFrames: frames, repeated } = report;
  const list = frames.length <= 16 ? frames.join(" ") : `${frames[0]} to ${frames.at(-1)}`;
  const used =
    kind === "image" ? "1 image" : `${frames.length} frames (${list}), ${repeated === 0 ? "none" : repeated} repeated`;
  return [`${kind} ${path}: ${used}`, ...unusual(report)].join(", ");
}

/**
 * Loads a model and says so; the share read so far is shown on a terminal only. Says which frames of each file are used
 * (`everyFile`), or only where something is unusual. `templateDate`: of the run, what chat templates print.
 */
export async function load(
  given: string,
  flags: LoadFlags,
  signal: AbortSignal,
  everyFile: boolean,
  templateDate?: string,
): Promise<VideoLM> {
  const dir = modelFolder(given);
  if (dir !== given) await checkMade(dir); // a run's: what it has made
  const { dtype, threads, visionTower, adapter, featureCache } = flags;
  const began = performance.now();
  const live = process.stderr.isTTY === true;
  const onProgress = ({ bytes, totalBytes }: { bytes: number; totalBytes: number }) => {
    process.stderr.write(`\rloading ${Math.floor((100 * bytes) / Math.max(totalBytes, 1))} %`);
  };
  const model = await loadModel(dir, {
    ...{ signal, dtype, threads, visionTower, adapter, templateDate },
    ...(featureCache === undefined ? {} : { featureCache: { dir: featureCache } }),
    ...(live ? { onProgress } : {}),
    onMedia: (report) => {
      if (everyFile || unusual(report).length > 0) say(mediaLine(report));
    },
  });
  const { family, parameters, dtype: computes, media } = model.info;
  if (media.length === 0) tellUnusedOfTextModel(flags);
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  if (live) process.stderr.write("\r");
  say(`loaded ${dir}: ${family}, ${parameters.toLocaleString("en-US")} parameters, ${computes}, ${seconds} s`);
  return model;
}
