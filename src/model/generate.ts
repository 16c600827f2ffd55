// Generation requests are validated and become one job, which shares the model's running batch. Text is reported while it
// grows, and completions when they end.
import type { NativeCompletion, NativeToken } from "../base/addon.js";
import { ids, integer, options, refuse, signal, signalOf, text } from "../base/check.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { oldNames, resolved } from "../base/option-rows.js";
import type { Call, HeldMedia, Inputs } from "./inputs.js";
import { renamed, withOldName } from "../base/renamed.js";
import { type Run, startRun } from "../base/run.js";
import { requestRows } from "./sampling-options.js";
import { each, resolvePrompt } from "./sequence.js";
import { TextBranch } from "./text-stream.js";
import type { ModelTokenizer } from "../text/model-tokenizer.js";
import type { Cancel, Completion, GenerateEvent, GenerateRequest } from "../base/types.js";

const requestKeys = ["id", "prompt", "media", ...Object.keys(requestRows)];

interface Request {
  native: object & { copies: number; minTokens: number };
  stops: string[];
}

async function resolveRequest(call: Call, field: string, value: unknown): Promise<Request> {
  const { info } = call;
  const at = (key: string) => `${field}.${key}`;
  const given = options(field, renamed(field, value, ...oldNames(requestRows)), requestKeys);
  const { id: _, prompt: asked, media, ...rest } = given;
  const { n, maxTokens: most, stop = [], suppress = [], stopIds = [], ...o } = resolved(field, rest, requestRows);
  if (stop.length > 0) call.tokenizer(at("stop"));
  const { ids: prompt } = await resolvePrompt(call, at("prompt"), asked, media, o.specialTokens === "text");
  const room = Math.max(1, Math.min(256, info.contextLength - prompt.length)); // the default alone never exceeds the context
  const maxTokens = most ?? room;
  const native = {
    ...{ ids: prompt, copies: n, temperature: o.temperature, topP: o.topP, topK: o.topK, maxTokens },
    minTokens: integer(at("minTokens"), o.minTokens, 0, maxTokens),
    suppress: ids(at("suppress"), suppress, info.vocabSize),
    stopIds: Int32Array.from([...call.endsBeyond, ...ids(at("stopIds"), stopIds, info.vocabSize)]),
    ...{ seed: o.seed, stream: o.randomStream },
  };
  return { native, stops: [...stop] };
}

const nameOf = (request: number): string => `requests[${request}]`;

/** A message without the name of the request that it begins with: the engine gives that as text alone. */
function reasonOf(message: string, request: number): string {
  const name = nameOf(request);
  return message.startsWith(name) ? message.slice(name.length).replace(/^(\.|: )/, "") : message;
}

/** A failure that is about one request of a call: `detail.request` is its index, `detail.reason` the message without its name. */
function ofRequest(e: unknown, request: number): unknown {
  if (!isIsrDpoError(e)) return e;
  const { code, message, hint, path, detail } = e;
  return new IsrDpoError(code, message, {
    ...(hint === undefined ? {} : { hint }),
    ...(path === undefined ? {} : { path }),
    detail: { ...detail, request, reason: reasonOf(message, request) },
    cause: e,
  });
}

/** A failure of the engine's job: what is about one request names it alone. */
function ofJob(e: unknown): unknown {
  const items = isIsrDpoError(e) ? (e.detail?.items as readonly number[] | undefined) : undefined;
  return items?.length === 1 ? ofRequest(e, items[0]!) : e;
}

function requestNames(requests: readonly unknown[]): string[] {
  const names = requests.map((r, i) => {
    const id = (r as { id?: unknown } | null)?.id;
    return id === undefined ? String(i) : text(`${nameOf(i)}.id`, id);
  });
  const seen = new Set<string>();
  names.forEach((name, i) => {
    if (seen.has(name)) refuse(`${nameOf(i)}.id`, "an id that no other request of the call has", name);
    seen.add(name);
  });
  return names;
}

export interface GenerateTarget {
  inputs: Inputs;
  session: number; // 0: none
  maxBytes?: number;
  life?: AbortSignal; // ends with the session
  keep?: HeldMedia; // media that a session holds
  held?(state: { cachedTokens: number; bytes: number }): void;
}

/** Takes a job's events: tokens become text, completions are cut where a stop string ended them. */
class Collector {
  readonly completions: Completion[];
  readonly #branches: (TextBranch | undefined)[];
  readonly #first: number[];
  #endBranch: (request: number, copy: number) => void = () => {};

  constructor(
    readonly names: readonly string[],
    readonly requests: readonly Request[],
    tokenizer: ModelTokenizer | null,
    readonly emit: (event: GenerateEvent) => void,
  ) {
    this.#first = requests.map((_, i) => requests.slice(0, i).reduce((n, r) => n + r.native.copies, 0));
    this.completions = new Array<Completion>(requests.reduce((n, r) => n + r.native.copies, 0));
    this.#branches = requests.flatMap((r) =>
      Array.from({ length: r.native.copies }, () =>
        tokenizer ? new TextBranch(tokenizer, r.stops, r.native.minTokens) : undefined,
      ),
    );
  }

  readonly control = (endBranch: (request: number, copy: number) => void): void => {
    this.#endBranch = endBranch;
  };

  readonly event = (e: NativeToken | NativeCompletion): void => {
    if ("id" in e) this.#token(e);
    else this.#completion(e);
  };

  #text(request: number, copy: number, piece: string): void {
    if (piece !== "") this.emit({ type: "text", request: this.names[request]!, copy, text: piece });
  }

  #token({ request, copy, id }: NativeToken): void {
    const branch = this.#branches[this.#first[request]! + copy];
    if (!branch) return;
    const running = branch.stoppedAfter === undefined;
    this.#text(request, copy, branch.push(id));
    if (running && branch.stoppedAfter !== undefined) this.#endBranch(request, copy);
  }

  #completion(c: NativeCompletion): void {
    const at = this.#first[c.request]! + c.copy;
    const branch = this.#branches[at];
    if (branch) this.#text(c.request, c.copy, branch.end());
    const cut = branch?.stoppedAfter;
    const answer = {
      request: this.names[c.request]!,
      copy: c.copy,
      ids: cut === undefined ? c.ids : c.ids.slice(0, cut),
      text: branch?.text ?? "",
      logProbs: cut === undefined ? c.logProbs : c.logProbs.slice(0, cut),
      finishReason: c.stopped || cut !== undefined ? ("stop" as const) : ("length" as const),
    };
    const completion: Completion = withOldName(answer, "end");
    this.completions[at] = completion;
    this.emit({ type: "completion", completion });
  }
}

/** For runs of a model or session that stands now: true for the failure that disposing of it while they go on gives them. */
export function disposedMeanwhile({ inputs, life }: GenerateTarget): (failure: unknown) => boolean {
  const disposed = () => inputs.host.disposed || life?.aborted === true;
  const stood = !disposed();
  return (failure) => stood && disposed() && isIsrDpoError(failure, "DISPOSED");
}

export function generate(
  target: GenerateTarget,
  requests: GenerateRequest | readonly GenerateRequest[],
  o?: Cancel & { maxBytes?: number },
): Run<GenerateEvent, Completion[]> {
  const { inputs } = target;
  const owned = disposedMeanwhile(target);
  const body = async (aborted: AbortSignal, emit: (event: GenerateEvent) => void) => {
    const known = options("options", o, ["signal", "maxBytes"]);
    signal("options.signal", known.signal);
    const maxBytes = known.maxBytes === undefined ? target.maxBytes : integer("options.maxBytes", known.maxBytes, 1);
    const list = Array.isArray(requests) ? (requests as readonly unknown[]) : [requests];
    let collector: Collector | undefined;
    const prepare = async (call: Call) => {
      const resolved = await each(list, (r, i) =>
        resolveRequest(call, nameOf(i), r).catch((e) => {
          throw ofRequest(e, i);
        }),
      );
      const tokenizer = inputs.tokenizerOrNull;
      const collected = new Collector(requestNames(list), resolved, tokenizer, emit);
      collector = collected;
      const args = {
        requests: resolved.map((r) => r.native),
        session: target.session,
        maxBytes: maxBytes ?? 0,
        stream: tokenizer !== null,
      };
      const { event, control } = collected;
      const signals = [aborted, target.life];
      return {
        result: inputs.host.call<{ cachedTokens: number; bytes: number }>("generate", args, {
          signals,
          event,
          control,
        }),
      };
    };
    if (list.length === 0) return [];
    const state = await inputs.run([aborted, target.life], prepare, { keep: target.keep }).catch((e) => {
      throw ofJob(e);
    });
    target.held?.(state);
    const { completions } = collector!;
    if (completions.includes(undefined as never)) throw new IsrDpoError("BUG", "generate: a completion is missing");
    return completions;
  };
  return startRun<GenerateEvent, Completion[]>(signalOf(o), body, { owned });
}
