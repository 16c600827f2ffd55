// Clips as real video files, written by the user's own ffmpeg.
import { spawn } from "node:child_process";
import { rename, unlink } from "node:fs/promises";
import { IsrDpoError } from "../base/errors.js";
import { temporaryOf } from "../base/output-path.js";
import { frames as count, size } from "./clip.js";

export const framesPerSecond = 8;

/** Encoders by preference: lossless RGB; else the codec that every ffmpeg has, near lossless. */
const encoders: readonly (readonly string[])[] = [
  ["-c:v", "libx264rgb", "-qp", "0", "-preset", "veryfast", "-g", "4"],
  ["-c:v", "mpeg4", "-q:v", "1", "-g", "1"],
];

interface Ended {
  code: number | null;
  by: NodeJS.Signals | null;
  log: string;
}

function encode(command: string, args: readonly string[], input: Uint8Array, signal?: AbortSignal): Promise<Ended> {
  return new Promise((resolve, reject) => {
    // In a group of its own: Ctrl-C of a terminal reaches all of a group, and what it means is this process's to say.
    const child = spawn(command, args, {
      stdio: ["pipe", "ignore", "pipe"],
      detached: true,
      ...(signal ? { signal } : {}),
    });
    let log = "";
    child.stderr.on("data", (chunk: Buffer) => {
      log = (log + chunk.toString("utf8")).slice(-4096);
    });
    child.once("error", reject);
    child.once("close", (code, by) => resolve({ code, by, log }));
    child.stdin.once("error", () => {}); // ffmpeg ended without reading: its exit code says so
    child.stdin.end(input);
  });
}

const argsOf = (encoder: readonly string[], path: string) => [
  ...["-nostdin", "-hide_banner", "-loglevel", "error", "-y", "-threads", "1"],
  ...["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", `${size}x${size}`, "-r", String(framesPerSecond), "-i", "pipe:0"],
  ...[...encoder, "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-f", "mp4", path],
];

/**
 * Writes the frames of a clip, RGB (16, 32, 32, 3), as an mp4 file of two seconds, which is there whole or not at all. Lossless
 * where ffmpeg has libx264rgb.
 * FFMPEG_MISSING without ffmpeg (ISR_DPO_FFMPEG names another than that of PATH), IO when it cannot write the file.
 */
export async function writeClip(path: string, frames: Uint8Array, o: { signal?: AbortSignal } = {}): Promise<void> {
  const command = process.env.ISR_DPO_FFMPEG || "ffmpeg";
  let last: Ended = { code: null, by: null, log: "" };
  const temporary = temporaryOf(path);
  for (const encoder of encoders) {
    try {
      last = await encode(command, argsOf(encoder, temporary), frames, o.signal);
    } catch (cause) {
      await unlink(temporary).catch(() => {});
      const code = (cause as { code?: unknown }).code;
      if (o.signal?.aborted || typeof code !== "string") throw o.signal?.reason ?? cause;
      throw new IsrDpoError("FFMPEG_MISSING", `${command}: expected a program that can be started, got ${code}`, {
        hint: "install ffmpeg, or name its binary in ISR_DPO_FFMPEG; without it clips can be used as frames in memory",
        path: command,
        cause,
      });
    }
    if (last.code === 0) return rename(temporary, path);
    if (!/encoder/i.test(last.log)) break; // another encoder would not help
  }
  await unlink(temporary).catch(() => {});
  const why = last.log.trim().split("\n").at(-1) || (last.by ? `it was ended by ${last.by}` : `exit code ${last.code}`);
  throw new IsrDpoError("IO", `${path}: ffmpeg could not write it: ${why}`, {
    path,
    detail: { frames: count, exitCode: last.code },
  });
}
