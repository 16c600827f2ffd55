// Facts about a video file before anything is decoded, by ffprobe: which stream is the video, and when each of its frames is
// shown.
import { IsrDpoError } from "../base/errors.js";
import { missingOf, truncation } from "./truncated-file.js";
import { findTools, input, tool, type ToolOptions } from "./ffmpeg-tools.js";
import type { Probe } from "./video-stream.js";

// Named so that a file of sound can be called one; a video never comes out of them.
const soundContainers =
  "wav,w64,mp3,flac,aac,ac3,eac3,ac4,aiff,au,caf,amr,amrnb,amrwb,ape,wv,tta,tak,dts,dtshd,truehd,mlp,mpc,mpc8,oma,shn,sox,voc,gsm,iff,aax,adts,latm,opus,mmf,qcp,aptx,sbc,g722,g726,codec2,loas,xwma,bit,dsf,ircam,nistsphere,paf,pvf,rso,svs,vqf";
const maxPackets = 1 << 22;
const maxLine = 1 << 16;

/** The last thing that the tool complained of, without addresses and levels. */
export function complaint(log: string): string {
  const lines = log.split(/[\r\n]+/);
  const last =
    lines.filter((line) => /\[(error|fatal|panic)\]/.test(line)).at(-1) ?? lines.filter(Boolean).at(-1) ?? "";
  return (
    last
      .replace(/\[[^\][]*\]\s*/g, "")
      .replaceAll("file:", "")
      .slice(0, 300) || "no message"
  );
}

const broken =
  "play it with ffplay; a broken download is mended by fetching it again, an unusual container often by `ffmpeg -i FILE -c copy OUT.mp4`";

export function unreadable(
  path: string,
  what: string,
  detail: Record<string, unknown> = {},
  hint: string = broken,
): IsrDpoError {
  return new IsrDpoError("MEDIA_UNREADABLE", `${path}: expected a video file that ffmpeg can decode, got ${what}`, {
    hint,
    path,
    detail,
  });
}

const noVideo = (path: string, what: string): IsrDpoError =>
  new IsrDpoError("MEDIA_EMPTY", `${path}: expected a video stream, got ${what}`, {
    hint: "a cover picture is no video; give the file that holds the moving pictures",
    path,
  });

/** Why ffprobe would not read the file: its container is not one of ours, holds sound alone, or the file is broken. */
function refusal(path: string, log: string): IsrDpoError {
  const [, format] = /\[([\w,]+) @ [^\][]*\](?: \[\w+\])* Format not on whitelist/.exec(log) ?? [];
  if (format === undefined) return unreadable(path, complaint(log));
  if (format.split(",").some((name) => soundContainers.split(",").includes(name)))
    return noVideo(path, `sound alone (${format})`);
  return unreadable(
    path,
    `the format '${format}', which is not on the list of containers that are read`,
    { format },
    "convert it, for example with `ffmpeg -i FILE OUT.mp4`; docs/video.md, Limits, lists the containers",
  );
}

function ratio(text: unknown): number | undefined {
  const [, a, b] = /^(\d+)\/(\d+)$/.exec(String(text)) ?? [];
  return Number(a) > 0 && Number(b) > 0 ? Number(a) / Number(b) : undefined;
}

/** Packets of a stream in the order of the file. */
class Packets {
  readonly pts: number[] = [];
  readonly key: boolean[] = [];
  shown = 0;
  last = Number.NaN; // time at which the last packet is shown
  #begin: number | undefined; // time of the first packet, NaN where decoding cannot begin there
  rough = false;
  #lead = 0;
  #read = 0;
  #key: number | undefined; // time of the first key frame
  plain = true; // every shown packet has a time, and there are not too many to keep

  add(fields: ReadonlyMap<string, string>): void {
    const flags = fields.get("flags") ?? "";
    this.#begin ??= flags.includes("K") ? Number(fields.get("pts")) : Number.NaN;
    this.rough ||= !(Number(fields.get("pts")) >= this.#begin) && fields.get("pts") !== "N/A";
    this.#read++;
    if (flags.includes("K")) this.#key ??= Number(fields.get("pts"));
    if (this.#key === undefined || Number(fields.get("pts")) < this.#key) this.#lead = this.#read;
    if (flags.includes("D") || fields.get("size") === "0") return; // a packet that is decoded and not shown, or an empty one
    this.shown++;
    const pts = Number(fields.get("pts") ?? Number.NaN); // "N/A" is none
    if (!(pts <= this.last) && Number.isFinite(pts)) this.last = pts;
    if (!this.plain) return;
    this.plain = Number.isSafeInteger(pts) && this.shown <= maxPackets;
    this.pts.push(pts);
    this.key.push(flags.includes("K"));
  }

  /** Packets up to the last one that comes before the first key frame, or is shown before it. */
  get lead(): number {
    return this.#key === undefined ? 0 : this.#lead;
  }

  /** No stamps where frames are not simply the packets: two of one time, or some before the first that can be decoded. */
  stamps(): Pick<Probe, "times" | "stamps"> {
    if (!this.plain || this.shown === 0) return { times: undefined, stamps: undefined };
    const order = Int32Array.from(this.pts.keys()).sort((a, b) => this.pts[a]! - this.pts[b]!);
    const pts = Float64Array.from(order, (i) => this.pts[i]!);
    const odd = !(pts[0]! >= this.#begin!) || pts.some((time, i) => i > 0 && time === pts[i - 1]);
    if (odd) return { times: pts, stamps: undefined };
    const keys: number[] = [];
    for (const [place, i] of order.entries()) if (this.key[i]) keys.push(place);
    return { times: pts, stamps: { pts, keys: Int32Array.from(keys) } };
  }
}

const fieldsOf = (line: string): Map<string, string> =>
  new Map(
    line.split("|").map((part) => {
      const at = part.indexOf("=");
      return at < 0 ? ["section", part] : [part.slice(0, at), part.slice(at + 1)];
    }),
  );

/** ffprobe's answer, line by line: `packet|stream_index=0|pts=...`, then a line for each stream and one for the container. */
class Answer {
  readonly packets = new Map<string, Packets>();
  readonly streams: Map<string, string>[] = [];
  format: ReadonlyMap<string, string> = new Map();
  #rest = "";

  /** False for what cannot be an answer. */
  take(chunk: Buffer): boolean {
    const lines = (this.#rest + chunk.toString("latin1")).split("\n");
    this.#rest = lines.pop()!;
    for (const line of lines) this.#line(line);
    return this.#rest.length < maxLine;
  }

  #line(line: string): void {
    const fields = fieldsOf(line);
    if (line.startsWith("packet|")) {
      const stream = fields.get("stream_index") ?? "";
      const found = this.packets.get(stream) ?? new Packets();
      this.packets.set(stream, found);
      found.add(fields);
    } else if (line.startsWith("stream|")) this.streams.push(fields);
    else if (line.startsWith("format|")) this.format = fields;
  }
}

interface Candidate {
  fields: Map<string, string>;
  packets: Packets;
}

/** As ffmpeg chooses: what has more than a picture to show, then its default flag against pixels, then the number of frames. */
function score({ fields, packets }: Candidate): number {
  const area = (Number(fields.get("width")) || 0) * (Number(fields.get("height")) || 0);
  return area + (packets.shown > 1 ? 1e8 : 0) + (fields.get("disposition:default") === "1" ? 5e6 : 0);
}

function mainStream(path: string, answer: Answer): Candidate {
  const all = answer.streams.map((fields) => ({
    fields,
    packets: answer.packets.get(fields.get("index") ?? "") ?? new Packets(),
  }));
  const moving = all.filter(
    ({ fields }) =>
      fields.get("disposition:attached_pic") !== "1" && fields.get("disposition:timed_thumbnails") !== "1",
  );
  if (moving.length === 0) throw noVideo(path, all.length === 0 ? "none" : "a cover picture beside the sound");
  const best = moving.reduce((a, b) => {
    const more = score(b) - score(a) || b.packets.shown - a.packets.shown;
    return more > 0 ? b : a;
  });
  if (best.packets.shown === 0)
    throw new IsrDpoError("MEDIA_EMPTY", `${path}: expected at least one frame, got none`, { path });
  return best;
}

function isRotated(fields: ReadonlyMap<string, string>): boolean {
  for (const [key, value] of fields)
    if ((key === "tag:rotate" || /(^|:)rotation$/.test(key)) && Number(value) % 360 !== 0) return true;
  return false;
}

/** The facts that the stream alone tells. */
const factsOf = ({ fields, packets }: Candidate) => ({
  stream: Number(fields.get("index")),
  codec: fields.get("codec_name") ?? "unknown",
  packets: packets.shown,
  announced: Number(fields.get("nb_frames")) || 0,
  fps: ratio(fields.get("avg_frame_rate")) ?? ratio(fields.get("r_frame_rate")),
  tick: ratio(fields.get("time_base")) ?? 1,
  pixels: (Number(fields.get("width")) || 0) * (Number(fields.get("height")) || 0),
  rotated: isRotated(fields),
  rough: packets.rough,
  lead: packets.lead,
});

/** Reads the container, decoding nothing. MEDIA_UNREADABLE; MEDIA_EMPTY where there is no video in it. */
export async function probe(path: string, o: ToolOptions): Promise<Probe> {
  const entries = [
    "packet=stream_index,pts,size,flags",
    "stream=index,codec_name,width,height,avg_frame_rate,r_frame_rate,time_base,nb_frames",
    "stream_disposition=default,attached_pic,timed_thumbnails:stream_side_data=rotation:stream_tags=rotate",
    "format=format_name,duration,nb_streams",
  ];
  const args = ["-hide_banner", "-loglevel", "level+error", "-select_streams", "v", "-show_entries", entries.join(":")];
  const answer = new Answer();
  const { ffprobe } = findTools(o.ffmpeg);
  const ended = await tool(ffprobe, [...args, "-of", "compact", ...input(path)], path, o, (c) => answer.take(c));
  if (ended.killed) throw unreadable(path, "an answer of ffprobe that is none");
  if (ended.code !== 0) throw refusal(path, ended.log);
  const main = mainStream(path, answer);
  const probed = {
    ...factsOf(main),
    others: answer.streams.length - 1,
    format: answer.format.get("format_name") ?? "",
  };
  const { times, stamps } = main.packets.stamps();
  const container = {
    duration: Number(answer.format.get("duration") ?? Number.NaN),
    streams: Number(answer.format.get("nb_streams")) || 1,
    last: main.packets.last * probed.tick,
    cut: truncation.test(ended.log),
  };
  return { ...probed, times, stamps, missing: await missingOf(path, { ...probed, times }, container, o) };
}
