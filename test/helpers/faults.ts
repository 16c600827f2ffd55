// Faults of Node's file calls in this process: the k-th call under a folder fails, as a full disk or a bad one would.
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";

type Call = (...args: unknown[]) => Promise<unknown>;

const onHandles = ["write", "sync", "datasync", "truncate"];
const onPaths = ["open", "rename", "mkdir"];

/** Runs `work` while call number `at` (from 1; 0: none) fails with `code`, once. How many calls there were, and its error. */
export async function withFault(
  at: number,
  code: string,
  work: () => Promise<unknown>,
  more: readonly string[] = [], // calls on open files that count too
): Promise<{ calls: number; error: unknown }> {
  const probe = await fs.promises.open(process.execPath);
  const handles = Object.getPrototypeOf(probe) as Record<string, Call>;
  await probe.close();
  const paths = fs.promises as unknown as Record<string, Call>;
  let calls = 0;
  const undo: (() => void)[] = [];
  const wrap = (owner: Record<string, Call>, name: string) => {
    const real = owner[name]!;
    owner[name] = async function (this: unknown, ...args) {
      if (++calls !== at) return real.apply(this, args);
      if (name === "write") {
        const [bytes, from, length, place] = args as [Uint8Array, number, number, number];
        await real.call(this, bytes, from, length >> 1, place); // a disk is full in the middle of a write
      }
      throw Object.assign(new Error(`${code}: injected, ${name}`), { code, syscall: name });
    };
    undo.push(() => {
      owner[name] = real;
    });
  };
  for (const name of [...onHandles, ...more]) wrap(handles, name);
  for (const name of onPaths) wrap(paths, name);
  syncBuiltinESMExports();
  try {
    await work();
    return { calls, error: undefined };
  } catch (error) {
    return { calls, error };
  } finally {
    for (const back of undo) back();
    syncBuiltinESMExports();
  }
}
