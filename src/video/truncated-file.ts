// Frames that a container announces and the file does not hold, for instance after half a download. Decoders seldom report
// this, because everything that is there is intact. Only containers whose header states the length of the video are checked.
import type { Probe } from "./video-stream.js";
import { input } from "./ffmpeg-tools.js";
import { findTools, tool, type ToolOptions } from "./ffmpeg-tools.js";

/** What the reader of a container says of a file that ends too early. */
export const truncation = /partial file|ended prematurely|truncated|Packet corrupt|corrupt input packet/i;

/** What ffprobe says of the container. */
export interface Container {
  /** Seconds; NaN: it does not say. */
  duration: number;
  /** Number of streams of all kinds. */
  streams: number;
  /** Seconds at which the last frame of the video begins, by its own clock; NaN: its frames have no times. */
  last: number;
  /** ffprobe complained of an early end. */
  cut: boolean;
}

const byHeader = ["matroska", "webm", "flv", "ivf", "mxf"]; // of others the length is added up or guessed from what is there
const ofPieces = ["mov", "mp4"]; // their index can be of the whole file, or of a piece

/** Seconds that may be missing without being missed: a last picture that stays, a rounded duration. */
function tolerance({ fps, times }: Pick<Probe, "fps" | "times">, tick: number, { duration, cut }: Container): number {
  let longest = 2.5 / (fps ?? 25);
  if (times) for (let i = 1; i < times.length; i++) longest = Math.max(longest, (times[i]! - times[i - 1]!) * tick);
  return Math.max(longest, cut ? 0.1 : Math.max(0.5, 0.02 * duration));
}

/** Seconds at which the last packet of any stream ends: sound and subtitles may go on when the video is over. */
async function endOfAll(path: string, o: ToolOptions): Promise<number> {
  let [rest, end] = ["", 0];
  const take = (chunk: Buffer) => {
    const lines = (rest + chunk.toString("latin1")).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const [begin, length] = line.split(",").map(Number);
      if (Number.isFinite(begin)) end = Math.max(end, begin! + (Number.isFinite(length) ? length! : 0));
    }
    return rest.length < 1 << 16;
  };
  const args = ["-hide_banner", "-loglevel", "level+error", "-show_entries", "packet=pts_time,duration_time"];
  await tool(findTools(o.ffmpeg).ffprobe, [...args, "-of", "csv=p=0", ...input(path)], path, o, take);
  return end;
}

/** Frames that the container announces and has not; 0 where it does not say. */
export async function missingOf(
  path: string,
  probed: Omit<Probe, "missing" | "stamps">,
  container: Container,
  o: ToolOptions,
): Promise<number> {
  const { packets, announced, fps = 25, tick } = probed;
  const { duration, streams, last, cut } = container;
  const names = probed.format.split(",");
  if (cut && announced > packets) return announced - packets;
  const says = names.some((name) => byHeader.includes(name) || (cut && ofPieces.includes(name)));
  if (!says || !(duration > 0)) return 0;
  const latest = duration - tolerance(probed, tick, container);
  let end = Number.isFinite(last) ? last + 1 / fps : packets / fps;
  if (end < latest && streams > 1) end = Math.max(end, await endOfAll(path, o));
  return end < latest ? Math.max(Math.round((duration - end) * fps), 1) : 0;
}
