// isr-dpo inspect [dir | gpu]: a report about this machine, its cards alone, or a checkpoint.
import { Command } from "commander";
import { count } from "../base/counts.js";
import { type CheckpointReport, type DeviceReport, inspectCheckpoint, inspectDevice } from "../index.js";
import { colours } from "./exit-code.js";
import { modelFolder } from "./newest-model.js";

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

function ffmpegRows(f: DeviceReport["ffmpeg"]): [string, string][] {
  if (f === null) return [["ffmpeg", "none found: videos cannot be read (install it, or name it in ISR_DPO_FFMPEG)"]];
  const probe = f.ffprobe === null ? "; ffprobe is missing: videos cannot be read" : "";
  return [["ffmpeg", `${f.path}, version ${f.version}, frames by ${f.frameOption}${probe}`]];
}

function cardRows(d: DeviceReport): [string, string][] {
  const cards = d.cuda.map((card, i): [string, string] => [
    `cuda:${i}`,
    `${card.name}, ${gib(card.memoryBytes)}, compute capability ${card.capability}`,
  ]);
  if (d.cudaLibrary !== null) cards.push(["products", d.cudaLibrary]);
  if (d.cudaRanksLibrary !== null) cards.push(["ranks", d.cudaRanksLibrary]);
  return d.cudaProblem === null ? cards : [...cards, ["cuda", `not used: ${d.cudaProblem}`]];
}

const gpuRows = (d: DeviceReport): [string, string][] => [["binary", d.binary], ...cardRows(d)];

function machineRows(d: DeviceReport): [string, string][] {
  return [
    ["binary", d.binary],
    ["instructions", d.isa],
    ["threads", String(d.threads)],
    ["memory", gib(d.memoryBytes)],
    ...cardRows(d),
    ...ffmpegRows(d.ffmpeg),
    ...d.problems.map((p): [string, string] => ["problem", p]),
  ];
}

const most = 10; // names of tensors listed

const listed = (key: string, names: readonly string[]): [string, string][] => [
  ...names.slice(0, most).map((n): [string, string] => [key, n]),
  ...(names.length > most ? [[key, `and ${names.length - most} more (--json has all)`] as [string, string]] : []),
];

function visualTokens({ visualTokens: n, media }: CheckpointReport): string {
  if (n !== null) return `${count(n)} per video`;
  return media.includes("video") ? "as many as a video or an image has squares of patches" : "none: takes no videos";
}

function checkpointRows(r: CheckpointReport): [string, string][] {
  const stored = [...new Set(r.parts.flatMap((p) => p.dtypes))];
  return [
    ["family", `${r.family} (${r.modelType})`],
    ["parameters", count(r.parameters)],
    ...r.parts.map((p): [string, string] => [`  ${p.name}`, `${count(p.parameters)} ${p.dtypes.join(", ")}`]),
    ["stored as", stored.join(", ")],
    ["computes in", r.dtype],
    ["visual tokens", visualTokens(r)],
    ["context", `${count(r.contextLength)} tokens`],
    ["vocabulary", count(r.vocabSize)],
    ["end tokens", r.endTokenIds.join(", ")],
    ["files", r.files.join(", ")],
    ...r.notes.map((n): [string, string] => ["note", n]),
    ...listed("missing", r.missing),
    ...listed("unused", r.unused),
  ];
}

function print(rows: [string, string][]): void {
  const c = colours(process.stdout);
  const width = Math.max(...rows.map(([key]) => key.length));
  for (const [key, value] of rows) console.log(`${c.bold(key.padEnd(width))}  ${value}`);
}

export function inspectCommand(): Command {
  return new Command("inspect")
    .description("show this machine, with gpu its NVIDIA cards alone, or with DIR a checkpoint")
    .argument("[dir]", "folder of a checkpoint, or of a run, whose newest model is used; one named gpu is ./gpu")
    .option("--json", "print JSON")
    .exitOverride()
    .action(async (dir: string | undefined, o: { json?: boolean }) => {
      const cards = dir === "gpu";
      const folder = dir === undefined || cards ? undefined : modelFolder(dir);
      const found = folder === undefined ? await inspectDevice() : await inspectCheckpoint(folder);
      if (o.json) console.log(JSON.stringify(found, null, 2));
      else if ("binary" in found) print(cards ? gpuRows(found) : machineRows(found));
      else print([...(folder === dir ? [] : [["model", folder!] as [string, string]]), ...checkpointRows(found)]);
    });
}
