// Faults leave no file open: every call on files fails in turn, and the process has as many descriptors as before.
import { mkdirSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { FeatureCache } from "../src/video/feature-cache.js";
import { Claim } from "../src/runfolder/folder-claim.js";
import { saveStep } from "../src/runfolder/checkpoints.js";
import { AtomicDir, readState, readText, writeAtomic, writeAtomically } from "../src/base/atomic-files.js";
import { sha256Of } from "../src/base/sha256.js";
import { Journal } from "../src/runfolder/journal.js";
import { MetricsWriter } from "../src/runfolder/metrics.js";
import { openRun, readRun } from "../src/runfolder/run-json.js";
import { EventFile } from "../src/runfolder/tensorboard.js";
import { ItemSet } from "../src/train/item-store.js";
import { ReferenceStore } from "../src/train/reference-logprobs.js";
import { withFault } from "./helpers/faults.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("store handles");
/** Descriptors of files below a folder. Other ones come and go: those of the modules' loader. */
const openBelow = (dir: string): string[] =>
  readdirSync("/proc/self/fd").flatMap((fd) => {
    const path = ((): string => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`);
      } catch {
        return ""; // closed meanwhile
      }
    })();
    return path.startsWith(`${dir}/`) ? [path.slice(dir.length + 1)] : [];
  });

async function* items() {
  for (let i = 0; i < 3; i++) yield { item: { ids: [1, 2, i] }, tokens: [3], cut: false };
}

const works: Record<string, (dir: string) => Promise<unknown>> = {
  "a metrics writer with events": async (dir) => {
    const writer = await MetricsWriter.open({ dir, tensorboard: join(dir, "events") });
    try {
      await writer.add(1, { loss: 1 }, { seconds: 1 });
      await writer.sync();
    } finally {
      await writer.close();
    }
  },
  "an event file": async (dir) => (await EventFile.create(dir, 0)).close(),
  "a journal": async (dir) => {
    const { journal } = await Journal.open(join(dir, "journal.0.log"));
    await journal.close();
  },
  "reference log-probs": async (dir) => {
    const store = await ReferenceStore.open(join(dir, "refs.f32"));
    const append = store.append([{ chosen: new Float32Array(2), rejected: new Float32Array(1) }]);
    await append.finally(() => store.close());
  },
  "a set of items": async (dir) => (await ItemSet.gather(items(), join(dir, "items.jsonl"))).close(),
  "a file": (dir) => writeAtomic(join(dir, "a"), "text"),
  "a file of data": (dir) => writeAtomically(join(dir, "a"), (file) => file.write(Buffer.from("x"))),
  "a folder": async (dir) => (await AtomicDir.create(join(dir, "f"))).commit(),
  "a checkpoint": (dir) => saveStep(dir, 1, async () => {}, { cursor: 1, metricsBytes: 0, pairsHash: "a" }),
  "what is read": async (dir) => {
    const { run } = await openRun(dir, { kind: "sft", config: {}, facts: {} });
    const path = join(dir, "run.json");
    return [run, await readState(path), await readText(path), await sha256Of(path)];
  },
  "a claim": async (dir) => {
    const claim = await Claim.take(join(dir, "run"), {
      mark: "run.json",
      what: "the folder of a run",
      read: (path, found) => readRun(path, found, "sft"),
    });
    await claim.end();
  },
  "a cache of features": (dir) =>
    new FeatureCache({ dir: join(dir, "features") }).put("a", { dtype: "u8", shape: [1, 1], data: new Uint8Array(1) }),
};
for (const [name, work] of Object.entries(works))
  test(`${name}: no descriptor stays open, whichever call fails`, async () => {
    const place = (i: number) => {
      const dir = join(temporaryFolder(), String(i));
      mkdirSync(dir);
      return dir;
    };
    await work(place(0)); // what is loaded at first use is
    let failed = 0;
    for (let at = 1; ; at++) {
      const dir = place(at);
      const { calls, error } = await withFault(at, "EIO", () => work(dir), ["stat", "read"]);
      for (let i = 0; i < 50 && openBelow(dir).length > 0; i++) await new Promise((resolve) => setTimeout(resolve, 20)); // on their way
      assert.equal(openBelow(dir), [], `call ${at} of ${name}`);
      if (error !== undefined) failed++;
      if (calls < at) break;
    }
    ordered(failed, ">", 0);
  });

test.run();
