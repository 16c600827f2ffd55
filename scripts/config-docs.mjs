// docs/configuration.md from the schema: node --import tsx scripts/config-docs.mjs. test/config.test.ts compares.
import { writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { presets } from "../src/config/presets.ts";
import { jsonSchema } from "../src/config/schema.ts";

const page = new URL("../docs/configuration.md", import.meta.url);

const shown = (value) => `\`${JSON.stringify(value)}\``;
const branches = (s) => s.anyOf ?? s.oneOf ?? [s];

function numbers({ type, minimum, maximum, exclusiveMinimum, exclusiveMaximum }) {
  const bounds = [
    minimum !== undefined && `at least ${minimum}`,
    exclusiveMinimum !== undefined && `above ${exclusiveMinimum}`,
    maximum !== undefined && maximum < 2 ** 31 - 1 && `at most ${maximum}`,
    exclusiveMaximum !== undefined && `below ${exclusiveMaximum}`,
  ].filter(Boolean);
  return [type === "integer" ? "whole number" : "number", ...bounds].join(", ");
}

function typeOf(s) {
  if (s.anyOf || s.oneOf) return branches(s).map(typeOf).join("; or ");
  if (s.enum) return s.enum.map((v) => `\`${v}\``).join(", ");
  if (s.const !== undefined) return shown(s.const);
  if (s.type === "boolean") return "true or false";
  if (s.type === "integer" || s.type === "number") return numbers(s);
  if (s.type === "array" && s.items) return `list: ${typeOf(s.items)}`;
  if (s.type === "array") return `list of ${s.prefixItems.length}: ${typeOf(s.prefixItems[0])}`;
  if (s.type === "object" && !s.properties) return `values by name: ${typeOf(s.additionalProperties)}`;
  if (s.type === "object") return "keys below";
  return s.path ? "path" : s.type === "string" ? "text" : String(s.type);
}

/** Every key of a schema by its dotted name, an object before what it holds. */
export function* keysOf(schema, above = "") {
  for (const [name, s] of Object.entries(schema.properties ?? {})) {
    const key = above + name;
    yield { key, schema: s, required: (schema.required ?? []).includes(name) };
    for (const b of branches(s)) yield* keysOf(b, `${key}.`);
  }
}

const cell = (text) => text.replaceAll("|", "\\|").replaceAll("\n", " ");

function table(kind) {
  const rows = [...keysOf(jsonSchema(kind))].map(({ key, schema, required }) => {
    const scalar =
      schema.default !== undefined && (typeof schema.default !== "object" || Array.isArray(schema.default));
    const fallback = scalar || schema.default === null ? shown(schema.default) : required ? "**required**" : "";
    return `| \`${key}\` | ${cell(typeOf(schema))} | ${fallback} | ${cell(schema.description ?? "")} |`;
  });
  return ["| key | value | default | meaning |", "|---|---|---|---|", ...rows].join("\n");
}

function* leaves(value, above = "") {
  for (const [name, below] of Object.entries(value))
    if (typeof below === "object" && below !== null && !Array.isArray(below)) yield* leaves(below, `${above}${name}.`);
    else yield `| \`${above}${name}\` | ${shown(below)} |`;
}

const presetTable = (kind) => ["| key | value |", "|---|---|", ...leaves(presets.paper[kind])].join("\n");

export const configurationPage = () => `# Configuration files

This page is generated from the schema by \`node --import tsx scripts/config-docs.mjs\`: change \`src/config/config-rows.ts\`, not this page.

A configuration is a YAML 1.2 file of at most 1 MiB. There are two kinds: one for \`isr-dpo train sft|dpo\`, and one for runs of the
whole method.

- Unknown keys, wrong types and values out of range are errors (\`INVALID_CONFIG\`, exit code 78) with file, line, column and
  key; a misspelt key gets a suggestion.
- Paths in a file are relative to the file; paths of flags and of \`--set\` are relative to the working directory.
- Flags and \`--set key=value\` override the file, the file overrides \`preset\`, and \`preset\` overrides the defaults. If \`--set\`
  gives one key several times, the last value counts; values are written as in YAML (\`--set trainer.betas=[0.9,0.95]\`).
- \`warmupSteps\` replaces a \`warmupRatio\` that comes from a preset or a default; both in one file are an error.
- \`isr-dpo config show FILE\` prints every value that is set, by the file, a preset or a default, and where it comes from;
  \`isr-dpo config schema --kind train|run\` prints the JSON Schema, for editors.

A small example:

\`\`\`yaml
model: checkpoints/start
data: pairs.jsonl
runDir: runs/first
epochs: 3
trainer:
  learningRate: 1e-6
  schedule: cosine
  warmupRatio: 0.1
\`\`\`

## isr-dpo train sft|dpo

Keys of the preference loss (\`trainer.loss\`, \`beta\`, \`labelSmoothing\`, \`ldAlpha\`, \`sftWeight\`, \`divergence\`) belong to
\`train dpo\`; with \`train sft\` they are an error.

${table("train")}

## Runs of the method

${table("run")}

## preset: paper

The published description leaves out some of these (betas, epsilon, weight decay, clipping, batch). For them the preset has the
values of the code that the paper builds on, or common values. Values of the file override the preset.

For training:

${presetTable("train")}

For runs:

${presetTable("run")}
`;

if (import.meta.url === pathToFileURL(process.argv[1]).href) writeFileSync(page, configurationPage());
