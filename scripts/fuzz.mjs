// npm run fuzz [-- <target> [seconds] [seed]]: builds test/fuzz/fuzz_<target>.cc under ASan + UBSan, replays its corpus,
// and mutates it for so many seconds. Without a target: all of them, replay only. An input that breaks something is kept
// in build/fuzz/<target>/crash-<seed>.bin; when the fault is mended, it goes into test/fuzz/corpus/<target>/.
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { buildSanitized, executable, root } from "./native.mjs";
import { Stages } from "./stages.mjs";

const folder = join(root, "test", "fuzz");
export const fuzzTargets = readdirSync(folder)
  .map((file) => /^fuzz_(\w+)\.cc$/.exec(file)?.[1])
  .filter(Boolean);

/** Builds every target; the folder, or null after a failure. */
export const buildFuzz = (stages) =>
  buildSanitized(
    stages,
    "address,undefined",
    fuzzTargets.map((target) => `fuzz_${target}`),
  );

/** Replays and fuzzes one target; a stage of its own. */
export async function fuzz(stages, dir, target, seconds, seed = 1) {
  const cwd = join(root, "build", "fuzz", target);
  const corpus = join(folder, "corpus", target);
  mkdirSync(cwd, { recursive: true });
  const inputs = readdirSync(corpus).length; // a target without a corpus is a mistake: this throws
  const args = [...(seconds ? ["--seconds", String(seconds), "--seed", String(seed)] : []), corpus];
  const name = `fuzz ${target}, ${inputs} files${seconds ? ` and ${seconds} s` : ""}`;
  await stages.stage(name, executable(dir, `fuzz_${target}`), args, { cwd, limit: seconds + 300 });
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [target, seconds = target ? "60" : "0", seed = String(Date.now() % 1e9)] = process.argv.slice(2);
  if (target && !fuzzTargets.includes(target))
    throw new Error(`Expected one of ${fuzzTargets.join(", ")} but received ${target}`);
  const stages = new Stages();
  const dir = await buildFuzz(stages);
  for (const name of dir ? (target ? [target] : fuzzTargets) : [])
    await fuzz(stages, dir, name, Number(seconds), Number(seed));
  stages.end();
}
