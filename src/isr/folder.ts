// The run folder of iterations: lock, run.json, samples.jsonl, and a folder for each iteration (docs/run-folder.md).
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { pathOf } from "../data/fields.js";
import type { Sample } from "../data/samples.js";
import { IsrDpoError, isIsrDpoError } from "../errors.js";
import { guarded, makeFolders, removeTemporaries, writeAtomic } from "../store/files.js";
import { acquireLock, type Lock } from "../store/lock.js";
import { mayDiffer, openRun, type RunOptions } from "../store/run.js";
import { engineVersion } from "../training/train.js";
import { type Prompts, promptsHash } from "./prompts.js";
import type { RunSettings } from "./settings.js";

/** Keys that change no result. */
const free: readonly string[] = [
  ...mayDiffer,
  ...[
    "from",
    "to",
    "model",
    "samples",
    "videos",
    "keep",
    "features",
    "load.threads",
    "prompts",
    "evaluate",
    "video.timeoutS",
  ].map((key) => `config.${key}`),
  ...["guards", "judge.tie", "judge.identical", "judge.unparsed"].map((key) => `config.${key}`), // they end a run, or do not
  "config.judge.endpoint", // what matters of it is in facts.judge
  "facts.isa", // told
];

/** What is known of the machine and the model once the model is loaded. */
export type Loaded = Readonly<Record<"isa" | "device" | "dtype" | "family", string>>;
const loadedFacts = ["isa", "device", "dtype", "family"].map((key) => `facts.${key}`);

/** Samples as lines, checked: ids of their own, a video and a question each. */
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
}

export class RunFolder {
  readonly #run: RunOptions;
  readonly #lines: string;

  private constructor(
    readonly dir: string,
    readonly lock: Lock,
    readonly samples: readonly Sample[],
    /** Nothing was run here yet: there is no run.json. */
    readonly fresh: boolean,
    run: RunOptions,
    lines: string,
  ) {
    this.#run = run;
    this.#lines = lines;
  }

  /** Takes the folder's lock, tidies what a crash left, and checks that the run is the one that was started here. */
  static async open(dir: string, o: RunIdentity): Promise<RunFolder> {
    await makeFolders(dir);
    const lock = await acquireLock(dir);
    try {
      await removeTemporaries(dir);
      const { list, text } = await linesOf(o.samples);
      const samplesSha256 = createHash("sha256").update(text).digest("hex");
      const { runDir: _, ...config } = o.settings;
      const facts = {
        engine: engineVersion(),
        judge: o.judge,
        promptsSha256: promptsHash(o.prompts),
        ranks: 1,
        samples: list.length,
        samplesSha256,
      };
      const run: RunOptions = { kind: "isr", config, facts, mayDiffer: free };
      const fresh = !existsSync(join(dir, "run.json"));
      if (!fresh) await openRun(dir, { ...run, mayDiffer: [...free, ...loadedFacts] }); // before a large model is loaded
      return new RunFolder(dir, lock, list, fresh, run, text);
    } catch (e) {
      lock.release();
      throw e;
    }
  }

  /** Writes run.json and samples.jsonl, or checks that they are of this run; the instruction-set level that it began with. */
  async begin(loaded: Loaded): Promise<string> {
    const { run } = await openRun(this.dir, { ...this.#run, facts: { ...this.#run.facts, ...loaded } });
    await writeAtomic(join(this.dir, "samples.jsonl"), this.#lines);
    return String(run.facts.isa);
  }

  close(): void {
    this.lock.release();
  }

  iteration(t: number): string {
    return join(this.dir, "iterations", String(t));
  }

  /** Indices of iterations with a folder, ascending. */
  async iterations(): Promise<number[]> {
    const names = await readdir(join(this.dir, "iterations")).catch((e) => {
      if ((e as { code?: string }).code === "ENOENT") return [] as string[];
      return guarded(this.dir, "list", () => Promise.reject(e));
    });
    return names
      .filter((name) => /^(0|[1-9]\d{0,8})$/.test(name))
      .map(Number)
      .sort((a, b) => a - b);
  }

  /** Contexts that iteration t left, by video, and their file's sha256; null where it left none. */
  async contexts(t: number): Promise<{ byVideo: Map<string, string>; sha256: string } | null> {
    const path = join(this.iteration(t), "contexts.jsonl");
    const bytes = await guarded(path, "read", () => readFile(path)).catch((e) => {
      if (isIsrDpoError(e, "NOT_FOUND")) return null;
      throw e;
    });
    if (!bytes) return null;
    const byVideo = new Map<string, string>();
    for (const line of bytes.toString("utf8").split("\n")) {
      if (line === "") continue;
      const { video, text } = JSON.parse(line) as { video: string; text: string };
      byVideo.set(video, text);
    }
    return { byVideo, sha256: createHash("sha256").update(bytes).digest("hex") };
  }
}
