// The run folder of iterations: lock, run.json, samples.jsonl, prompts.json, and a folder for each iteration (docs/run-folder.md).
import { createHash } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { packageVersion } from "../base/addon.js";
import { sha256 } from "../base/sha256.js";
import { pathOf } from "../data/row-fields.js";
import { readLines } from "../base/lines.js";
import type { Sample } from "../data/read-samples.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { Claim } from "../runfolder/folder-claim.js";
import { readText, writeAtomic } from "../base/atomic-files.js";
import { codeOf, guarded } from "../base/file-errors.js";
import { type InputPlace, refuseMeeting, samePlace } from "../runfolder/path-overlap.js";
import {
  mayDiffer,
  openRun,
  type RunFile,
  type RunOptions,
  readRun,
  runName,
  templateDateOf,
} from "../runfolder/run-json.js";
import type { LoadOptions } from "../base/types.js";
import { agreed, byFirst } from "../train/ranks/agree.js";
import type { Communicator } from "../train/ranks/communicator.js";
import { proveAlike, proveSameFolder } from "../train/ranks/one-run.js";
import { type Prompts, promptsHash } from "./method-prompts.js";
import type { RunSettings } from "./iteration-settings.js";
import { promptsName } from "./run-speech.js";

/** Keys that change no result. */
const free: readonly string[] = [
  ...mayDiffer,
  ...[
    "from",
    "to",
    "model",
    "samples",
    "seedData",
    "videos",
    "keep",
    "features",
    "load.threads",
    "prompts",
    "evaluate",
    "video.timeoutS",
    "onRanks",
  ].map((key) => `config.${key}`),
  ...["guards", "judge.tie", "judge.identical", "judge.unparsed"].map((key) => `config.${key}`), // they decide only whether a run fails
  "config.judge.endpoint", // what matters of it is in facts.judge
  "facts.isa", // reported as a warning
];

/** What is known of the machine and the model once the model is loaded. */
export type Loaded = Readonly<Record<"isa" | "device" | "dtype" | "family", string>>;

/** Keys that change no result in a run with these settings. */
const freeOf = ({ onRanks }: RunSettings): readonly string[] => (onRanks === "warn" ? [...free, "facts.ranks"] : free);
const loadedFacts = ["isa", "device", "dtype", "family"].map((key) => `facts.${key}`);

/** Samples as lines, checked: each has a unique id, a video and a question. */
export async function linesOf(
  samples: AsyncIterable<Sample> | Iterable<Sample>,
): Promise<{ list: Sample[]; text: string }> {
  const list: Sample[] = [];
  const seen = new Set<string>();
  for await (const given of samples) {
    const at = `samples[${list.length}]`;
    const { id, video, question } = (given ?? {}) as Partial<Sample>;
    for (const [key, value] of Object.entries({ id, video, question }))
      if (typeof value !== "string" || value.trim() === "")
        throw new IsrDpoError("DATA_INVALID", `${at}.${key}: expected a text that is not empty, got ${String(value)}`, {
          detail: { field: key, item: list.length },
        });
    pathOf(`${at}.video`, video);
    if (seen.has(id!))
      throw new IsrDpoError("DATA_INVALID", `${at}.id: expected an id of its own, got ${JSON.stringify(id)} again`, {
        detail: { field: "id", item: list.length },
      });
    seen.add(id!);
    list.push({ id: id!, video: video!, question: question! });
  }
  if (list.length === 0)
    throw new IsrDpoError("DATA_INVALID", "samples: expected at least one sample, got none", {
      hint: "give questions about videos",
    });
  return { list, text: list.map((s) => `${JSON.stringify(s)}\n`).join("") };
}

export interface RunIdentity {
  settings: RunSettings;
  prompts: Prompts;
  judge: string;
  samples: AsyncIterable<Sample> | Iterable<Sample>;
  load: LoadOptions;
  /** Indices of the models that are used. */
  iterations: readonly number[];
  /** The ranks that run it together, where they are several. */
  ranks: Communicator | undefined;
}

/** File in which a rank keeps the verdicts of an endpoint, so that none is paid twice. */
export const verdictsName = (rank: number): string => (rank === 0 ? "judgements.jsonl" : `judgements-${rank}.jsonl`);

/** Paths of such files in a run's folder. */
export async function verdictsIn(dir: string): Promise<string[]> {
  const names = await guarded(dir, "list", () => readdir(dir));
  return names.filter((name) => /^judgements(-[1-9]\d*)?\.jsonl$/.test(name)).map((name) => join(dir, name));
}

/** What a run of so many ranks writes, relative to its folder; models of other iterations may be read there. */
const written = (iterations: readonly number[], ranks: number): string[] => [
  ...[runName, "lock", "samples.jsonl", promptsName, "features", "seed", "evaluation", "report.html", "tensorboard"],
  ...Array.from({ length: ranks }, (_, rank) => verdictsName(rank)),
  ...iterations.map((t) => join("iterations", String(t))),
];

function inputPlaces({ settings, load }: Pick<RunIdentity, "settings" | "load">): InputPlace[] {
  const { model, samples, seedData, prompts, videos, evaluate, features } = settings;
  const cache = load.featureCache ? load.featureCache.dir : features !== false ? features.dir : undefined;
  const files = { samples, seedData, prompts, videos, "evaluate.samples": evaluate?.samples, "features.dir": cache };
  return [
    { name: "model", path: model, whole: true },
    ...Object.entries({ ...files, "evaluate.videos": evaluate?.videos }).flatMap(([name, path]) =>
      path === undefined ? [] : [{ name, path }],
    ),
  ];
}

/** Refuses what is to be read from where the run writes, and a cache in the model's folder. */
export async function checkPlaces(dir: string, o: Omit<RunIdentity, "samples" | "judge" | "prompts">): Promise<void> {
  const inputs = inputPlaces(o);
  const cache = inputs.find(({ name }) => name === "features.dir");
  const own = cache && (await samePlace(cache.path, join(dir, "features")));
  await refuseMeeting(dir, written(o.iterations, o.ranks?.size ?? 1), own ? inputs.filter((i) => i !== cache) : inputs);
  if (cache)
    await refuseMeeting(
      cache.path,
      [],
      inputs.filter(({ whole }) => whole),
    );
}

const owner = (iterations: readonly number[]) => ({
  mark: runName,
  what: "the folder of a run",
  read: (path: string, found: Record<string, unknown>) => readRun(path, found, "isr"),
  drafts: {
    files: ["samples.jsonl"],
    folders: [...iterations.flatMap((t) => [`iterations/${t}`]), "iterations", "seed"],
  },
});

async function iterationsIn(dir: string): Promise<number[]> {
  const names = await readdir(join(dir, "iterations")).catch((e) => {
    if (codeOf(e) === "ENOENT") return [] as string[];
    return guarded(dir, "list", () => Promise.reject(e));
  });
  return names
    .filter((name) => /^(0|[1-9]\d{0,8})$/.test(name))
    .map(Number)
    .sort((a, b) => a - b);
}

export class RunFolder {
  readonly #run: RunOptions;
  readonly #lines: string;
  readonly #prompts: Prompts;
  readonly #claim: Claim<RunFile> | null; // rank 0's

  private constructor(
    readonly dir: string,
    /** Nothing was run here yet: there was no run.json. */
    readonly fresh: boolean,
    claim: Claim<RunFile> | null,
    readonly samples: readonly Sample[],
    run: RunOptions,
    lines: string,
    prompts: Prompts,
  ) {
    this.#prompts = prompts;
    this.#claim = claim;
    this.#run = run;
    this.#lines = lines;
  }

  /** What chat templates print as the date, in all starts of the run. */
  get templateDate(): string {
    return this.#run.templateDate!;
  }

  /**
   * Takes the folder and its lock, checks that the run is the one that was started here, and tidies what a crash left. Among ranks
   * rank 0 does so, and the others see that they see the same folder and have the same samples.
   */
  static async open(dir: string, o: RunIdentity): Promise<RunFolder> {
    const { ranks } = o;
    const { list, text } = await agreed(ranks, () => linesOf(o.samples));
    await proveAlike(ranks, "samples", sha256(text));
    const { runDir: _, ...config } = o.settings;
    const facts = { engine: packageVersion(), judge: o.judge, ranks: ranks?.size ?? 1, samples: list.length };
    const inputs = {
      prompts: { sha256: promptsHash(o.prompts) },
      samples: { sha256: sha256(text) },
    };
    const run: RunOptions = { kind: "isr", config, facts, mayDiffer: freeOf(o.settings), inputs };
    let claim: Claim<RunFile> | null = null;
    try {
      const entered = await byFirst(ranks, async () => {
        claim = await Claim.take(dir, owner(o.iterations));
        const templateDate = templateDateOf(dir, claim.found, o.load.templateDate ?? undefined);
        const asked = { ...run, templateDate, mayDiffer: [...run.mayDiffer!, ...loadedFacts] };
        if (claim.found) await openRun(dir, asked); // before a large model is loaded
        await RunFolder.#tidy(dir, claim);
        const lock = ranks ? await readText(join(dir, "lock")) : "";
        return { fresh: claim.found === null, templateDate, lock };
      });
      await proveSameFolder(ranks, dir, join(dir, "lock"), entered.lock);
      const { fresh, templateDate } = entered;
      return new RunFolder(dir, fresh, claim, list, { ...run, templateDate }, text, o.prompts);
    } catch (e) {
      await (claim as Claim<RunFile> | null)?.end();
      throw e;
    }
  }

  /** Puts parts of these iterations into a folder that is ours, or becomes ours, while nobody else works in it. */
  static async plant(dir: string, iterations: readonly number[], work: () => Promise<void>): Promise<void> {
    const claim = await Claim.take(dir, owner(iterations));
    try {
      await work();
    } finally {
      await claim.end();
    }
  }

  static async #tidy(dir: string, claim: Claim<RunFile>): Promise<void> {
    const each = (await iterationsIn(dir)).map((t) => join("iterations", String(t)));
    const folders = [".", "iterations", "evaluation", ...each, ...each.map((dir) => join(dir, "train"))];
    await claim.tidy(folders);
  }

  /**
   * Writes run.json, samples.jsonl and prompts.json, or checks that they are of this run; the instruction-set level and the number of
   * ranks that it began with. Rank 0 calls it.
   */
  async begin(loaded: Loaded): Promise<{ isa: string; ranks: number }> {
    const { run } = await openRun(this.dir, { ...this.#run, facts: { ...this.#run.facts, ...loaded } });
    await this.#claim?.settled();
    await writeAtomic(join(this.dir, "samples.jsonl"), this.#lines);
    await writeAtomic(join(this.dir, promptsName), `${JSON.stringify(this.#prompts, null, 2)}\n`);
    return { isa: String(run.facts.isa), ranks: Number(run.facts.ranks) };
  }

  async close(): Promise<void> {
    await this.#claim?.end();
  }

  iteration(t: number): string {
    return join(this.dir, "iterations", String(t));
  }

  /** Indices of iterations with a folder, ascending. */
  iterations(): Promise<number[]> {
    return iterationsIn(this.dir);
  }

  /** Contexts that iteration t left, by video, and their file's sha256; null where it left none. */
  async contexts(t: number): Promise<{ byVideo: Map<string, string>; sha256: string } | null> {
    const path = join(this.iteration(t), "contexts.jsonl");
    const byVideo = new Map<string, string>();
    const hash = createHash("sha256");
    try {
      for await (const { text: line } of readLines(path)) {
        hash.update(`${line}\n`);
        const { video, text } = JSON.parse(line) as { video: string; text: string };
        byVideo.set(video, text);
      }
    } catch (e) {
      if (isIsrDpoError(e, "NOT_FOUND")) return null;
      throw e;
    }
    return { byVideo, sha256: hash.digest("hex") };
  }
}
