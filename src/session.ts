// What generates and scores: the calls that a model and its sessions share, and a session, which keeps prefixes between them.
import { asyncDispose, disposedError } from "./addon.js";
import { array, options, signal } from "./check.js";
import { generate, type GenerateTarget } from "./generate.js";
import type { HeldMedia, Inputs } from "./inputs.js";
import type { Run } from "./run.js";
import { scoredSequences } from "./sequence.js";
import type { Cancel, Completion, GenerateEvent, GenerateRequest, Sequence } from "./types.js";

const microBatchTokens = 4096; // of logProbs: bounds the activations of one packed batch

/** Shared prefixes (same tokens, same media) are found and computed once; nothing has to be declared. */
export interface Generator {
  /**
   * Answers requests; completions in the order of requests and their copies. Calls at the same time share the running batch,
   * each with the bits that it would have alone. `maxBytes`: of keys and values, for all calls of a model at the same time that
   * name the same (default: a quarter of the machine's memory), or for the session. Rejects with INVALID_ARGUMENT, CONTEXT_OVERFLOW, PLACEHOLDER_MISMATCH, MEDIA_*,
   * OUT_OF_MEMORY, with `detail.request` where one request is at fault, and DISPOSED.
   */
  generate(
    requests: GenerateRequest | readonly GenerateRequest[],
    o?: Cancel & { maxBytes?: number },
  ): Run<GenerateEvent, Completion[]>;
  /** One value per scored token. */
  logProbs(sequences: readonly Sequence[], o?: Cancel): Promise<Float32Array[]>;
}

/** Keeps prefixes until disposed. */
export interface Session extends Generator, AsyncDisposable {
  /** Tokens whose keys and values are kept. */
  readonly cachedTokens: number;
  /** Bytes that they take. */
  readonly bytes: number;
  /** Frees it, and waits for that; the same as `[Symbol.asyncDispose]()`, for code without `await using`. Idempotent. */
  dispose(): Promise<void>;
}

export async function logProbs(target: GenerateTarget, sequences: unknown, o: unknown): Promise<Float32Array[]> {
  const given = options("options", o, ["signal"]);
  const signals = [signal("options.signal", given.signal), target.life];
  if (array("sequences", sequences).length === 0) return [];
  const { inputs } = target;
  return inputs.run(
    signals,
    async (call) => {
      const list = await scoredSequences(call, "sequences", sequences);
      const args = { sequences: list, microBatchTokens };
      return { result: inputs.host.call<Float32Array[]>("logProbs", args, { signals }) };
    },
    { keep: target.keep },
  );
}

export class ModelSession implements Session {
  readonly #target: GenerateTarget;
  readonly #life = new AbortController();
  readonly #media: HeldMedia = new Set();
  #held = { cachedTokens: 0, bytes: 0 };
  #disposal: Promise<void> | undefined;

  constructor(inputs: Inputs, session: number, maxBytes: number | undefined) {
    const held = (state: { cachedTokens: number; bytes: number }) => {
      this.#held = state;
    };
    this.#target = {
      inputs,
      session,
      keep: this.#media,
      life: this.#life.signal,
      held,
      ...(maxBytes === undefined ? {} : { maxBytes }),
    };
  }

  get cachedTokens(): number {
    return this.#held.cachedTokens;
  }
  get bytes(): number {
    return this.#held.bytes;
  }

  generate(
    requests: GenerateRequest | readonly GenerateRequest[],
    o?: Cancel & { maxBytes?: number },
  ): Run<GenerateEvent, Completion[]> {
    return generate(this.#target, requests, o);
  }

  logProbs(sequences: readonly Sequence[], o?: Cancel): Promise<Float32Array[]> {
    return logProbs(this.#target, sequences, o);
  }

  dispose(): Promise<void> {
    this.#disposal ??= this.#close();
    return this.#disposal;
  }

  [asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #close(): Promise<void> {
    this.#life.abort(disposedError("the session"));
    const { inputs, session } = this.#target;
    const { host } = inputs;
    if (!host.disposed)
      await host.call("closeSession", { session }).catch((e) => {
        if (!host.disposed) throw e; // else the model took the session with it
      });
    inputs.media.release(this.#media);
    this.#media.clear();
    this.#held = { cachedTokens: 0, bytes: 0 };
  }
}
