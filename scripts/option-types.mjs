// src/base/option-types.ts and config-types.ts from the rows of the options: node --import tsx scripts/option-types.mjs.
// test/config.test.ts compares.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { fileURLToPath, pathToFileURL } from "node:url";
import { configs, rowsBelow } from "../src/config/config-rows.ts";
import { endpointRows, judgeFileRows } from "../src/judge/judge-options.ts";
import { loadRows, mediaRows } from "../src/model/load-options.ts";
import { samplingRows } from "../src/model/sampling-options.ts";
import { lossRows } from "../src/train/loss-options.ts";
import { trainRows } from "../src/train/train-options.ts";
import { optimizerRows, trainerRows } from "../src/train/trainer-options.ts";
import { frameRows } from "../src/video/frame-sampling.ts";
import { cacheRows } from "../src/video/media-options.ts";
import { tool } from "./native.mjs";

const width = 128;

/** Bounds of a number, in words; empty where there are none. */
function rangeText({ min, max, above, below }) {
  const [low, high] = [min ?? above, max ?? below];
  const bounds = [
    min !== undefined && `at least ${low}`,
    above !== undefined && `above ${low}`,
    max !== undefined && max < 2 ** 31 - 1 && `at most ${high}`,
    below !== undefined && `below ${high}`,
  ];
  return bounds.filter(Boolean).join(" and ");
}

function valueText(value) {
  if (typeof value === "string") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(valueText).join(", ")}]`;
  return String(value);
}

/** Type of a shape, in TypeScript; `depth` indents the keys of groups. */
function typeOf(shape, depth, inFile) {
  switch (shape.kind) {
    case "number":
      return "number";
    case "choice":
      return shape.of.map((word) => JSON.stringify(word)).join(" | ");
    case "flag":
      return "boolean";
    case "path":
      return "string";
    case "text":
      return shape.type ?? "string";
    case "seed":
      return inFile ? "number | string" : "bigint | number";
    case "ids":
      return "Int32Array | readonly number[]";
    case "list":
      return `readonly ${typeOf(shape.of, depth, inFile)}[]`;
    case "record":
      return `Readonly<Record<string, ${typeOf(shape.of, depth, inFile)}>>`;
    case "constant":
      return String(shape.value);
    case "pair":
      return "readonly [number, number]";
    case "either":
      return shape.of.map((s) => typeOf(s, depth, inFile)).join(" | ");
    case "group":
      return `{\n${members(shape.rows, depth + 1, inFile)}\n${"  ".repeat(depth)}}`;
  }
  throw new Error(`no type is known for a shape of kind ${shape.kind}`);
}

/** A docstring of one line, or of several where it is longer. */
function docstring(text, indent) {
  const one = `${indent}/** ${text} */`;
  if (one.length <= width) return one;
  const lines = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && indent.length + 3 + line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [`${indent}/**`, ...[...lines, line].map((l) => `${indent} * ${l}`), `${indent} */`].join("\n");
}

/** What a row means, with its bounds and its default. */
function meaning({ about, shape, presence, fallback }) {
  const numeric =
    shape.kind === "number" ? shape : shape.kind === "either" ? shape.of.find((s) => s.kind === "number") : undefined;
  const bounds = numeric ? rangeText(numeric.range) : shape.kind === "pair" ? rangeText(shape.of[0]) : "";
  const limits = bounds === "" ? "" : ` ${bounds[0].toUpperCase()}${bounds.slice(1)}.`;
  const scalar =
    presence === "default" &&
    fallback !== undefined &&
    (typeof fallback !== "object" || fallback === null || Array.isArray(fallback));
  return `${about}${limits}${scalar ? ` Default: ${valueText(fallback)}.` : ""}`;
}

function members(rows, depth, inFile) {
  const indent = "  ".repeat(depth);
  return Object.entries(rows)
    .flatMap(([key, row]) => {
      const type = typeOf(row.shape, depth, inFile);
      const optional = row.presence === "required" ? "" : "?";
      const declared = (name) =>
        `${indent}${inFile ? "readonly " : ""}${name}${optional}: ${type}${optional && inFile ? " | undefined" : ""};`;
      const old = row.oldName
        ? [docstring(`@deprecated Use \`${key}\`; removed in 0.3.`, indent), declared(row.oldName)]
        : [];
      return [docstring(meaning(row), indent), declared(key), ...old];
    })
    .join("\n");
}

const declared = (about, name, rows, inFile = false) =>
  `${docstring(about, "")}\nexport interface ${name} {\n${members(rows, 0 + 1, inFile)}\n}\n`;

const configDoc = (command) =>
  `Keys of a configuration file of \`isr-dpo ${command}\` ([docs/configuration.md](https://github.com/isr-dpo/isr-dpo/blob/main/docs/configuration.md)).`;

const head = [
  "// Public types of options. This file is made from the rows of the options by `node --import tsx scripts/option-types.mjs`:",
  "// change the rows (src/config/config-rows.ts and what it imports), not this file.",
  "",
];

/** Types of options of functions. */
const ofFunctions = () => [
  declared(
    "The loss and its parameters. A parameter that the loss does not have is INVALID_ARGUMENT.",
    "LossOptions",
    lossRows,
  ),
  declared(
    "Options of the optimizer (AdamW), the schedule and the computation, and which parts are trained.",
    "OptimizerOptions",
    { ...optimizerRows, seed: trainerRows.seed },
  ),
  declared("Options of train() that a configuration file has, too.", "TrainRunOptions", trainRows),
  declared("How the weights of a model are loaded, and how media are read.", "WeightOptions", {
    ...loadRows,
    ...mediaRows,
  }),
  declared("A cache of the vision tower's features on disk.", "FeatureCacheOptions", cacheRows),
  declared(
    "Which frames of a video the model sees. Default: as many as in the model's own recipe, evenly spread over the whole video.",
    "FrameSampling",
    frameRows,
  ),
  declared("How tokens are sampled.", "Sampling", samplingRows),
  declared("How the rows of a file are judged.", "JudgeFileSettings", judgeFileRows),
  declared("The address of an endpoint, and bounds of the requests to it.", "EndpointOptions", endpointRows),
];

/** Types of configuration files. */
const ofFiles = () => [
  declared(configDoc("train"), "TrainConfig", rowsBelow(configs.train), true),
  declared(configDoc("run"), "RunConfig", rowsBelow(configs.run), true),
  docstring(
    "Options of iterations: the keys of a configuration of a run. `model`, `runDir`, `from` and `to` come from the options beside `config`.",
    "",
  ),
  "export type IterationConfig = Partial<RunConfig>;",
];

const files = { "option-types.ts": ofFunctions, "config-types.ts": ofFiles };

/** The generated files, [path, text]; the text is formatted as the project's code is. */
export const generatedTypes = () =>
  Object.entries(files).map(([name, types]) => {
    const path = fileURLToPath(new URL(`../src/base/${name}`, import.meta.url));
    const input = [...head, ...types(), ""].join("\n");
    return [path, execFileSync(tool("biome"), ["format", "--stdin-file-path", path], { input, encoding: "utf8" })];
  });

if (import.meta.url === pathToFileURL(process.argv[1]).href)
  for (const [path, text] of generatedTypes()) writeFileSync(path, text);
