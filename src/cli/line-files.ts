// Files that commands read and write; "-" is stdin and stdout.
import type { Readable } from "node:stream";
import { IsrDpoError } from "../base/errors.js";
import { openInput as openFile, openOutput as openWhole, type Output } from "../base/line-files.js";

export { type Output, readUntil } from "../base/line-files.js";

/** Opens a file for reading now, so that a missing one is told before anything else is done. */
export const openInput = async (path: string): Promise<Readable> =>
  path === "-" ? process.stdin : await openFile(path);

const toStdout: Output = {
  write: async (text) => {
    process.stdout.write(text);
  },
  commit: async () => {},
  discard: async () => {},
};

/** openOutput() of the library; "-" is stdout, which replaces nothing. */
export async function openOutput(path: string, force: boolean, keys: readonly string[]): Promise<Output> {
  if (path !== "-") return openWhole(path, force, keys);
  if (!force) return toStdout;
  throw new IsrDpoError("INVALID_ARGUMENT", "--force: expected --out with a file beside it, got none", {
    hint: "stdout replaces nothing: leave --force out",
  });
}
