// What the ranks of one run have in common: its folder, what they were given, its end, and the machine that some of them share.
import { machine } from "../../base/addon.js";
import { readText } from "../../base/atomic-files.js";
import { IsrDpoError } from "../../base/errors.js";
import type { LoadOptions } from "../../base/types.js";
import { agreed, leads } from "./agree.js";
import type { Communicator } from "./group.js";

/** INVALID_ARGUMENT on ranks that see another folder than rank 0, whose file `lock` there holds `text`. */
export async function proveSameFolder(
  ranks: Communicator | undefined,
  dir: string,
  lock: string,
  text: string,
): Promise<void> {
  await agreed(ranks, async () => {
    if (leads(ranks)) return;
    const seen = await readText(lock).catch(() => undefined);
    if (seen === text) return;
    throw new IsrDpoError("INVALID_ARGUMENT", `${dir}: expected the folder of rank 0, got another one`, {
      hint: "the ranks of a run share its folder: give a path on a file system that all machines see",
      path: dir,
    });
  });
}

/** RUN_MISMATCH where a rank was given another `what` than rank 0, known by its SHA-256. */
export async function proveAlike(ranks: Communicator | undefined, what: string, sha256: string): Promise<void> {
  const all = ranks ? await ranks.gather(sha256) : [];
  const r = all.findIndex((one) => one !== all[0]);
  if (r < 0) return;
  throw new IsrDpoError("RUN_MISMATCH", `rank ${r}: expected the ${what} of rank 0, got other content`, {
    hint: `give all ranks the same ${what}`,
  });
}

/**
 * The signal of work that ranks do together: aborted by `signal`, which then ends the work of all of them, and when a rank is lost.
 * `off` ends that.
 */
export function endTogether(
  ranks: Communicator | undefined,
  signal: AbortSignal,
): { signal: AbortSignal; off: () => void } {
  if (!ranks) return { signal, off: () => {} };
  const abort = () => ranks.abort("its run was aborted");
  signal.addEventListener("abort", abort, { once: true });
  return { signal: AbortSignal.any([signal, ranks.lost]), off: () => signal.removeEventListener("abort", abort) };
}

/** What a rank has of its machine, unless the options say more: its part of the threads, and a card of its own. */
export function shareOfMachine(ranks: Communicator | undefined, { threads, device }: LoadOptions): LoadOptions {
  if (!ranks) return {};
  const chosen = device === undefined || device === "auto" || (device === "cuda" && ranks.device !== "cpu");
  return {
    threads: threads ?? Math.max(1, Math.floor(machine().threads / ranks.localSize)),
    ...(chosen ? { device: ranks.device } : {}),
  };
}
