// Options of reading media and of the cache of features, one row each.
import { filePath, share, whole } from "../base/option-rows.js";

/** How a file of media is read. */
export const readRows = {
  timeoutMs: whole("Milliseconds that opening and decoding one file may take.", 1, 2 ** 31 - 1).or(300_000),
  ffmpeg: filePath("The ffmpeg binary; default: ISR_DPO_FFMPEG of the environment, or ffmpeg of PATH."),
  maxBytes: whole("Largest size of the decoded frames of one video in bytes.", 1, Number.MAX_SAFE_INTEGER).or(2 ** 30),
  threads: whole("Threads that decoding may use; pixels are the same with any number.", 1, 256).or(1),
  maxLost: share(
    "Share of the examined frames of a video that may be lost or damaged; above it the video is MEDIA_UNREADABLE. With 1, everything that can be decoded is used and losses are reported; in train() the default is 0.",
  ).or(1),
};

/** A cache of features on disk. */
export const cacheRows = {
  dir: filePath("Folder of the cache, which processes may share; it is made if it does not exist.").required(),
  maxBytes: whole("Bound of its size in bytes; the oldest entries are deleted. Default: no bound.", 1),
};
