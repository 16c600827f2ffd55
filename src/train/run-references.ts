// The reference log-probs of a run, of its items and of its evaluation set: scored by all ranks, kept by rank 0, read by all.
import type { VideoLM } from "../model/video-lm.js";
import type { ItemSet } from "./item-store.js";
import { mediaOpener } from "./media-ahead.js";
import type { Closing } from "./open-resources.js";
import { type Emit, staged } from "./progress.js";
import { agreed, byFirst, inTurn, leads } from "./ranks/agree.js";
import type { Communicator } from "./ranks/group.js";
import { ReferenceStore } from "./reference-logprobs.js";
import { scoreReferences } from "./score-references.js";
import type { Trainer } from "./trainer.js";

const itemsName = "refs.f32";
const evaluationName = "eval-refs.f32";

interface Surroundings {
  /** A name in the run's folder, as a path. */
  at(name: string): string;
  closing: Closing;
  emit: Emit;
  iteration: number;
  /** Items of one call and rank. */
  batch: number;
  signal: AbortSignal;
  finish: AbortSignal;
  ranks: Communicator | undefined;
}

export class RunReferences {
  readonly #o: Surroundings;

  constructor(o: Surroundings) {
    this.#o = o;
  }

  async #open(name: string): Promise<ReferenceStore> {
    const store = await ReferenceStore.open(this.#o.at(name));
    return this.#o.closing.keep(store, () => store.close());
  }

  /** A file to write, which rank 0 has. */
  #openToWrite(name: string): Promise<ReferenceStore | null> {
    const { ranks } = this.#o;
    return agreed(ranks, async () => (leads(ranks) ? await this.#open(name) : null));
  }

  #scoring(model: VideoLM, trainer: Trainer, items: ItemSet, references: ReferenceStore | null): Promise<void> {
    const { emit, iteration, batch, signal, finish, ranks } = this.#o;
    const open = mediaOpener(model);
    return scoreReferences({ trainer, items, open, references, batch, iteration, emit, signal, finish, ranks });
  }

  /** The stage; `begun`: by an earlier process. */
  async score(model: VideoLM, trainer: Trainer, set: ItemSet, begun: boolean): Promise<void> {
    const { emit, iteration } = this.#o;
    const references = await this.#openToWrite(itemsName);
    const resumed = begun && (references?.count ?? 0) > 0;
    await staged(emit, iteration, "score", resumed, () => this.#scoring(model, trainer, set, references));
  }

  /** Those of the items. What was lost of them is scored anew, to the same bits: the trainer stands at the start model still. */
  async ofItems(model: VideoLM, trainer: Trainer, set: ItemSet): Promise<ReferenceStore> {
    const { ranks, emit } = this.#o;
    const references = await inTurn(ranks, () => this.#open(itemsName));
    const count = await byFirst(ranks, async () => references.count);
    if (count >= set.length) return references;
    const path = this.#o.at(itemsName);
    emit({
      type: "warning",
      code: "REFERENCES_LOST",
      message: `${path}: expected log-probs of ${set.length} items, got ${count}: the others are scored again`,
      detail: { path, items: set.length, found: count },
    });
    await this.#scoring(model, trainer, set, await this.#openToWrite(itemsName));
    return await inTurn(ranks, () => this.#open(itemsName));
  }

  /** Those of the evaluation set, scored where they are missing: under the start model, before the first step. */
  async ofEvaluation(model: VideoLM, trainer: Trainer, set: ItemSet): Promise<ReferenceStore> {
    await this.#scoring(model, trainer, set, await this.#openToWrite(evaluationName));
    return await inTurn(this.#o.ranks, () => this.#open(evaluationName));
  }
}
