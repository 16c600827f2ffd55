// Turns what callers give (strings, messages, sequences with media) into ids that the engine takes. Calls prepare their
// prompts concurrently, so that a call whose video must be decoded first does not delay others. A call that changes weights
// keeps its place: its job is submitted after those of the calls before it, and before those of the calls behind it, whatever
// must be opened first.
import { setMaxListeners } from "node:events";
import type { Host, NativeVision } from "../base/addon.js";
import { disposedError } from "../base/addon.js";
import { array, object, refuse, show } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import type { MediaKind, MediaRegistry, Placed } from "./media-registry.js";
import type { Repairs } from "../text/answer-span.js";
import type { EndTokens } from "../text/stop-tokens.js";
import type { Turns } from "../text/conversation.js";
import type { PlaceholderRules } from "../text/media-prompt.js";
import type { ModelTokenizer } from "../text/model-tokenizer.js";
import type { Media, Message, ModelInfo } from "../base/types.js";

/** Ids as the engine takes them, and how they came from what was given. */
export interface Expanded {
  /** Media rows have the ids of their medium. */
  ids: Int32Array;
  /** With the family's placeholders in place of media rows. */
  shown: Int32Array;
  /** Index in `ids` of each given id. */
  starts: Int32Array;
}

type Acquired = Awaited<ReturnType<MediaRegistry["acquire"]>>;
/** Media that a session uses until it is disposed. */
export type HeldMedia = Set<Acquired>;

/** One call: what it uses is given back when it ends, or kept by its session. */
export class Call {
  readonly #inputs: Inputs;
  readonly #held = new Set<Acquired>();
  readonly #keep: HeldMedia | undefined;
  readonly signal: AbortSignal | undefined;
  /** Nothing is opened: media are described, and the ids are for counting only. */
  counting = false;
  /** What was put right in the sequences of the call; null: nothing. */
  repairs: Repairs | null = null;

  constructor(inputs: Inputs, signal: AbortSignal | undefined, keep: HeldMedia | undefined) {
    this.#inputs = inputs;
    this.signal = signal;
    this.#keep = keep;
  }

  get info(): ModelInfo {
    return this.#inputs.info;
  }
  /** End tokens that the engine does not know by itself. */
  get endsBeyond(): Int32Array {
    return this.#inputs.ends.beyond;
  }
  get rules(): PlaceholderRules {
    return this.#inputs.rules;
  }
  tokenizer(field: string): ModelTokenizer {
    return this.#inputs.tokenizer(field);
  }
  get tokenizerOrNull(): ModelTokenizer | null {
    return this.#inputs.tokenizerOrNull;
  }

  /** Counts what was put right, each kind at most once per item. */
  repaired(found: Partial<Repairs>): void {
    for (const [kind, n] of Object.entries(found) as [keyof Repairs, number][]) {
      if (n === 0) continue;
      this.repairs ??= { endAdded: 0, endDoubled: 0, rendered: 0, merged: 0, endOpen: 0 };
      this.repairs[kind] = 1;
    }
  }

  async place(field: string, media: Media): Promise<Acquired> {
    const entry = await this.#inputs.media.acquire(field, media, this.signal);
    if (this.#held.has(entry) || this.#keep?.has(entry))
      this.#inputs.media.release([entry]); // one use per call is enough
    else (this.#keep ?? this.#held).add(entry);
    return entry;
  }

  async placeAll(field: string, media: readonly Media[]): Promise<Placed[]> {
    const settled = await Promise.allSettled(media.map((m, i) => this.place(`${field}[${i}]`, m)));
    const failed = settled.find((s) => s.status === "rejected");
    if (failed) throw (failed as PromiseRejectedResult).reason;
    return settled.map((s) => (s as PromiseFulfilledResult<Placed>).value);
  }

  /** What the media will be, without opening them: their ids are nobody's. */
  describeAll(field: string, media: readonly Media[]): Placed[] {
    const firstId = this.info.vocabSize;
    return media.map((m, i) => ({ ...this.#inputs.media.describe(`${field}[${i}]`, m), firstId }));
  }

  end(): void {
    this.#inputs.media.release(this.#held);
    this.#held.clear();
  }
}

export function rulesOf(vision: NativeVision | undefined): PlaceholderRules {
  if (!vision) return { style: "none", image: null, video: null, perVideo: 1, visualTokens: () => 1 };
  return {
    style: vision.original ? "original" : "expanded",
    image: vision.image ? vision.imageToken : null,
    video: vision.video ? vision.videoToken : null,
    perVideo: vision.perVideo,
    withText: (["video", "image"] as const).filter((kind) => vision[kind]?.withText),
    visualTokens: () => 1,
  };
}

export class Inputs {
  #barrier: Promise<unknown> = Promise.resolve(); // resolves when the last call that changes weights has been submitted
  readonly #preparing = new Set<Promise<unknown>>(); // later calls that have not been submitted yet
  /** Kinds of repairs that somebody has been told of. */
  readonly told = new Set<keyof Repairs>();
  /** One placeholder a medium: expand() repeats it. */
  readonly rules: PlaceholderRules;

  constructor(
    readonly host: Host,
    readonly info: ModelInfo,
    readonly vision: NativeVision | undefined,
    readonly media: MediaRegistry,
    private readonly givenTokenizer: ModelTokenizer | IsrDpoError,
    /** Where generations end; `beyond`: those that the engine does not know by itself. */
    readonly ends: EndTokens & { beyond: Int32Array },
  ) {
    this.rules = rulesOf(vision);
  }

  tokenizer(field: string): ModelTokenizer {
    const t = this.givenTokenizer;
    if (!(t instanceof IsrDpoError)) return t;
    throw new IsrDpoError(t.code, `${field}: ${t.message}`, { ...(t.hint ? { hint: t.hint } : {}), cause: t });
  }
  get tokenizerOrNull(): ModelTokenizer | null {
    return this.givenTokenizer instanceof IsrDpoError ? null : this.givenTokenizer;
  }

  /** A job without prompts, in its turn. */
  call<R>(
    job: Parameters<Host["call"]>[0],
    args: object,
    signals: readonly (AbortSignal | undefined)[] = [],
    o: RunOptions = {},
  ): Promise<R> {
    return this.run(signals, async () => ({ result: this.host.call<R>(job, args, { signals }) }), o);
  }

  /** What was put right in a call's sequences is reported once per model, unless a run reports it in its own way. */
  async #tell({ counting, repairs }: Call): Promise<void> {
    if (counting || !repairs) return;
    const fresh = (Object.keys(repairs) as (keyof Repairs)[]).filter((k) => repairs[k] > 0 && !this.told.has(k));
    if (fresh.length === 0) return;
    const { repairTexts } = await import("../text/answer-span.js");
    for (const kind of fresh) {
      this.told.add(kind);
      process.emitWarning(repairTexts[kind][1], { code: "ISR_DPO_DATA" });
    }
  }

  #turn<T>(alone: boolean, prepare: () => Promise<T>): Promise<T> {
    const before = alone ? Promise.all([this.#barrier, ...this.#preparing]) : this.#barrier;
    const prepared = before.then(prepare);
    const submitted = prepared.then(
      () => undefined,
      () => undefined,
    );
    if (alone) {
      this.#barrier = submitted;
      return prepared;
    }
    this.#preparing.add(submitted);
    void submitted.then(() => this.#preparing.delete(submitted));
    return prepared;
  }

  /**
   * Prepares a call and submits it. `prepare` calls the host at its end, without waiting, and gives the promise in an object,
   * so that the turn of those behind it comes when this one is submitted, not when it is done.
   */
  async run<R>(
    signals: readonly (AbortSignal | undefined)[],
    prepare: (call: Call) => Promise<{ result: Promise<R> }>,
    { keep, alone = false }: RunOptions = {},
  ): Promise<R> {
    if (this.host.disposed) throw disposedError("the model");
    const given = signals.filter((s) => s !== undefined);
    const signal = given.length > 0 ? AbortSignal.any(given) : undefined;
    if (signal) setMaxListeners(0, signal); // each medium that is being opened adds a listener: many of them are no leak
    signal?.throwIfAborted();
    const call = new Call(this, signal, keep);
    const prepared = this.#turn(alone, () => {
      signal?.throwIfAborted();
      return prepare(call);
    });
    try {
      const result = await (await untilAborted(prepared, signal)).result;
      await this.#tell(call);
      return result;
    } finally {
      void prepared.then(
        ({ result }) => result.finally(() => call.end()).catch(() => undefined),
        () => call.end(),
      );
    }
  }
}

/** `keep`: where media stay until a session ends; `alone`: the job changes weights. */
interface RunOptions {
  keep?: HeldMedia | undefined;
  alone?: boolean;
}

function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

function mismatch(field: string, message: string): IsrDpoError {
  return new IsrDpoError("PLACEHOLDER_MISMATCH", `${field}: ${message}`, {
    hint: "ids hold one placeholder run for each medium, in the order of media",
    detail: { field },
  });
}

interface ExpandOptions {
  onePlaceholder?: boolean; // ids hold one for each medium, not one for each row
  open?: boolean; // false: count the media's rows without opening them; the ids are for counting only
  idsField?: string; // for messages
}

/** The name of a field of something that may have no name of its own. */
const below = (field: string, name: string): string => (field === "" ? name : `${field}.${name}`);

/** Ids checked against vocabulary, with media rows put in place of their placeholders. */
export async function expand(
  call: Call,
  field: string,
  ids: unknown,
  media: unknown,
  { onePlaceholder = false, open = true, idsField = below(field, "ids") }: ExpandOptions = {},
): Promise<Expanded> {
  if (!(ids instanceof Int32Array) && !Array.isArray(ids))
    refuse(idsField, "token ids (Int32Array or an array of integers)", ids);
  const given = ids as ArrayLike<unknown>;
  if (given.length === 0) refuse(idsField, "at least one token id", ids);
  const { rules, info } = call;
  const original = rules.style === "original";
  for (let i = 0; i < given.length; i++) {
    const id = given[i];
    const special = original && (id === -200 || id === -201); // perhaps of a kind that the model lacks, which is refused below
    if (!Number.isInteger(id) || (((id as number) < 0 || (id as number) >= info.vocabSize) && !special))
      refuse(`${idsField}[${i}]`, `an integer in [0, ${info.vocabSize})`, id);
  }
  const at = below(field, "media");
  const list = media === undefined ? [] : (array(at, media) as readonly Media[]);
  if (rules.style === "none" && list.length > 0) await call.place(`${at}[0]`, list[0]!); // it throws the reason
  const placed = open && !call.counting ? await call.placeAll(at, list) : call.describeAll(at, list);
  const all = Int32Array.from(given as ArrayLike<number>);
  const pieces =
    original || onePlaceholder ? byPlaceholder(field, call, all, placed, original) : byRows(field, call, all, placed);
  return assemble(field || "item", all, pieces, info);
}

/** A run of given ids that stands for rows of a medium: each of `count` ids becomes `rows` ids. */
interface Piece {
  at: number;
  count: number;
  rows: number;
  firstId: number;
}

/** Video-LLaVA's own code has one placeholder for both kinds. */
const standsFor = (rules: PlaceholderRules, id: number, kind: MediaKind): boolean => id === rules[kind];

/** Original layouts, and prompts of ours: a placeholder (or `perVideo` in a row) per medium. */
function byPlaceholder(
  field: string,
  call: Call,
  ids: Int32Array,
  placed: readonly Placed[],
  original: boolean,
): Piece[] {
  const pieces: Piece[] = [];
  const { rules } = call;
  let next = 0;
  for (let i = 0; i < ids.length; i++) {
    if (!standsFor(rules, ids[i]!, "video") && !standsFor(rules, ids[i]!, "image")) continue;
    const medium = placed[next];
    if (!medium)
      throw mismatch(
        `${below(field, "ids")}[${i}]`,
        `expected a placeholder for each of ${placed.length} media, got one more`,
      );
    if (!standsFor(rules, ids[i]!, medium.kind))
      throw mismatch(
        `${below(field, "ids")}[${i}]`,
        `expected a placeholder of ${medium.kind} ${next}, got one of another kind (${ids[i]})`,
      );
    const count = original && medium.kind === "video" ? rules.perVideo : 1;
    for (let k = 1; k < count; k++)
      if (ids[i + k] !== ids[i])
        throw mismatch(`${below(field, "ids")}[${i}]`, `expected ${count} placeholders in a row for a video, got ${k}`);
    pieces.push({ at: i, count, rows: medium.rows / count, firstId: medium.firstId });
    i += count - 1;
    next += 1;
  }
  if (next < placed.length)
    throw mismatch(below(field, "media"), `expected as many media as placeholders (${next}), got ${placed.length}`);
  return pieces;
}

/** Hugging Face layouts: ids hold a placeholder a row; the media of each kind take theirs in order. */
function byRows(field: string, call: Call, ids: Int32Array, placed: readonly Placed[]): Piece[] {
  const pieces: Piece[] = [];
  const { video, image } = call.rules;
  for (const id of new Set([video, image].filter((x) => x !== null))) {
    const media = placed.filter((p) => call.rules[p.kind] === id); // some families have one placeholder for both
    const what = video === image ? "media" : id === video ? "videos" : "images";
    const wanted = media.reduce((n, m) => n + m.rows, 0);
    const places: number[] = [];
    ids.forEach((x, i) => {
      if (x === id) places.push(i);
    });
    if (places.length !== wanted)
      throw mismatch(
        below(field, "ids"),
        `expected ${wanted} placeholders (${id}) for the rows of ${media.length} ${what}, got ${places.length}`,
      );
    let at = 0;
    for (const m of media)
      for (let row = 0; row < m.rows; row++)
        pieces.push({ at: places[at++]!, count: 1, rows: 1, firstId: m.firstId + row });
  }
  return pieces.sort((a, b) => a.at - b.at);
}

/** CONTEXT_OVERFLOW for more tokens than the model's context holds. */
export function contextFits(field: string, length: number, info: ModelInfo): void {
  if (length <= info.contextLength) return;
  throw new IsrDpoError(
    "CONTEXT_OVERFLOW",
    `${field}: ${length} tokens do not fit into the context of ${info.contextLength}`,
    {
      hint: "shorten the sequence",
      detail: { field, tokens: length, contextLength: info.contextLength },
    },
  );
}

function assemble(field: string, given: Int32Array, pieces: readonly Piece[], info: ModelInfo): Expanded {
  const length = given.length + pieces.reduce((n, p) => n + p.count * (p.rows - 1), 0);
  contextFits(field, length, info);
  const out: Expanded = {
    ids: new Int32Array(length),
    shown: new Int32Array(length),
    starts: new Int32Array(given.length),
  };
  let to = 0;
  let piece = 0;
  for (let i = 0; i < given.length; i++) {
    out.starts[i] = to;
    while (piece < pieces.length && pieces[piece]!.at + pieces[piece]!.count <= i) piece++;
    const p = pieces[piece];
    if (!p || i < p.at) {
      out.ids[to] = given[i]!;
      out.shown[to++] = given[i]!;
      continue;
    }
    for (let r = 0; r < p.rows; r++) {
      out.ids[to] = p.firstId + (i - p.at) * p.rows + r;
      out.shown[to++] = given[i]!;
    }
  }
  return out;
}

/** A mask over the given ids as one over the rows; placeholders cannot be scored. */
export function expandMask(field: string, mask: Uint8Array, e: Expanded, vocabSize: number): Uint8Array {
  const out = new Uint8Array(e.ids.length);
  for (let i = 0; i < mask.length; i++) {
    if (!mask[i]) continue;
    const at = e.starts[i]!;
    if (e.ids[at]! >= vocabSize) refuse(`${field}[${i}]`, "0: a placeholder is not predicted", mask[i]);
    out[at] = 1;
  }
  return out;
}

/** One user turn, with the media before its text. */
export function userTurn(field: string, text: string, media: unknown): Message[] {
  const list = media === undefined ? [] : (array(`${field}.media`, media) as readonly Media[]);
  if (list.length === 0) return [{ role: "user", content: text }];
  const parts = list.map((m) => {
    const image = typeof m === "object" && m !== null && "kind" in m && (m as { kind?: unknown }).kind === "image";
    return { type: image ? ("image" as const) : ("video" as const), media: m };
  });
  return [{ role: "user", content: [...parts, { type: "text", text }] }];
}

export function messagesOf(field: string, prompt: unknown, media: unknown): readonly Message[] | null {
  if (typeof prompt === "string") return userTurn(field, prompt, media);
  if (media !== undefined)
    throw new IsrDpoError("INVALID_ARGUMENT", `${field}: media beside a prompt goes with a string prompt only`, {
      detail: { field },
    });
  if (Array.isArray(prompt)) return prompt as readonly Message[];
  const o = object(field, prompt);
  if (o.messages !== undefined || o.role !== undefined)
    throw new IsrDpoError("INVALID_ARGUMENT", `${field}: expected the list of messages itself, got ${show(o)}`, {
      hint: "prompt: [{ role: 'user', content: '...' }]",
      detail: { field },
    });
  if (o.ids === undefined) refuse(field, "a string, messages, or a Sequence with ids", prompt);
  return null;
}

export interface BuiltSequence extends Expanded {
  /** Mask over ids of assistant tokens; found when it is read, for not every template can tell. */
  readonly lossMask: Uint8Array;
  /** Before expansion, as a Sequence holds them. */
  given: Int32Array;
  media: readonly Media[];
}

/** Throws for tokens that the checkpoint's embedding does not have. */
export function known(field: string, tokenizer: ModelTokenizer, ids: Int32Array, info: ModelInfo): Int32Array {
  const lost = ids.find((id) => id >= info.vocabSize);
  if (lost === undefined) return ids;
  throw new IsrDpoError(
    "TOKENIZER",
    `${field}: the text holds the token ${JSON.stringify(tokenizer.piece(lost) ?? "")} (id ${lost}), which the checkpoint's embedding of ${info.vocabSize} rows lacks`,
    {
      hint: "take the tokenizer that belongs to this checkpoint, or keep the token out of the text (specialTokens: 'text')",
      detail: { field, id: lost },
    },
  );
}

/** For texts that cannot fit by their length alone: refused before they are cut into tokens. */
export function fitsContext(field: string, info: ModelInfo): (fewest: number) => void {
  return (fewest) => {
    if (fewest <= info.contextLength) return;
    throw new IsrDpoError(
      "CONTEXT_OVERFLOW",
      `${field}: at least ${fewest} tokens do not fit into the context of ${info.contextLength}`,
      {
        hint: "shorten the sequence",
        detail: { field, tokens: fewest, contextLength: info.contextLength },
      },
    );
  };
}

interface BuildOptions {
  generate: boolean;
  open?: boolean;
  turns?: Turns;
  words?: boolean;
}

/**
 * The ids of a conversation; `generate` opens the assistant's turn; `turns`: whose tokens are marked; `words`: special tokens
 * in messages are words.
 */
export async function build(
  call: Call,
  field: string,
  messages: readonly Message[],
  { generate, open = true, turns = "all", words = false }: BuildOptions,
): Promise<BuiltSequence> {
  const { promptSteps } = await import("../text/media-prompt.js");
  const { inSlices } = await import("../text/pausable.js");
  const tokenizer = call.tokenizer(field);
  const o = { generate, turns, words, fits: fitsContext(field, call.info) };
  const built = await inSlices(promptSteps(tokenizer, call.rules, messages, o), call.signal);
  known(field, tokenizer, built.ids, call.info);
  const e = await expand(call, field, built.ids, built.media, { onePlaceholder: true, open });
  return {
    ...e,
    given: built.ids,
    media: built.media,
    get lossMask() {
      const lossMask = new Uint8Array(e.ids.length);
      built.lossMask.forEach((x, i) => {
        if (x) lossMask[e.starts[i]!] = 1;
      });
      return lossMask;
    },
  };
}
