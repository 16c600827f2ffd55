// Media of prompts: each is opened once and registered with the engine as a range of ids. It is kept while a call or session
// uses it, and afterwards while there is room. The engine computes its features at first use.
import { Lru } from "../base/lru.js";
import type { Host, NativeCheckpoint, NativeTensor, NativeTowerFacts, NativeVision } from "../base/addon.js";
import { object, refuse } from "../base/check.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import type { Features, Media, MediaReport, ModelInfo, Tensor } from "../base/types.js";
import { ownedMedia } from "../base/owned-arrays.js";
import type { FeatureCache } from "../video/feature-cache.js";
import type { OpenedMedia } from "../video/load-media.js";
import { gridOf, type MediaGrid } from "../video/media-grid.js";
import { Shared } from "../video/shared-work.js";
import type { VisionSpec } from "../video/tower-spec.js";

const maxIdleBytes = 512 << 20; // of media that nothing uses right now

export type MediaKind = "video" | "image";

/** A registered medium: its rows have the ids [firstId, firstId + rows). */
export interface Placed {
  kind: MediaKind;
  firstId: number;
  rows: number;
  /** Of towers that take any. */
  grid?: MediaGrid;
}

interface Entry extends Placed {
  key: string;
  bytes: number;
  users: number;
  hasPixels: boolean;
  replaced: boolean; // another entry has its key
}

export interface MediaCounters {
  decodes: number;
  featureHits: number;
  featureMisses: number;
}

/** Rows of a video of the family's default length. */
export function visualTokens({ vision }: NativeCheckpoint): number | null {
  return vision?.video && vision.video.merge === undefined ? vision.frames * vision.video.rowsAFrame : null;
}

/** Kinds of media that the model takes. */
export const mediaKinds = ({ vision }: NativeCheckpoint): readonly MediaKind[] =>
  Object.freeze((["video", "image"] as const).filter((kind) => vision?.[kind] !== undefined));

const isFeatures = (media: unknown): media is Features =>
  typeof media === "object" && media !== null && "data" in media && "shape" in media && "key" in media;

const mediaKind = (media: Media): MediaKind =>
  typeof media === "object" && "kind" in media && media.kind === "image" ? "image" : "video";

/** (3, T, S, S) to (T, 3, S, S). */
function framesFirst(t: Tensor): Float32Array {
  const [channels, frames, height, width] = t.shape as [number, number, number, number];
  const plane = height * width;
  const from = asFloats(t);
  const to = new Float32Array(from.length);
  for (let c = 0; c < channels; c++)
    for (let f = 0; f < frames; f++)
      to.set(from.subarray((c * frames + f) * plane, (c * frames + f + 1) * plane), (f * channels + c) * plane);
  return to;
}

export interface MediaSettings {
  onMedia: ((report: MediaReport) => void) | undefined;
  /** Longest time for one file; undefined: the default. */
  timeoutMs: number | undefined;
  /** Share of a video's frames that may be lost or damaged; undefined: the default. */
  maxLost: number | undefined;
  /** That decoding may use. */
  threads: number;
}

/** What is unusual about a file, in words; empty for one that was read as it is. */
export function remarksOf(report: MediaReport): string[] {
  const { decodeErrors, lost, damaged = 0, count, otherStreams = 0, fallback, leftOut = [], unpadded } = report;
  const some = leftOut.slice(0, 3).join(", ") + (leftOut.length > 3 ? `, and ${leftOut.length - 3} more` : "");
  return [
    ...(decodeErrors + lost + damaged > 0
      ? [`${decodeErrors} decoding errors, ${lost} frames lost and ${damaged} damaged, of ${count + lost}`]
      : []),
    ...(otherStreams > 0 ? [`one video stream of ${otherStreams + 1} is used, the main one`] : []),
    ...(fallback === undefined ? [] : [`all of it was decoded, since ${fallback}`]),
    ...(leftOut.length > 0 ? [`${leftOut.length} entries that are no frames left out (${some})`] : []),
    ...(unpadded ? ["frames in the order of their names, where 10 comes before 2"] : []),
  ];
}

export class MediaRegistry {
  readonly counters: MediaCounters = { decodes: 0, featureHits: 0, featureMisses: 0 };
  readonly #host: Host;
  readonly #info: ModelInfo & { width: number }; // of rows for the decoder
  readonly #vision: NativeVision | undefined;
  readonly #spec: () => Promise<VisionSpec>;
  readonly #cache: Promise<FeatureCache> | undefined;
  readonly #settings: MediaSettings;
  readonly #entries = new Map<string, Entry>();
  readonly #idle = new Lru<Entry>(maxIdleBytes); // those of them that nobody uses
  readonly #opening = new Shared<Entry>();
  #decoding = 0; // files that are being decoded
  readonly #waiting: (() => void)[] = []; // calls that wait for their turn to decode
  /** A tower is being trained: its features come from pixels, never from a cache. */
  towerTrains = false;

  constructor(
    host: Host,
    info: ModelInfo & { width: number },
    vision: NativeVision | undefined,
    spec: () => Promise<VisionSpec>,
    cache: Promise<FeatureCache> | undefined,
    settings: MediaSettings,
  ) {
    this.#host = host;
    this.#info = info;
    this.#vision = vision;
    this.#spec = spec;
    this.#cache = cache;
    this.#settings = settings;
  }

  /** The tower that takes this kind; INVALID_ARGUMENT where the model has none. */
  tower(field: string, kind: MediaKind): NativeTowerFacts {
    const facts = this.#vision?.[kind];
    if (facts) return facts;
    const what = this.#vision ? `takes no ${kind}s` : "is a text model and takes no media";
    throw new IsrDpoError("INVALID_ARGUMENT", `${field}: ${this.#info.family} ${what}`, {
      hint: this.#vision ? "use the other kind, or give visionTower" : "leave media out, or load a video model",
      detail: { field },
    });
  }

  /**
   * Opens the medium, or finds it; the caller releases what it got. Those who ask for one medium at once wait for one opening,
   * and hear of its failure together.
   */
  async acquire(field: string, given: Media, signal: AbortSignal | undefined): Promise<Entry> {
    const media = ownedMedia(given); // a copy: its key and its pixels are of one content, whatever the caller does to its arrays
    this.tower(field, mediaKind(isFeatures(media) ? media : checkedMedia(field, media)));
    for (let changes = 0; ; ) {
      const key = await this.#keyOf(field, media, signal);
      const found = this.#entries.get(key);
      if (found && (found.hasPixels || !this.towerTrains)) return this.#use(found);
      const work = `${this.towerTrains ? "pixels" : "any"} ${key}`;
      try {
        const entry = await this.#opening.run(work, signal, (all) => this.#begin(field, key, media, all));
        if (this.#entries.get(key) === entry) return this.#use(entry); // else it was evicted meanwhile
      } catch (e) {
        if (!isIsrDpoError(e) || e.detail?.changed !== true || ++changes > 1) throw e;
        // The content changed between the key and the pixels: it is opened once more, under its new key.
      }
    }
  }

  /** An entry that nobody uses yet, in its place. */
  async #begin(field: string, key: string, media: Media, signal: AbortSignal): Promise<Entry> {
    const opening = isFeatures(media) ? this.#addFeatures(field, key, media) : this.#open(field, key, media, signal);
    const entry = await opening;
    const before = this.#entries.get(key); // an entry without pixels
    if (before) {
      before.replaced = true;
      if (before.users === 0) void this.#forget([before]);
    }
    this.#entries.set(key, entry);
    this.#idle.add(key, entry, entry.bytes);
    return entry;
  }

  #use(entry: Entry): Entry {
    if (entry.users === 0) this.#idle.take(entry.key);
    entry.users += 1;
    return entry;
  }

  /** Gives back; what nobody uses stays while there is room. */
  release(entries: Iterable<Entry>): void {
    for (const entry of entries) {
      entry.users -= 1;
      if (entry.users > 0) continue;
      if (entry.replaced) void this.#forget([entry]);
      else this.#idle.add(entry.key, entry, entry.bytes);
    }
    const gone = this.#idle.trim();
    for (const { key } of gone) this.#entries.delete(key);
    void this.#forget(gone);
  }

  async #forget(entries: readonly Entry[]): Promise<void> {
    if (entries.length === 0 || this.#host.disposed) return;
    const firstIds = Int32Array.from(entries, (e) => e.firstId);
    await this.#host.call("releaseMedia", { firstIds }).catch(() => undefined); // a disposed model has freed them
  }

  async #keyOf(field: string, media: Media, signal: AbortSignal | undefined): Promise<string> {
    if (isFeatures(media)) {
      const { createHash } = await import("node:crypto");
      const { stage, shape, dtype, gridThw = [], secondsPerGrid } = media;
      const hash = createHash("sha256").update(
        `${mediaKind(media)} ${stage} ${shape.join()} ${dtype} ${gridThw.join()} ${secondsPerGrid}\n`,
      );
      const data = media.data;
      return `features ${hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength)).digest("hex")}`;
    }
    const { mediaKey } = await import("../video/load-media.js");
    const key = await mediaKey(checkedMedia(field, media), await this.#spec(), signal ? { signal } : {});
    return `${mediaKind(media)} ${key}`;
  }

  async open(field: string, media: Media, signal: AbortSignal | undefined): Promise<OpenedMedia> {
    this.tower(field, mediaKind(checkedMedia(field, media)));
    const { openMedia } = await import("../video/load-media.js");
    const { timeoutMs, maxLost } = this.#settings;
    const spec = await this.#spec();
    await this.#turn();
    const threads = Math.max(Math.floor(this.#settings.threads / this.#decoding), 1);
    const bounds = { threads, ...(signal && { signal }), ...(timeoutMs !== undefined && { timeoutMs }) };
    const opened = await openMedia(checkedMedia(field, media), spec, {
      ...bounds,
      ...(maxLost !== undefined && { maxLost }),
    }).finally(() => {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#decoding -= 1;
    });
    const path = typeof media === "string" ? media : "path" in media ? media.path : undefined;
    if (path !== undefined) {
      this.counters.decodes += 1;
      await this.#tell({ path, kind: opened.kind, sourceFrames: opened.sourceFrames.slice(), ...opened.notes });
    }
    return opened;
  }

  /** One file at a time may use all threads, many at once have one each; more would take memory and end no sooner. */
  async #turn(): Promise<void> {
    if (this.#decoding < Math.max(2 * this.#settings.threads, 4)) this.#decoding += 1;
    else await new Promise<void>((begin) => this.#waiting.push(begin)); // a file that is done passes its place on
  }

  async #tell(report: MediaReport): Promise<void> {
    const { onMedia } = this.#settings;
    if (onMedia) return await onMedia(report); // what it throws fails the call that opened the file

    const remarks = remarksOf(report);
    if (remarks.length === 0) return;
    const options = { type: "IsrDpoWarning", code: "ISR_DPO_MEDIA" };
    process.emitWarning(`${report.path}: ${remarks.join("; ")}`, options);
  }

  /** What the medium will be, by its description alone: nothing is opened. */
  describe(field: string, media: Media): Pick<Placed, "kind" | "rows"> {
    if (isFeatures(media)) return { kind: mediaKind(media), rows: media.shape[0]! };
    const kind = mediaKind(checkedMedia(field, media));
    const { merge, rowsAFrame } = this.tower(field, kind);
    if (merge !== undefined) {
      const [t, h, w] = gridOf(field, media as object, merge).gridThw;
      return { kind, rows: (t * h * w) / merge ** 2 };
    }
    return { kind, rows: rowsAFrame * (kind === "image" ? 1 : this.#framesOf(media)) };
  }

  #framesOf(media: Exclude<Media, Features>): number {
    if (typeof media === "object" && "pixels" in media) return media.pixels.shape[this.#vision!.original ? 1 : 0]!;
    const sample = typeof media === "object" ? media.sample?.frames : undefined;
    return sample ?? this.#vision!.frames;
  }

  async #open(
    field: string,
    key: string,
    media: Exclude<Media, Features>,
    signal: AbortSignal | undefined,
  ): Promise<Entry> {
    const kind = mediaKind(media);
    const cache = this.towerTrains ? undefined : await this.#cache;
    const cacheKey = cache ? `${key} ${await this.towerHash()}` : "";
    const { merge } = this.tower(field, kind);
    const grid = merge === undefined ? undefined : gridOf(field, media as object, merge);
    if (cache) {
      const { rows } = this.describe(field, media);
      const cols = this.tower(field, kind).width;
      const kept = await cache.get(cacheKey, { rows, cols, dtype: this.#info.dtype });
      if (kept) {
        this.counters.featureHits += 1;
        return this.#add(key, kind, { count: kept.shape[0]!, values: asFloats(kept), stage: "tower", ...grid }, false);
      }
      this.counters.featureMisses += 1;
    }
    const opened = await this.open(field, media, signal);
    if (key !== `${kind} ${opened.key}`)
      throw new IsrDpoError(
        "MEDIA_UNREADABLE",
        `${field}: expected a file that stays what it is, got one that changes`,
        {
          hint: "wait until it is copied or downloaded, then try again",
          detail: { field, changed: true },
        },
      );
    const frames = this.#vision!.original && kind === "video" ? opened.pixels.shape[1]! : opened.pixels.shape[0]!;
    const count = kind === "image" ? 1 : frames;
    const values = this.#vision!.original && kind === "video" ? framesFirst(opened.pixels) : asFloats(opened.pixels);
    const entry = await this.#add(key, kind, { count, values, ...opened.grid }, true);
    // A damaged file is not cached: each process that uses it decodes it, and reports the damage.
    if (cache && opened.notes.lost + (opened.notes.damaged ?? 0) === 0)
      await cache.put(cacheKey, asDtype(await this.features(entry, "tower", signal), this.#info.dtype));
    return entry;
  }

  #addFeatures(field: string, key: string, media: Features): Promise<Entry> {
    const [rows, width] = media.shape;
    if (media.shape.length !== 2 || media.data.length !== rows! * width!)
      refuse(`${field}.shape`, "(n, C) of the data", media.shape);
    if (media.dtype !== "f32" && media.dtype !== "bf16") refuse(`${field}.dtype`, "'f32' or 'bf16'", media.dtype);
    const { stage = "projected" } = media;
    if (stage !== "projected" && stage !== "tower") refuse(`${field}.stage`, "'projected' or 'tower'", stage);
    const kind = mediaKind(media);
    const { merge } = this.tower(field, kind);
    const grid = merge === undefined ? undefined : gridOf(field, media, merge);
    return this.#add(key, kind, { count: rows!, values: asFloats(media), stage, ...grid }, false);
  }

  async #add(
    key: string,
    kind: MediaKind,
    args: { count: number; values: Float32Array; stage?: "tower" | "projected" } & Partial<MediaGrid>,
    hasPixels: boolean,
  ): Promise<Entry> {
    const { gridThw, secondsPerGrid, ...values } = args;
    const grid = gridThw && { gridThw, secondsPerGrid: secondsPerGrid! };
    const added = await this.#host.call<{ firstId: number; rows: number }>("addMedia", {
      image: kind === "image",
      ...values,
      ...(grid && { ...grid, gridThw: Int32Array.from(grid.gridThw) }),
    });
    // The entry holds pixels, and features before and after the projector.
    const widths = (this.#vision![kind]?.width ?? 0) + this.#info.width;
    const bytes = args.values.byteLength + added.rows * widths * (this.#info.dtype === "bf16" ? 2 : 4);
    return { key, kind, ...added, ...(grid && { grid }), bytes, users: 0, hasPixels, replaced: false };
  }

  async features(entry: Placed, stage: "tower" | "projected", signal: AbortSignal | undefined): Promise<Tensor> {
    const args = { firstId: entry.firstId, stage };
    const t = await this.#host.call<NativeTensor>("mediaFeatures", args, { signals: [signal] });
    return { dtype: "f32", shape: t.shape, data: t.data };
  }

  /** Identifies the towers' weights. */
  towerHash(): Promise<string> {
    return this.#host.call<string>("towerHash", {});
  }
}

function checkedMedia(field: string, media: unknown): Exclude<Media, Features> {
  if (typeof media === "string") return media;
  const o = object(field, media);
  if (!("path" in o) && !("frames" in o) && !("pixels" in o))
    refuse(field, "a path, or an object with path, frames or pixels, or features", media);
  if (o.kind !== undefined && o.kind !== "video" && o.kind !== "image")
    refuse(`${field}.kind`, "'video' or 'image'", o.kind);
  return media as Exclude<Media, Features>;
}

function asFloats(t: Tensor): Float32Array {
  if (t.dtype !== "bf16") return t.data as Float32Array;
  const out = new Float32Array(t.data.length);
  const bits = new Uint32Array(out.buffer);
  for (let i = 0; i < bits.length; i++) bits[i] = t.data[i]! << 16;
  return out;
}

/** Values that the dtype holds already: nothing is rounded here. */
function asDtype(t: Tensor, dtype: "f32" | "bf16"): Tensor {
  if (dtype === "f32") return t;
  const bits = new Uint32Array(t.data.buffer, t.data.byteOffset, t.data.length);
  return { dtype, shape: t.shape, data: Uint16Array.from(bits, (b) => b >>> 16) };
}
