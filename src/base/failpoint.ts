// Failpoints: named places at which tests end the process, as SIGKILL does. A name is <before | half | after>-<what is done>:
// <file or folder>, as in before-rename:stage.json; half-write is a write of which the first half reached the file.
//   ISR_DPO_FAILPOINT      the name, with #k for the k-th pass (default 1)
//   ISR_DPO_FAILPOINT_LOG  a file that gets the name of every failpoint that is passed, one per line
import { appendFileSync } from "node:fs";
import { basename } from "node:path";

const [armed, pass] = (process.env.ISR_DPO_FAILPOINT ?? "").split("#") as [string, string | undefined];
const log = process.env.ISR_DPO_FAILPOINT_LOG;
const off = armed === "" && log === undefined;
let left = Number(pass ?? 1);

export type Doing = "write" | "sync" | "rename" | "cut" | "remove";

/** Whether the process is to end at this place, this time. */
export function due(when: "before" | "half" | "after", doing: Doing, path: string): boolean {
  if (off) return false;
  const place = basename(path).replace(/^\.(.+)\.isr-dpo-[0-9a-f]{12}\.tmp$/, "$1.tmp"); // the same in each process
  const name = `${when}-${doing}:${place}`;
  if (log !== undefined) appendFileSync(log, `${name}\n`);
  return name === armed && --left === 0;
}

export function die(): void {
  process.kill(process.pid, "SIGKILL");
}

/** Runs a call on a file or folder between two failpoints. */
export async function between<T>(doing: Doing, path: string, work: () => Promise<T>): Promise<T> {
  if (off) return work();
  if (due("before", doing, path)) die();
  const result = await work();
  if (due("after", doing, path)) die();
  return result;
}
