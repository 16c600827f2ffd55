// isr-dpo chat DIR: questions about videos and images, either one question or a conversation. Media are decoded once.
import type { Readable } from "node:stream";
import { Command, Option } from "commander";
import { asyncDispose } from "../base/addon.js";
import { type Completion, type FrameSampling, IsrDpoError, type Media, type VideoLM } from "../index.js";
import { fill } from "../base/templates.js";
import { type Speech, speechOf } from "../iterate/run-speech.js";
import { tellUnusedOfChat } from "./unused-flags.js";
import { readUntil } from "./line-files.js";
import { addFrames, addLoading, addSampling, frameSamplingOf, load, samplingOf } from "./flags.js";
import type { LoadFlags, SamplingFlags } from "./flag-types.js";
import { interruption } from "./interrupt.js";
import { Conversation } from "../model/conversation.js";
import { type Attachment, converse } from "./conversation-loop.js";
import { Printable, say } from "./terminal.js";
import { floatList, jsonLine } from "../base/line-files.js";

const maxPromptBytes = 16 << 20;

export interface ChatFlags extends LoadFlags, SamplingFlags, FrameSampling {
  prompt?: string;
  system?: string;
  interactive?: boolean;
  json?: boolean;
  raw?: boolean;
}

/** A conversation on the terminal: media are decoded when they are attached, answers are printed as they come. */
export class PrintedConversation {
  readonly #model: VideoLM;
  readonly #conversation: Conversation;
  readonly #frames: FrameSampling | undefined;
  readonly #decodeFirst: boolean;
  readonly #json: boolean;
  readonly #response: string | undefined;

  /** `speech`: of the run that the model is from; each turn is put as the run puts a question. */
  constructor(model: VideoLM, flags: ChatFlags, speech: Speech | null = null) {
    const prompts = speech?.prompts;
    this.#response = prompts?.response;
    const system = flags.system ?? prompts?.system ?? undefined;
    this.#model = model;
    this.#conversation = new Conversation(model, { system, sampling: samplingOf(flags) });
    this.#frames = frameSamplingOf(flags) ?? speech?.frames;
    this.#decodeFirst = flags.featureCache === undefined;
    this.#json = flags.json === true;
  }

  /** Attaches media to the first turn, and to the first one after each reset. */
  async begin(media: readonly Attachment[], signal: AbortSignal): Promise<void> {
    for (const m of media) await this.attach(m, signal);
    this.#conversation.attachAfterResets();
  }

  /** Attaches a file to the next turn. It is decoded here, unless its features may be on disk already. */
  async attach({ kind, path }: Attachment, signal: AbortSignal): Promise<void> {
    const file: Media = { kind, path, ...(kind === "video" && this.#frames ? { sample: this.#frames } : {}) };
    let media: Media = file;
    if (this.#decodeFirst) {
      const { sourceFrames: _, ...pixels } = await this.#model.preprocess(file, { signal });
      media = { kind, ...pixels };
    }
    this.#conversation.attach(kind, media);
  }

  reset(): Promise<void> {
    return this.#conversation.reset();
  }

  /** Asks, and prints the answer as it comes. */
  async ask(question: string, signal: AbortSignal): Promise<void> {
    const text = this.#response === undefined ? question : fill(this.#response, { question });
    const run = this.#conversation.ask(text, signal);
    const clean = new Printable();
    let begun = false;
    try {
      for await (const piece of run) {
        begun = true;
        if (!this.#json) process.stdout.write(clean.push(piece));
      }
    } finally {
      if (begun && !this.#json) process.stdout.write("\n");
    }
    const completion = await run;
    if (this.#json) process.stdout.write(jsonLine(this.#record(completion)));
    else if (!begun) process.stdout.write("\n");
  }

  #record({ text, ids, logProbs, finishReason }: Completion): object {
    const { counters } = this.#model;
    return { role: "assistant", text, ids: Array.from(ids), logProbs: floatList(logProbs), finishReason, counters };
  }
}

/** All of stdin as the prompt. */
async function promptFrom(input: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of input as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes > maxPromptBytes)
      throw new IsrDpoError(
        "INVALID_ARGUMENT",
        `stdin: expected a prompt of at most ${maxPromptBytes} bytes, got more`,
      );
  }
  const text = Buffer.concat(chunks).toString("utf8").trim();
  if (text === "")
    throw new IsrDpoError("INVALID_ARGUMENT", "stdin: expected a prompt, got nothing", {
      hint: "give --prompt TEXT, or one line per turn with --interactive",
    });
  return text;
}

async function chat(dir: string, flags: ChatFlags, media: readonly Attachment[]): Promise<void> {
  const { signal, off } = interruption();
  let model: VideoLM | undefined;
  try {
    const turns = flags.interactive || process.stdin.isTTY;
    const prompt = flags.prompt ?? (turns ? undefined : await promptFrom(readUntil(signal, process.stdin)));
    const speech = flags.raw ? null : await speechOf(dir);
    const hasPrompts =
      !flags.raw ||
      (await speechOf(dir).then(
        (s) => s?.prompts != null,
        () => true,
      )); // also where they cannot be read
    tellUnusedOfChat(flags, { media, open: prompt === undefined, hasPrompts });
    model = await load(dir, flags, signal, true, speech?.templateDate);
    if (speech?.prompts) say("asked as the run asks, in its response prompt; --raw: in your words alone");
    const conversation = new PrintedConversation(model, flags, speech);
    await conversation.begin(media, signal);
    if (prompt !== undefined) return await conversation.ask(prompt, signal);
    off();
    await converse(conversation);
  } finally {
    off();
    await model?.[asyncDispose]();
  }
}

export function chatCommand(): Command {
  const media: Attachment[] = []; // of both options, in the order of the command line
  const attach = (kind: Attachment["kind"]) => (path: string) => {
    media.push({ kind, path });
    return path;
  };
  const command = new Command("chat")
    .description("ask a model about videos and images; without a prompt, a conversation")
    .argument("<dir>", "folder of a checkpoint, or of a run, whose newest model is used")
    .option("--video <file>", "video file or folder of frames for the first turn (may be given again)", attach("video"))
    .option("--image <file>", "JPEG or PNG for the first turn (may be given again)", attach("image"))
    .option("--prompt <text>", "answer this and exit (default: all of stdin, unless it is a terminal)")
    .option("--system <text>", "system message (default: of a run, its own)")
    .option("--raw", "with a run: use your text as it is, not in the run's response prompt")
    .addOption(new Option("--interactive", "make each line a turn, also from a pipe").conflicts("prompt"))
    .option("--json", "print one JSON object per turn");
  return addLoading(addFrames(addSampling(command)))
    .exitOverride()
    .action((dir: string, flags: ChatFlags) => chat(dir, flags, media));
}
