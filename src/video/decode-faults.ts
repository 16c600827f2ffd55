// Reads ffmpeg's log of a decode: the time of each frame, and which frames had errors. Only the decoder and the demuxer count;
// complaints of filters, encoders and other streams say nothing about the video. Newer releases demux, decode and filter in
// threads of their own, each of which writes when it likes: a complaint has its place among the lines of the thread that made
// it (`-debug_ts` writes one for each packet and each frame), so that the same file always has the same faults.
import type { Probe } from "./video-stream.js";
import type { LineUse } from "./bounded-process.js";
import { truncation } from "./truncated-file.js";

export interface Faults {
  /** Errors that the decoder reported and went on. */
  errors: number;
  /** Frames that should be there and could not be decoded. */
  lost: number;
  /** Frames that were decoded with errors, or after such a one and before the next key frame. */
  damaged: number;
}

interface Fault {
  /** Frames that had been decoded before; for a fault of the container, packets that had been read. */
  at: number;
  /** Whether the fault is of a frame, rather than of the container. */
  frame: boolean;
  /** An error in the tool's own words, rather than a remark on a frame. */
  error: boolean;
}

// Said of sound streams too: edit lists, unusual but legal reference marking, messages of units that are not needed.
const harmless =
  /Missing key frame while searching|Cannot find an index entry|mmco: unref short|number of reference frames .* exceeds max|SEI type|Late SEI|upload a sample|deprecated pixel format|non-?existing SPS|not enough frames to estimate|co located POCs|Stream discovered after head|Unsupported .*(metadata|side data|tag)/i;
/** The line for a packet or a frame at a stage on its way. */
const traced = /\[info\] (demuxer|decoder|[a-z_]+(?:\+[a-z]+)?) (?:->|<-) (?:ist_index:(?:0:)?(\d+) )?/;
const printed = /^(?:\[[^\]]* @ [^\]]*\] )*\[info\] (-?\d+\.\d{6}|-?nan)$/;

export class LogReader {
  /** Timestamps of the frames that came, in ticks. */
  readonly stamps: number[] = [];
  readonly faults: Fault[] = [];
  /** The file ends before the container says so. */
  cut = false;
  /** A change of size or pixel format started the filters anew. */
  restarted = false;
  readonly #codec: string;
  readonly #format: readonly string[];
  readonly #stream: string;
  readonly #until: number | undefined;
  readonly #rough: boolean;
  readonly #lead: number;
  #packets = 0; // that were read
  #decoded = 0; // frames that the decoder gave
  #begun = false; // messages of opening the file come again later, so that these do not count
  #number = true; // the next print is a frame's number, not its time

  constructor({ codec, format, stream, rough, lead }: Probe, until?: number) {
    this.#rough = rough;
    this.#lead = lead;
    this.#codec = codec;
    this.#format = format.split(",");
    this.#stream = String(stream);
    this.#until = until;
  }

  get errors(): number {
    return this.faults.filter(({ error }) => error).length;
  }

  /** A line of the log. */
  line(line: string): LineUse {
    const value = line.endsWith(".000000") || line.endsWith("nan") ? printed.exec(line)?.[1] : undefined;
    if (value !== undefined) return this.#frame(Number(value));
    const [, stage, stream] = (line.includes("[info] ") && traced.exec(line)) || [];
    if (stage !== undefined) return this.#passed(stage, stream);
    if (line.includes("Stream mapping:")) this.#begun = true;
    else if (this.#begun) this.#complaint(line);
    return "keep";
  }

  #passed(stage: string, stream: string | undefined): LineUse {
    if (stage === "decoder") this.#decoded++;
    else if (stage === "demuxer" && (stream ?? this.#stream) === this.#stream) this.#packets++;
    return "taken";
  }

  #frame(value: number): LineUse {
    this.#number = !this.#number;
    if (!this.#number) {
      if (value === 0 && this.stamps.length > 0) this.restarted = true;
      return "taken";
    }
    this.stamps.push(value);
    return this.#until !== undefined && value > this.#until ? "enough" : "taken";
  }

  #complaint(line: string): void {
    const error = /\[(error|fatal|panic)\]/.test(line);
    const corrupt = /corrupt decoded frame|concealing \d+ DC/.test(line);
    if (truncation.test(line)) this.cut = true;
    const frame = corrupt || !this.#isContainer(line);
    const at = Math.max(frame ? this.#decoded : this.#packets, this.stamps.length); // without such lines: the frames printed
    if (this.#rough && at <= (frame ? 0 : this.#lead)) return; // the complaint is about pictures that are never shown
    if ((!error && !corrupt) || harmless.test(line) || !this.#isOurs(line)) return;
    this.faults.push({ at, frame, error });
  }

  /** Whether a line comes from our stream's decoder, its parser, or the container. */
  #isOurs(line: string): boolean {
    const [, one, other] = /stream #0:(\d+)|in stream (\d+)/.exec(line) ?? [];
    if ((one ?? other ?? this.#stream) !== this.#stream) return false;
    const [, name = ""] = /^\[([^\]@]*?) @ /.exec(line) ?? [];
    if (name === "" || name === "NULL" || /^(vist|dec:|lib)/.test(name) || this.#isContainer(line)) return true;
    return name.startsWith(this.#codec.slice(0, 4)) || this.#codec.startsWith(name.slice(0, 4));
  }

  #isContainer(line: string): boolean {
    const [, name = ""] = /^\[([^\]@]*?) @ /.exec(line) ?? [];
    return name.startsWith("in#") || name.split(",").some((part) => this.#format.includes(part));
  }
}

/** Frames from a fault on to the next key frame: each is made from the ones before. */
function damagedOf({ stamps }: Probe, log: LogReader): number {
  const keys = new Set(stamps ? Array.from(stamps.keys, (place) => stamps.pts[place]!) : []);
  const marks = new Set(log.faults.filter(({ frame }) => frame).map(({ at }) => at));
  let [damaged, count] = [false, 0];
  log.stamps.forEach((pts, i) => {
    damaged = marks.has(i) || (damaged && !keys.has(pts));
    if (damaged) count++;
  });
  return count;
}

/**
 * What a pass over the whole file lost. Without a complaint nothing is missing but what the container's header promises and the
 * file has not.
 */
export function faultsOf(probed: Probe, log: LogReader, count: number): Faults {
  const { errors } = log;
  const { packets, announced, missing } = probed;
  if (log.faults.length === 0) return { errors, lost: missing, damaged: 0 };
  const edited = probed.format.includes("mp4") && !log.cut; // an edit list leaves out frames that are announced
  const expected = Math.max(packets + missing, edited ? 0 : announced);
  return { errors, lost: Math.max(expected - count, 0), damaged: damagedOf(probed, log) };
}
