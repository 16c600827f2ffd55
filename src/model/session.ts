// The calls that generate and score, which a model and its sessions share, and the session, which keeps prefixes between calls.
import { disposedError } from "../base/addon.js";
import { array, options, signal } from "../base/check.js";
import { Disposable } from "../base/disposal.js";
import { chat } from "./chat.js";
import { generate, type GenerateTarget } from "./generate.js";
import type { HeldMedia, Inputs } from "./inputs.js";
import type { Run } from "../base/run.js";
import { scoredSequences } from "./sequence.js";
import type { Cancel, Completion, GenerateEvent, GenerateRequest, Message, Sampling, Sequence } from "../base/types.js";

const microBatchTokens = 4096; // logProbs packs its sequences into batches of this size, which bounds their activations

/** Generates and scores. Shared prefixes (same tokens, same media) are found and computed once, without any declaration. */
export interface Generator {
  /**
   * Answers requests. The run yields events as the answers grow, and resolves to the completions in the order of the requests and
   * the `n` answers of each. Concurrent calls share the running batch, and each gets the same bits as it would get alone.
   * @param requests - one request, or several
   * @param o - `maxBytes` bounds the keys and values of all concurrent calls of a model that give the same number (default: a
   * quarter of the machine's memory), or those of the session
   * @throws {@link IsrDpoError} INVALID_ARGUMENT, CONTEXT_OVERFLOW, PLACEHOLDER_MISMATCH, TOKENIZER, MEDIA_UNREADABLE, MEDIA_EMPTY,
   * FFMPEG_MISSING, NOT_FOUND, OUT_OF_MEMORY; `detail.request` names the request that caused it
   */
  generate(
    requests: GenerateRequest | readonly GenerateRequest[],
    o?: Cancel & { maxBytes?: number },
  ): Run<GenerateEvent, Completion[]>;
  /**
   * Generates the assistant's next turn. The run yields pieces of its text, and resolves to the completion. Special tokens that a
   * user typed are ordinary text (`specialTokens` defaults to "text").
   * @throws {@link IsrDpoError} as {@link Generator.generate}
   * @example
   * ```ts
   * import type { VideoLM } from "isr-dpo";
   *
   * async function ask(model: VideoLM, video: string): Promise<string> {
   *   const media = { path: video, sample: { frames: 8 } };
   *   const run = model.chat([
   *     { role: "user", content: [{ type: "video", media }, { type: "text", text: "What happens?" }] },
   *   ]);
   *   for await (const piece of run) process.stdout.write(piece);
   *   return (await run).text;
   * }
   * ```
   */
  chat(messages: readonly Message[], o?: Sampling & Cancel): Run<string, Completion>;
  /**
   * Log-probs, in nats, of the scored tokens of each sequence: one value per scored token.
   * @throws {@link IsrDpoError} INVALID_ARGUMENT, CONTEXT_OVERFLOW, PLACEHOLDER_MISMATCH, OUT_OF_MEMORY
   */
  logProbs(sequences: readonly Sequence[], o?: Cancel): Promise<Float32Array[]>;
}

/** A session keeps the keys and values of its prompts and answers for later calls, until it is disposed of. */
export interface Session extends Generator, AsyncDisposable {
  /** Number of tokens whose keys and values are kept. */
  readonly cachedTokens: number;
  /** Bytes that these keys and values take. */
  readonly bytes: number;
  /**
   * Frees the session's memory. It may be called again. It is the same as `[Symbol.asyncDispose]()`, for code without
   * `await using`.
   */
  dispose(): Promise<void>;
}

async function logProbs(target: GenerateTarget, sequences: unknown, o: unknown): Promise<Float32Array[]> {
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

/** What generates and scores on a target, until it is disposed of. */
export abstract class TargetGenerator extends Disposable implements Generator {
  protected abstract readonly target: GenerateTarget;

  generate(
    requests: GenerateRequest | readonly GenerateRequest[],
    o?: Cancel & { maxBytes?: number },
  ): Run<GenerateEvent, Completion[]> {
    return generate(this.target, requests, o);
  }

  chat(messages: readonly Message[], o?: Sampling & Cancel): Run<string, Completion> {
    return chat(this.target, messages, o);
  }

  logProbs(sequences: readonly Sequence[], o?: Cancel): Promise<Float32Array[]> {
    return logProbs(this.target, sequences, o);
  }
}

export class ModelSession extends TargetGenerator implements Session {
  protected readonly target: GenerateTarget;
  readonly #life = new AbortController();
  readonly #media: HeldMedia = new Set();
  #held = { cachedTokens: 0, bytes: 0 };

  constructor(inputs: Inputs, session: number, maxBytes: number | undefined) {
    super();
    const held = (state: { cachedTokens: number; bytes: number }) => {
      this.#held = state;
    };
    this.target = {
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

  protected override async close(): Promise<void> {
    this.#life.abort(disposedError("the session"));
    const { inputs, session } = this.target;
    const { host } = inputs;
    if (!host.disposed)
      await host.call("closeSession", { session }).catch((e) => {
        if (!host.disposed) throw e; // otherwise disposing of the model has closed the session too
      });
    inputs.media.release(this.#media);
    this.#media.clear();
    this.#held = { cachedTokens: 0, bytes: 0 };
  }
}
