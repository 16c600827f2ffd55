// The ffmpeg and ffprobe in use: their paths, their abilities, and the meaning of their failures. A failure of the tool
// (missing, too old, built without a decoder, ended from outside) is reported as such, never as a fault of the file.
import { accessSync, constants, existsSync, realpathSync, statSync } from "node:fs";
import { basename, delimiter, dirname, join, resolve } from "node:path";
import { IsrDpoError } from "../base/errors.js";
import { type Bounds, type Ended, type LineUse, run } from "./bounded-process.js";

/** The oldest release that is known to work. */
export const oldestFfmpeg = "4.2";

export interface ToolOptions extends Bounds {
  /** The ffmpeg binary; default: ISR_DPO_FFMPEG of the environment, else ffmpeg of PATH. */
  ffmpeg?: string | undefined;
  /** When the time for the file is over, by performance.now(); default: `timeoutMs` for each process. */
  deadline?: number | undefined;
}

export interface Tools {
  ffmpeg: string;
  ffprobe: string;
}

export function findTools(given: string | undefined): Tools {
  const ffmpeg = given ?? process.env.ISR_DPO_FFMPEG ?? "";
  if (ffmpeg === "") return { ffmpeg: "ffmpeg", ffprobe: "ffprobe" };
  const beside = join(dirname(resolve(ffmpeg)), basename(ffmpeg).replace(/ffmpeg/i, "ffprobe"));
  return { ffmpeg, ffprobe: beside !== resolve(ffmpeg) && existsSync(beside) ? beside : "ffprobe" };
}

/** The file that a command starts, as a shell would find it. */
function whereIs(command: string): string | undefined {
  const places = /[\\/]/.test(command) ? [resolve(command)] : [];
  if (places.length === 0)
    for (const dir of (process.env.PATH ?? "").split(delimiter)) places.push(join(dir || ".", command));
  return places.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return statSync(path).isFile();
    } catch {
      return false;
    }
  });
}

/** What tells one binary from another: its place and when it was written. */
function identityOf(command: string): string {
  const path = whereIs(command);
  if (path === undefined) return command;
  const facts = statSync(path, { bigint: true });
  return [realpathSync(path), facts.ino, facts.size, facts.mtimeNs].join("\0");
}

/** Options for one and the same thing, newest first: what a binary does not know is not tried again. */
const frameSync = [
  ["-fps_mode", "passthrough"], // from ffmpeg 5.1 on
  ["-vsync", "passthrough"], // before that; newer releases may drop it
] as const;
const syncOf = new Map<string, number>();

/** The option that keeps every frame as it is, in the words of this binary. */
export function passthrough(command: string): readonly string[] {
  return frameSync[syncOf.get(identityOf(command)) ?? 0]!;
}

/** True where the log says that the option `used` is unknown and there is an older one to try, which is used from now on. */
export function triesOlder(command: string, used: readonly string[], log: string): boolean {
  const at = frameSync.findIndex(([name]) => name === used[0]);
  if (unknownOption(log) !== used[0]!.slice(1) || at + 1 >= frameSync.length) return false;
  const identity = identityOf(command);
  syncOf.set(identity, Math.max(syncOf.get(identity) ?? 0, at + 1));
  return true;
}

const hasOlder = (log: string): boolean =>
  frameSync.slice(0, -1).some(([name]) => unknownOption(log) === name.slice(1));

/** The option that the tool refuses to know. */
const unknownOption = (log: string): string | undefined =>
  (/Unrecognized option '([^']+?)'/.exec(log) ?? /Option '?([\w:]+?)'? not found/.exec(log))?.[1];

const versionTime = 10_000;

/** A report about the ffmpeg in use. */
export interface FfmpegReport {
  /** Path of the program. */
  path: string;
  /** The version that it reports, such as "5.1.9-0+deb12u1". */
  version: string;
  /** The option that keeps frames as they are: "-fps_mode" from 5.1 on, "-vsync" before. */
  frameOption: string;
  /** Path of the ffprobe beside it; null: there is none. */
  ffprobe: string | null;
}

const reports = new Map<string, Promise<FfmpegReport | null>>();

async function describe(tools: Tools): Promise<FfmpegReport | null> {
  const path = whereIs(tools.ffmpeg);
  if (path === undefined) return null;
  const ask = async (...args: string[]) => {
    let out = "";
    const take = (chunk: Buffer) => {
      out += chunk.toString("latin1");
      return out.length < 1 << 16;
    };
    const ended = await run(tools.ffmpeg, ["-hide_banner", ...args], { timeoutMs: versionTime }, take).catch(
      () => null,
    );
    return { ok: ended?.code === 0, out };
  };
  // ffmpeg looks up all options before it shows its version: an unknown one fails first.
  const first = await ask(...frameSync[0], "-version");
  const { ok, out } = first.ok ? first : await ask("-version");
  if (!ok) return null;
  const at = first.ok ? 0 : 1;
  syncOf.set(identityOf(tools.ffmpeg), at);
  const version = /^ffmpeg version (\S+)/m.exec(out)?.[1] ?? "unknown";
  return { path, version, frameOption: frameSync[at]![0], ffprobe: whereIs(tools.ffprobe) ?? null };
}

/** What the ffmpeg in use is and can do, found once for a binary; null where there is none that runs. */
export function inspectFfmpeg(given?: string): Promise<FfmpegReport | null> {
  const tools = findTools(given);
  const key = [identityOf(tools.ffmpeg), tools.ffprobe].join("\0");
  const found = reports.get(key) ?? describe(tools);
  reports.set(key, found);
  return found;
}

const install =
  "install ffmpeg with ffprobe (Debian, Ubuntu: apt install ffmpeg; macOS: brew install ffmpeg), or name the ffmpeg binary in ISR_DPO_FFMPEG";

function notStarted(command: string, code: string, cause: unknown): IsrDpoError {
  const missing = ["ENOENT", "EACCES", "ENOTDIR", "ENOEXEC"].includes(code);
  return new IsrDpoError("FFMPEG_MISSING", `${command}: expected a program that can be started, got ${code}`, {
    hint: missing
      ? install
      : "the system could not start another process: look at the limits of memory, files and processes",
    path: command,
    cause,
  });
}

/** What the log blames on the tool; undefined where it is not the tool. */
async function toolFault(command: string, log: string, given: string | undefined): Promise<IsrDpoError | undefined> {
  const option = unknownOption(log);
  const codec = /Decoder \(codec ([^)]+)\) not found|no decoder found for: (\S+)|Decoder not found.*?(\w*)$/m.exec(log);
  const part = /No such filter: '([^']+)'|Unknown encoder '([^']+)'|Requested output format '([^']+)'/.exec(log);
  const broken =
    /error while loading shared libraries: .*|symbol lookup error: .*|version `[^']+' not found|cannot execute.*/.exec(
      log,
    );
  const lacking =
    option !== undefined
      ? `one that does not know the option ${option}`
      : codec
        ? `one without a decoder for ${(codec[1] ?? codec[2] ?? codec[3]) || "its video"}`
        : part
          ? `one without ${part[1] ?? part[2] ?? part[3]}`
          : broken
            ? `one that does not run (${broken[0].slice(0, 200)})`
            : log.trim() === ""
              ? "one that failed without a word"
              : undefined;
  if (lacking === undefined) return undefined;
  const version = (await inspectFfmpeg(given).catch(() => null))?.version ?? "unknown";
  return new IsrDpoError(
    "FFMPEG_MISSING",
    `${command}: expected ffmpeg ${oldestFfmpeg} or newer with its usual parts, got version ${version}, ${lacking}`,
    {
      hint: `use another ffmpeg (${oldestFfmpeg} or newer, a full build): ${install}`,
      path: command,
      detail: { version },
    },
  );
}

export const timeHint =
  "raise the time that a file may take (video.timeoutS of a configuration, mediaTimeoutMs of loadModel), or make the video shorter or smaller";

function outOfTime(path: string, timeoutMs: number): IsrDpoError {
  return new IsrDpoError(
    "MEDIA_UNREADABLE",
    `${path}: expected a video that is decoded within the time limit, got no end within ${timeoutMs / 1000} s`,
    { hint: timeHint, path, detail: { timeoutMs } },
  );
}

const outside = ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGXCPU", "SIGPIPE"]; // what the system or a person sends

function endedBy(command: string, path: string, signal: NodeJS.Signals): IsrDpoError {
  const detail = { signal };
  if (!outside.includes(signal))
    return new IsrDpoError(
      "FFMPEG_MISSING",
      `${command}: expected a program that reads ${path}, got a crash (${signal})`,
      {
        hint: `try another build of ffmpeg (${oldestFfmpeg} or newer; some static ones crash on MPEG-TS); if all of them crash, leave the file out`,
        path: command,
        detail,
      },
    );
  return new IsrDpoError("IO", `${command}: expected it to read ${path} to its end, got ${signal} from outside`, {
    hint: "the system ends processes when memory is short: give it more, or take fewer or smaller frames",
    path,
    detail,
  });
}

/**
 * Runs ffmpeg or ffprobe on `path`. FFMPEG_MISSING where it cannot be started, is too old, crashes or lacks a part; IO where something
 * outside ended it; MEDIA_UNREADABLE with the name of the option when the time is over.
 */
export async function tool(
  command: string,
  args: readonly string[],
  path: string,
  o: ToolOptions,
  take: (chunk: Buffer) => boolean,
  line?: (line: string) => LineUse,
): Promise<Ended> {
  const left = o.deadline === undefined ? o.timeoutMs : Math.min(o.timeoutMs, o.deadline - performance.now());
  if (left <= 0) throw outOfTime(path, o.timeoutMs);
  let ended: Ended;
  try {
    ended = await run(command, args, { signal: o.signal, timeoutMs: Math.ceil(left) }, take, line);
  } catch (cause) {
    const code = (cause as { code?: unknown }).code;
    if (o.signal?.aborted || typeof code !== "string") throw cause;
    throw notStarted(command, code, cause);
  }
  if (ended.killed === "timeout") throw outOfTime(path, o.timeoutMs);
  if (ended.signal !== undefined) throw endedBy(command, path, ended.signal);
  if (ended.code !== 0 && !ended.killed && !hasOlder(ended.log)) {
    const fault = await toolFault(command, ended.log, o.ffmpeg);
    if (fault) throw fault;
  }
  return ended;
}

// Containers of real video alone: never scripts or lists that name other files or addresses (concat, hls, image2).
const videoContainers =
  "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,ogg,asf,ivf,h264,hevc,m4v,mxf,nut";
export const maxPixels = 1 << 26; // 8192 x 8192

/** What every call of ffmpeg and ffprobe says about its input. */
export const input = (path: string): string[] => [
  ...["-protocol_whitelist", "file", "-format_whitelist", videoContainers, "-max_pixels", String(maxPixels)],
  ...["-i", `file:${resolve(path)}`],
];
