// The first stage of an iteration: the groups that no journal holds yet are computed, each by the rank that is free; then the
// records of all journals become counts, contexts and pairs.
import { join } from "node:path";
import { percent } from "../base/counts.js";
import type { VideoLM } from "../model/video-lm.js";
import { Journal, journalName, journalsIn } from "../runfolder/journal.js";
import { GroupReader } from "../runfolder/journal-records.js";
import type { Closing } from "../train/open-resources.js";
import { Progress, staged } from "../train/progress.js";
import { agreed, byFirst } from "../train/ranks/agree.js";
import { shareOut } from "../train/ranks/share-out.js";
import { type Generation, type Outcome, runGroup } from "./generate-group.js";
import { type Censored, censoredOf, countsOf, guard, pairsOf, writeExports } from "./iteration-exports.js";
import type { IterationInput } from "./iteration-input.js";
import { StoredRecords } from "./iteration-records.js";
import { promptsHash } from "./method-prompts.js";
import { type Before, contextsOf } from "./previous-contexts.js";
import type { Group } from "./video-groups.js";

export type Counts = Record<string, number>;

export interface Generating {
  input: IterationInput;
  /** Folder of the iteration. */
  dir: string;
  closing: Closing;
  model: VideoLM;
  before: Before;
  generation: Generation;
}

const samplesIn = (group: Group): number => group.videos.reduce((n, v) => n + v.samples.length, 0);

/** Names of the groups that a journal holds whole; its invalid tail is cut off. */
async function opened(path: string): Promise<{ journal: Journal; whole: string[] }> {
  const reader = new GroupReader<undefined>();
  const { journal } = await Journal.open(path, (record) => void reader.push(record, undefined));
  return { journal, whole: [...reader.whole.keys()] };
}

/** The records of an iteration's folder, until its work ends. */
export async function recordsOf(dir: string, closing: Closing): Promise<StoredRecords> {
  const records = await StoredRecords.open(dir);
  return closing.keep(records, () => records.close());
}

export class GenerateStage {
  readonly #g: Generating;
  /** Comparisons that this rank asked its judge for. */
  judgeCalls = 0;

  constructor(g: Generating) {
    this.#g = g;
  }

  /** Computes what is missing; the counts of all samples. */
  async run(groups: readonly Group[]): Promise<Counts> {
    const { input, dir, model } = this.#g;
    const { ranks, voices } = input;
    const { journal, whole } = await agreed(ranks, () => opened(join(dir, journalName(ranks?.rank ?? 0))));
    try {
      const done = await this.#doneByAll(whole);
      await staged(voices.common, input.iteration, "generate", done.size > 0, async () => {
        await this.#compute(journal, groups, done);
        await voices.settle(); // before the stage is said to be at its end
      });
      await agreed(ranks, () => journal.sync());
    } finally {
      await journal.close();
    }
    return await byFirst(ranks, () => this.#concluded(model));
  }

  /** Groups that any journal holds, also those of ranks that there are no more. */
  async #doneByAll(mine: readonly string[]): Promise<Set<string>> {
    const { input, dir } = this.#g;
    const { ranks } = input;
    const size = ranks?.size ?? 1;
    const left = await byFirst(ranks, async () => {
      const found: string[] = [];
      for (const { rank, name } of await journalsIn(dir)) {
        if (rank < size) continue;
        const { journal, whole } = await opened(join(dir, name));
        await journal.close();
        found.push(...whole);
      }
      return found;
    });
    return new Set([...left, ...(ranks ? (await ranks.gather(mine)).flat() : mine)]);
  }

  async #compute(journal: Journal, groups: readonly Group[], done: ReadonlySet<string>): Promise<void> {
    const { input, generation } = this.#g;
    const { ranks, voices, finish, signal, iteration, folder } = input;
    const missing = groups.filter((g) => !done.has(g.name));
    let count = groups.filter((g) => done.has(g.name)).reduce((n, g) => n + samplesIn(g), 0);
    const progress = new Progress(voices.common, iteration, "generate", folder.samples.length, count);
    await shareOut(ranks, {
      count: missing.length,
      finish,
      work: async (piece) => {
        signal.throwIfAborted();
        const group = missing[piece]!;
        const { records, outcomes, judgeCalls } = await runGroup(group, generation);
        for (const record of records) void journal.append(record).catch(() => {}); // endGroup() throws the same failure
        await journal.endGroup(group.name);
        this.judgeCalls += judgeCalls;
        this.#tell(outcomes);
      },
      done: (piece) => {
        count += samplesIn(missing[piece]!);
        progress.tell(count);
      },
    });
  }

  #tell(outcomes: readonly Outcome[]): void {
    const { iteration, voices } = this.#g.input;
    for (const outcome of outcomes) voices.own({ type: "pair", iteration, ...outcome });
  }

  /** Counts, guards and the files that are made from the journals. */
  async #concluded(model: VideoLM): Promise<Counts> {
    const { input, dir, before, closing } = this.#g;
    const { folder, settings, prompts, iteration } = input;
    const records = await recordsOf(dir, closing);
    const counts = countsOf(folder.samples, records);
    const { contexts, of } = contextsOf(records, before);
    const censored = censoredOf(records);
    if (censored) this.#tellCensored(counts.truncated, censored);
    guard(records, folder.samples.length, settings.guards, settings.judge);
    const pairs = () => pairsOf(folder.samples, records, of, settings.judge);
    const left = await writeExports(dir, contexts, pairs, {
      iteration,
      seed: settings.seed,
      promptHash: promptsHash(prompts),
      modelHash: await model.hash(),
    });
    if (left > 0)
      this.#warn(
        "NOT_EXPORTED",
        `${left} of the pairs are in pairs.jsonl alone: a text without words, or with half a surrogate pair`,
      );
    const { promptsCut, damagedVideos } = records;
    if (promptsCut > 0) this.#warn("PROMPTS_CUT", `${promptsCut} prompts were cut to fit into the context window`);
    const all = { samples: folder.samples.length, ...counts, promptsCut, ...censored };
    return damagedVideos > 0 ? { ...all, damagedVideos } : all;
  }

  #tellCensored(count: number, { truncatedTokens, keptTokens }: Censored): void {
    const { folder, settings } = this.#g.input;
    const all = folder.samples.length;
    this.#warn(
      "ANSWERS_DROPPED",
      `${count} of ${all} samples (${percent(count / all)}) were left out because an answer was cut at response.maxTokens ${settings.response.maxTokens}: ` +
        `their answers have ${truncatedTokens.toFixed(1)} tokens on average, those of the others ${keptTokens.toFixed(1)}`,
      { count, samples: all, truncatedTokens, keptTokens },
    );
  }

  #warn(code: string, message: string, detail: unknown = {}): void {
    this.#g.input.voices.common({ type: "warning", code, message, detail });
  }
}
