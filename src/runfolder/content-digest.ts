// The SHA-256 of input files, and the check that they have not changed after they were read.
import type { BigIntStats } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { sha256Of } from "../base/sha256.js";
import { guarded } from "../base/file-errors.js";

const racyNs = 2_000_000_000n; // times of files that are younger may not tell two writes apart

/** What tells a file from one that was written or put in its place since. */
export const stampOf = (s: BigIntStats): string => [s.dev, s.ino, s.size, s.mtimeNs, s.ctimeNs].join(" ");

/** The content of a file as it was when it was first looked at. */
export class Content {
  private constructor(
    readonly path: string,
    /** In hexadecimal, of its bytes. */
    readonly sha256: string,
    readonly stamp: string,
    readonly racy: boolean,
  ) {}

  /** NOT_FOUND, IO (no regular file, too), DATA_INVALID for a file that changes meanwhile. */
  static async of(path: string): Promise<Content> {
    const facts = () => guarded(path, "read", () => stat(path, { bigint: true }));
    const before = await facts();
    if (!before.isFile()) throw new IsrDpoError("IO", `${path}: expected a regular file, got something else`, { path });
    const sha256 = await sha256Of(path);
    const stamp = stampOf(before);
    if (stampOf(await facts()) !== stamp) throw changed(path);
    const young = BigInt(Date.now()) * 1_000_000n - before.ctimeNs < racyNs;
    return new Content(path, sha256, stamp, young);
  }

  /** After reading: DATA_INVALID where the file holds something else by now. */
  async unchanged(): Promise<void> {
    const now = await stat(this.path, { bigint: true }).catch(() => null);
    if (now && !this.racy && stampOf(now) === this.stamp) return;
    if (!now || (await sha256Of(this.path)) !== this.sha256) throw changed(this.path);
  }
}

function changed(path: string): IsrDpoError {
  return new IsrDpoError(
    "DATA_INVALID",
    `${path}: expected a file that stays as it is, got one that changed while it was read`,
    {
      hint: "give the command again when nothing writes to the file",
      path,
    },
  );
}

/** Files beside the weights that decide what a model reads and writes. */
const modelNames = [
  ...["config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"],
  ...["special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json"],
  ...["merges.txt", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"],
  ...["image_tower_config.json", "video_tower_config.json"],
];

/** Whether a file of this name, in a checkpoint, decides what the model reads or says. */
export const decides = (name: string): boolean =>
  modelNames.includes(name) || /\.safetensors(\.index\.json)?$/.test(name);

/** The contents of a checkpoint's files but its weights, by name; the weights have a hash of their own. */
export async function modelContents(dir: string): Promise<Map<string, Content>> {
  const found = new Map<string, Content>();
  for (const name of modelNames) {
    const content = await Content.of(join(dir, name)).catch((e) => {
      if (isIsrDpoError(e, "NOT_FOUND")) return null;
      throw e;
    });
    if (content) found.set(name, content);
  }
  return found;
}
