// chat(): one request whose events are pieces of text.
import { array, options, signalOf } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import { disposedMeanwhile, type GenerateTarget, generate } from "./generate.js";
import { renamed } from "../base/renamed.js";
import { type Run, startRun } from "../base/run.js";
import { samplingKeys } from "./sampling-options.js";
import type { Cancel, Completion, Message, Sampling } from "../base/types.js";

export function chat(
  target: GenerateTarget,
  messages: readonly Message[],
  o?: Sampling & Cancel,
): Run<string, Completion> {
  const body = async (signal: AbortSignal, emit: (text: string) => void) => {
    const known = [...samplingKeys, "signal"];
    const { signal: _, ...sampling } = options("options", renamed("options", o, "stream"), known) as Sampling & Cancel;
    array("messages", messages);
    target.inputs.tokenizer("messages");
    const run = generate(target, { specialTokens: "text", ...sampling, prompt: messages }, { signal });
    for await (const event of run) if (event.type === "text") emit(event.text);
    const [completion] = await run;
    if (!completion) throw new IsrDpoError("BUG", "chat: no completion");
    return completion;
  };
  return startRun<string, Completion>(signalOf(o), body, { owned: disposedMeanwhile(target) });
}
