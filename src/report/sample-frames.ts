// Pictures of videos for the page: those that the run folder keeps, else a few frames of the video files where they are
// available.
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import type sharp from "sharp";
import { isIsrDpoError } from "../base/errors.js";
import { decode, probe } from "../video/ffmpeg.js";
import type { Frame } from "../video/preprocess.js";
import { isThere, jsonOf, type Tell } from "./run-files.js";
import { count, plural } from "../base/counts.js";
import type { Found, RunReport } from "./read-run.js";
import type { SampleRow } from "./judged-samples.js";

export interface FrameLimits {
  /** Videos that are decoded. */
  videos: number;
  /** Time for all of them. */
  ms: number;
  /** Characters of all pictures. */
  characters: number;
}

const defaults: FrameLimits = { videos: 48, ms: 20_000, characters: 12_000_000 };
const [stripFrames, stripHeight, stripWidth] = [4, 96, 192]; // pixels, at most
const decodeBytes = 256 << 20;

/** A picture as a data URL, by its first bytes; undefined for what is neither PNG nor JPEG. */
function urlOf(base64: string): string | undefined {
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(base64)) return undefined;
  if (base64.startsWith("iVBORw0KGgo")) return `data:image/png;base64,${base64}`;
  return base64.startsWith("/9j/") ? `data:image/jpeg;base64,${base64}` : undefined;
}

/** Names below frames/ that an id can stand for: never a path out of it. */
const plainName = (id: string): boolean => /^[\w@+=-][\w@+=.-]{0,200}$/.test(id);

async function kept(dir: string, row: SampleRow): Promise<string | undefined> {
  const names = [row.id, row.video, basename(row.video), basename(row.video).replace(/\.\w+$/, "")];
  for (const name of names.filter(plainName))
    for (const ext of ["png", "jpg", "jpeg"]) {
      const bytes = await readFile(join(dir, "frames", `${name}.${ext}`)).catch(() => undefined);
      const url = bytes && urlOf(bytes.toString("base64"));
      if (url) return url;
    }
  return undefined;
}

/** Frames side by side. */
async function strip(frames: readonly Frame[]): Promise<string> {
  const load: typeof sharp = (await import("sharp")).default;
  const box = { height: stripHeight, width: stripWidth, fit: "inside" as const };
  const small = await Promise.all(
    frames.map(({ data, width, height }) =>
      load(data, { raw: { width, height, channels: 3 } })
        .resize(box)
        .png()
        .toBuffer({ resolveWithObject: true }),
    ),
  );
  const [width, height] = [small[0]!.info.width, small[0]!.info.height];
  const gap = 2;
  const canvas = { width: small.length * (width + gap) - gap, height, channels: 3 as const, background: "#808080" };
  const parts = small.map(({ data }, i) => ({ input: data, left: i * (width + gap), top: 0 }));
  const bytes = await load({ create: canvas }).composite(parts).jpeg({ quality: 70 }).toBuffer();
  return `data:image/jpeg;base64,${bytes.toString("base64")}`;
}

const spread = (frames: number): Int32Array => {
  const n = Math.min(stripFrames, frames);
  return Int32Array.from({ length: n }, (_, i) => Math.floor(((i + 0.5) * frames) / n));
};

async function decoded(path: string, timeoutMs: number): Promise<string> {
  const o = { maxBytes: decodeBytes, timeoutMs };
  return strip((await decode(path, await probe(path, o), ({ count: n }) => spread(n), o)).frames);
}

export interface Frames {
  /** By video: data URLs. */
  urls: Map<string, string>;
  /** In words: what there is, and what there is not. */
  note: string;
  /** Every video has a picture. */
  complete: boolean;
}

class Collector {
  readonly urls = new Map<string, string>();
  #characters = 0;
  full = 0;

  constructor(readonly limit: number) {}

  add(video: string, url: string): void {
    if (this.#characters + url.length > this.limit) {
      this.full += 1;
      return;
    }
    this.#characters += url.length;
    this.urls.set(video, url);
  }
}

async function fromFolders(
  runs: readonly Pick<RunReport, "dir" | "name">[],
  rows: readonly SampleRow[],
  to: Collector,
  tell: Tell,
) {
  for (const { dir, name } of runs) {
    const file = await jsonOf(join(dir, "thumbnails.json"), `${name}: thumbnails.json`, tell);
    const wanted = new Set(rows.map((r) => r.video));
    for (const [video, base64] of Object.entries(file ?? {})) {
      const url = typeof base64 === "string" ? urlOf(base64) : undefined;
      if (url && wanted.has(video) && !to.urls.has(video)) to.add(video, url);
    }
    if (!(await isThere(join(dir, "frames")))) continue;
    for (const row of rows) {
      if (to.urls.has(row.video)) continue;
      const url = await kept(dir, row);
      if (url) to.add(row.video, url);
    }
  }
}

interface Decoded {
  /** Files that are not where the run says. */
  absent: number;
  unreadable: number;
  /** Not tried, for time. */
  left: number;
  reason: string;
}

/** Decodes what is still missing, as far as the limits go. */
async function fromVideos(roots: readonly string[], videos: readonly string[], to: Collector, limits: FrameLimits) {
  const result: Decoded = { absent: 0, unreadable: 0, left: 0, reason: "" };
  const until = performance.now() + limits.ms;
  let tried = 0;
  for (const video of videos) {
    const paths = roots.map((root) => join(root, video));
    const path = paths[(await Promise.all(paths.map(isThere))).indexOf(true)];
    const left = until - performance.now();
    if (path === undefined) result.absent += 1;
    else if (tried >= limits.videos || left <= 0 || result.reason === "FFMPEG_MISSING") result.left += 1;
    else {
      tried += 1;
      try {
        to.add(video, await decoded(path, left));
      } catch (e) {
        if (!isIsrDpoError(e)) throw e;
        result.unreadable += 1;
        result.reason = e.code;
      }
    }
  }
  return result;
}

/** A picture for each video of the rows, where one can be had. */
export async function framesOf(
  { runs, dir, kind }: Pick<Found, "runs" | "dir" | "kind">,
  rows: readonly SampleRow[],
  tell: Tell,
  limits: FrameLimits = defaults,
): Promise<Frames> {
  const to = new Collector(limits.characters);
  const videos = [...new Set(rows.map((r) => r.video).filter((v) => v !== ""))];
  const shared = kind === "comparison" ? [{ dir, name: "comparison" }] : [];
  await fromFolders([...shared, ...runs], rows, to, tell);
  const missing = videos.filter((v) => !to.urls.has(v));
  const roots = [...new Set(runs.flatMap((r) => (r.videos === null ? [] : [r.videos])))];
  const found = await fromVideos(roots, to.full > 0 ? [] : missing, to, limits);
  const told: [n: number, about: string][] = [
    [found.absent, roots.length === 0 ? "without a folder of videos that the run names" : "not where the run says"],
    [found.unreadable, `could not be decoded (${found.reason})`],
    [found.left, "left out to keep this quick"],
    [to.full, "left out to keep the page small"],
  ];
  const parts = told.filter(([n]) => n > 0).map(([n, about]) => `${count(n)} ${about}`);
  const have =
    to.urls.size === 0
      ? `No frames of ${plural(videos.length, "video")}`
      : `Frames of ${count(to.urls.size)} of ${plural(videos.length, "video")}`;
  return {
    urls: to.urls,
    note: `${have}${parts.length > 0 ? `: ${parts.join("; ")}` : ""}.`,
    complete: to.urls.size === videos.length,
  };
}
