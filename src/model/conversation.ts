// A conversation with a model: its turns so far, and media that wait for the next one. One session keeps what the model has read,
// so that a later turn computes only its own tokens.
import { asyncDispose } from "../base/addon.js";
import { type Run, startRun } from "../base/run.js";
import type { Completion, Media, Message, Sampling } from "../base/types.js";
import type { Session } from "./session.js";
import type { VideoLM } from "./video-lm.js";

type Part = Exclude<Message["content"], string>[number];

export class Conversation {
  readonly #model: VideoLM;
  readonly #sampling: Sampling;
  readonly #opening: readonly Message[];
  #first: readonly Part[] = [];
  #session: Session;
  #messages: readonly Message[];
  #waiting: readonly Part[] = [];

  /** `system`: the system message; undefined: none. */
  constructor(model: VideoLM, { system, sampling = {} }: { system?: string | undefined; sampling?: Sampling }) {
    this.#model = model;
    this.#sampling = sampling;
    this.#opening = system === undefined ? [] : [{ role: "system", content: system }];
    this.#messages = this.#opening;
    this.#session = model.session();
  }

  /** Attaches a medium to the next turn. */
  attach(kind: "video" | "image", media: Media): void {
    this.#waiting = [...this.#waiting, { type: kind, media }];
  }

  /** From now on, what is attached to the next turn is attached to the first turn after each reset too. */
  attachAfterResets(): void {
    this.#first = this.#waiting;
  }

  /** Forgets all turns; what was computed of the media stays with the model while there is room. */
  async reset(): Promise<void> {
    await this.#session[asyncDispose]();
    this.#session = this.#model.session();
    this.#messages = this.#opening;
    this.#waiting = this.#first;
  }

  /**
   * The model's answer to the user's next turn, as {@link Generator.chat} gives it. An answer that is stopped stays in the
   * conversation as far as it went; a turn without any is not part of it.
   */
  ask(text: string, signal?: AbortSignal): Run<string, Completion> {
    const content = this.#waiting.length > 0 ? [...this.#waiting, { type: "text" as const, text }] : text;
    const asked: readonly Message[] = [...this.#messages, { role: "user", content }];
    return startRun<string, Completion>(signal, async (aborted, emit) => {
      let answer = "";
      try {
        const run = this.#session.chat(asked, { ...this.#sampling, signal: aborted });
        for await (const piece of run) {
          answer += piece;
          emit(piece);
        }
        const completion = await run;
        this.#answered(asked, completion.text);
        return completion;
      } catch (e) {
        if (answer !== "" && aborted.aborted) this.#answered(asked, answer);
        throw e;
      }
    });
  }

  #answered(asked: readonly Message[], answer: string): void {
    this.#messages = [...asked, { role: "assistant", content: answer }];
    this.#waiting = [];
  }
}
