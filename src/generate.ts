// Generation requests: validated, queued as one job, answered by completions as they end.
import type { Host, NativeCompletion } from "./addon.js";
import { array, ids, integer, number, options, refuse, seed, signal, text } from "./check.js";
import { IsrDpoError } from "./errors.js";
import { type Run, startRun } from "./run.js";
import { promptIds, tokenizerError } from "./sequence.js";
import type { Cancel, Completion, GenerateEvent, GenerateRequest, ModelInfo } from "./types.js";

const samplingKeys = [
  "temperature",
  "topP",
  "topK",
  "maxTokens",
  "stop",
  "suppress",
  "minTokens",
  "stopIds",
  "seed",
  "stream",
];
const requestKeys = ["id", "prompt", "media", "copies", ...samplingKeys];

function nativeRequest(field: string, value: unknown, info: ModelInfo) {
  const r = options(field, value, requestKeys);
  const at = (key: string) => `${field}.${key}`;
  if (r.stop !== undefined && array(at("stop"), r.stop).length > 0) throw tokenizerError(at("stop"));
  const prompt = promptIds(at("prompt"), r.prompt, r.media, info);
  const room = Math.max(1, Math.min(256, info.contextLength - prompt.length)); // the default never overflows by itself
  const maxTokens = r.maxTokens === undefined ? room : integer(at("maxTokens"), r.maxTokens, 1, 2 ** 31 - 1);
  return {
    ids: prompt,
    copies: r.copies === undefined ? 1 : integer(at("copies"), r.copies, 1, 65536),
    temperature: r.temperature === undefined ? 0 : number(at("temperature"), r.temperature, { min: 0 }),
    topP: r.topP === undefined ? 1 : number(at("topP"), r.topP, { above: 0, max: 1 }),
    topK: r.topK === undefined ? 0 : integer(at("topK"), r.topK, 0, 2 ** 31 - 1),
    maxTokens,
    minTokens: r.minTokens === undefined ? 0 : integer(at("minTokens"), r.minTokens, 0, maxTokens),
    suppress: r.suppress === undefined ? new Int32Array(0) : ids(at("suppress"), r.suppress, info.vocabSize),
    stopIds: r.stopIds === undefined ? new Int32Array(0) : ids(at("stopIds"), r.stopIds, info.vocabSize),
    seed: seed(at("seed"), r.seed),
    stream: r.stream === undefined ? "" : text(at("stream"), r.stream),
  };
}

function requestNames(requests: readonly unknown[]): string[] {
  const names = requests.map((r, i) => {
    const id = (r as { id?: unknown } | null)?.id;
    return id === undefined ? String(i) : text(`requests[${i}].id`, id);
  });
  const seen = new Set<string>();
  names.forEach((name, i) => {
    if (seen.has(name)) refuse(`requests[${i}].id`, "an id that no other request of the call has", name);
    seen.add(name);
  });
  return names;
}

export interface GenerateTarget {
  host: Host;
  info: ModelInfo;
  session: number; // 0: none
  maxBytes?: number;
  life?: AbortSignal; // ends with the session
  held?(state: { cachedTokens: number; bytes: number }): void;
}

export function generate(
  target: GenerateTarget,
  requests: GenerateRequest | readonly GenerateRequest[],
  o?: Cancel & { maxBytes?: number },
): Run<GenerateEvent, Completion[]> {
  const given = signalOf(o);
  return startRun<GenerateEvent, Completion[]>(given, async (aborted, emit) => {
    const known = options("options", o, ["signal", "maxBytes"]);
    signal("options.signal", known.signal);
    const maxBytes = known.maxBytes === undefined ? target.maxBytes : integer("options.maxBytes", known.maxBytes, 1);
    const list = Array.isArray(requests) ? (requests as readonly unknown[]) : [requests];
    const natives = list.map((r, i) => nativeRequest(`requests[${i}]`, r, target.info));
    const names = requestNames(list);
    const first = natives.map((_, i) => natives.slice(0, i).reduce((n, r) => n + r.copies, 0));
    const total = natives.reduce((n, r) => n + r.copies, 0);
    if (total === 0) return [];

    const completions = new Array<Completion>(total);
    const event = (c: NativeCompletion) => {
      const completion: Completion = {
        request: names[c.request]!,
        copy: c.copy,
        ids: c.ids,
        text: "",
        logProbs: c.logProbs,
        end: c.stopped ? "stop" : "length",
      };
      completions[first[c.request]! + c.copy] = completion;
      emit({ type: "completion", completion });
    };
    const state = await target.host.call<{ cachedTokens: number; bytes: number }>(
      "generate",
      { requests: natives, session: target.session, maxBytes: maxBytes ?? 0 },
      { signals: [aborted, target.life], event },
    );
    target.held?.(state);
    if (completions.includes(undefined as never)) throw new IsrDpoError("BUG", "generate: a completion is missing");
    return completions;
  });
}

/** The signal of options that are not validated yet: a Run validates inside, where its promise can reject. */
export function signalOf(o: unknown): AbortSignal | undefined {
  const s = (o as { signal?: unknown } | undefined | null)?.signal;
  return s instanceof AbortSignal ? s : undefined;
}
