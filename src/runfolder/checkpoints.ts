// Checkpoints of training: folders such as step-000140, which appear only when they are complete, with sizes and checksums of
// their files. Two are kept.
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { IsrDpoError } from "../base/errors.js";
import { sha256Of } from "../base/sha256.js";
import { AtomicDir, makeFolders, readState, removeFolder, writeAtomic } from "../base/atomic-files.js";
import { codeOf, guarded } from "../base/file-errors.js";
import { canonicalJson } from "./run-json.js";

const kept = 2;
const stateName = "state.json";

/** Where training stands after a step. */
export interface StepFacts {
  /** Where the data goes on. */
  cursor: unknown;
  /** Size of metrics.jsonl when the checkpoint was written. */
  metricsBytes: number;
  pairsHash: string;
}

export interface StepState extends StepFacts {
  step: number;
  files: { name: string; bytes: number; sha256: string }[];
}

export interface FoundStep {
  step: number;
  path: string;
  state: StepState;
}

/** A step folder that does not hold, and why. */
export interface BadStep {
  path: string;
  reason: string;
}

export const stepFolder = (dir: string, step: number): string => join(dir, `step-${String(step).padStart(6, "0")}`);

/** Steps with a folder, the newest first. */
async function stepsOf(dir: string): Promise<number[]> {
  const names = await readdir(dir).catch((e) => {
    if (codeOf(e) === "ENOENT") return [];
    return guarded(dir, "list", () => Promise.reject(e));
  });
  const steps = names.map((name) => Number(/^step-(\d{6,15})$/.exec(name)?.[1] ?? Number.NaN));
  return steps.filter((n, i) => join(dir, names[i]!) === stepFolder(dir, n)).sort((a, b) => b - a);
}

/** Files under a folder as names with slashes, sorted; state.json is left out. */
async function filesOf(dir: string): Promise<string[]> {
  const names: string[] = [];
  const walk = async (inside: string) => {
    for (const entry of await readdir(join(dir, inside), { withFileTypes: true })) {
      const name = inside === "" ? entry.name : `${inside}/${entry.name}`;
      if (entry.isDirectory()) await walk(name);
      else if (name !== stateName) names.push(name);
    }
  };
  await guarded(dir, "list", () => walk(""));
  return names.sort((a, b) => (a < b ? -1 : 1));
}

const factsText = (step: number, { cursor, metricsBytes, pairsHash }: StepFacts): string =>
  canonicalJson({ step, cursor, metricsBytes, pairsHash });

/**
 * Saves a checkpoint: `fill` writes its files into the folder it is given, and they appear with state.json, durable.
 * Then all other steps but the newest older one are deleted. A step that stands already and holds is kept as it is;
 * NONDETERMINISM where its state is another. After an error the older steps stand.
 */
export async function saveStep(
  dir: string,
  step: number,
  fill: (temporary: string) => Promise<void>,
  state: StepFacts,
): Promise<void> {
  await makeFolders(dir);
  const final = stepFolder(dir, step);
  if ((await stepsOf(dir)).includes(step)) {
    const found = await check(final, step);
    if (typeof found !== "string") {
      refuseOther(final, factsText(step, found), factsText(step, state));
      return;
    }
    await removeFolder(final);
  }
  const folder = await AtomicDir.create(final);
  try {
    await fill(folder.path);
    const files: StepState["files"] = [];
    for (const name of await filesOf(folder.path)) {
      const path = join(folder.path, name);
      const { size } = await guarded(path, "stat", () => stat(path));
      files.push({ name, bytes: size, sha256: await sha256Of(path) });
    }
    const { cursor, metricsBytes, pairsHash } = state;
    const whole: StepState = { step, cursor, metricsBytes, pairsHash, files };
    await writeAtomic(join(folder.path, stateName), `${JSON.stringify(whole, null, 2)}\n`);
  } catch (e) {
    await folder.abandon().catch(() => {}); // the error that is being thrown says more
    throw e;
  }
  await folder.commit();
  await removeOthers(dir, step);
}

function refuseOther(path: string, before: string, now: string): void {
  if (before === now) return;
  throw new IsrDpoError("NONDETERMINISM", `${path}: expected the state ${before}, got ${now}`, {
    hint: "the same steps gave another result: the machine, the engine or an input changed between the runs",
    path,
  });
}

/** Removes all steps but `step` and the newest older one. Later ones are none that training could resume from. */
export async function removeOthers(dir: string, step: number): Promise<void> {
  const steps = await stepsOf(dir);
  const keep = steps.filter((s) => s <= step).slice(0, kept);
  for (const s of steps) if (!keep.includes(s)) await removeFolder(stepFolder(dir, s));
}

/** The newest step whose sizes and sums hold, or null; `bad` names the newer ones that do not. */
export async function newestStep(dir: string): Promise<{ newest: FoundStep | null; bad: BadStep[] }> {
  const bad: BadStep[] = [];
  for (const step of await stepsOf(dir)) {
    const path = stepFolder(dir, step);
    const found = await check(path, step);
    if (typeof found !== "string") return { newest: { step, path, state: found }, bad };
    bad.push({ path, reason: found });
  }
  return { newest: null, bad };
}

/** The state of a step, or why it does not hold. Names are taken from the folder, so that none leads out of it. */
async function check(path: string, step: number): Promise<StepState | string> {
  let state: StepState | null;
  try {
    state = (await readState(join(path, stateName))) as StepState | null;
  } catch (e) {
    return (e as Error).message;
  }
  if (state === null) return "it has no state.json";
  const text = (x: unknown) => typeof x === "string";
  const whole = (x: unknown) => Number.isSafeInteger(x) && (x as number) >= 0;
  if (state.step !== step || !whole(state.metricsBytes) || !text(state.pairsHash) || !Array.isArray(state.files))
    return "state.json is not that of the step";
  if (!state.files.every((f) => text(f?.name) && whole(f.bytes) && text(f.sha256))) return "state.json lists no files";
  const names = await filesOf(path);
  const listed = state.files.map((f) => f.name).sort((a, b) => (a < b ? -1 : 1));
  if (JSON.stringify(names) !== JSON.stringify(listed))
    return `it holds ${names.length} files, not those of state.json`;
  for (const { name, bytes } of state.files) {
    const facts = await guarded(join(path, name), "stat", () => stat(join(path, name)));
    if (!facts.isFile() || facts.size !== bytes) return `${name}: expected ${bytes} bytes, got ${facts.size}`;
  }
  for (const { name, sha256 } of state.files)
    if ((await sha256Of(join(path, name))) !== sha256) return `${name}: its SHA-256 is not that of state.json`;
  return state;
}
