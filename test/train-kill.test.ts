// A training run killed at random instants and at every failpoint, and resumed: what it leaves is what a run leaves that was
// never stopped, byte for byte. ISR_DPO_KILLS sets how many random kills there are (3); from 100 on every failpoint also
// has a run of its own, at its first and at its last pass.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { bundled } from "./helpers/bundle.js";
import { root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";
import { resultOf, type SizeName, sizes, writeData } from "./helpers/train-run.js";

const test = suite("train kill");
const kills = Number(process.env.ISR_DPO_KILLS ?? 3);
const sideBySide = 2;

interface Ended {
  killed: boolean;
  said: { done?: boolean; code?: string; message?: string };
  /** From the start of the work. */
  ms: number;
}

class Runs {
  readonly #child: string;
  readonly #data: string;
  readonly #size: SizeName;

  private constructor(child: string, data: string, size: SizeName) {
    this.#child = child;
    this.#data = data;
    this.#size = size;
  }

  static async of(size: SizeName): Promise<Runs> {
    const data = temporaryFolder();
    await writeData(data, sizes[size]);
    return new Runs(bundled("train-run"), data, size);
  }

  /** Trains in `dir` to the end, or until it is killed, `killMs` after the start of the work or by a failpoint. */
  async start(dir: string, env: Record<string, string> = {}, killMs?: number): Promise<Ended> {
    const child = spawn(process.execPath, [this.#child, this.#data, dir, this.#size], {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "inherit"],
    });
    let began = 0;
    let said: Ended["said"] = {};
    createInterface(child.stdout!).on("line", (line) => {
      const fact = JSON.parse(line);
      if (!fact.ready) said = fact;
      else {
        began = performance.now();
        if (killMs !== undefined) setTimeout(() => child.kill("SIGKILL"), killMs);
      }
    });
    const [, signal] = await once(child, "close");
    return { killed: signal === "SIGKILL", said, ms: performance.now() - began };
  }

  /** A run that nothing stops, its result, and the failpoints it passed. */
  async straight(): Promise<{ result: Record<string, string>; ms: number; passed: string[] }> {
    const dir = runFolder();
    const log = join(temporaryFolder(), "log");
    const { ms } = await this.finish(dir, { ISR_DPO_FAILPOINT_LOG: log });
    return { result: resultOf(dir), ms, passed: readFileSync(log, "utf8").trimEnd().split("\n") };
  }

  async finish(dir: string, env: Record<string, string> = {}): Promise<Ended> {
    const ended = await this.start(dir, env);
    assert.ok(ended.said.done, `it ends: ${JSON.stringify(ended)}`);
    return ended;
  }
}

/** Takes work from the list until it is empty, some side by side. */
async function shared<T>(list: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  const take = async () => {
    while (next < list.length) await work(list[next++]!);
  };
  await Promise.all(Array.from({ length: sideBySide }, take));
}

/** Where a run may be; the folder above it exists, under a name that is always the same. */
function runFolder(): string {
  const above = join(temporaryFolder(), "runs");
  mkdirSync(above);
  return join(above, "run");
}

function timingsHold(dir: string): void {
  const lines = readFileSync(join(dir, "train", "timings.jsonl"), "utf8")
    .trimEnd()
    .split("\n");
  for (const line of lines) assert.type(JSON.parse(line).seconds, "number");
}

test(`${kills} kills at random instants of ${sizes.long.steps} steps`, async () => {
  const runs = await Runs.of("long");
  const { result, ms } = await runs.straight();
  assert.ok(ms < 10_000 || kills < 100, `the run takes ${ms} ms`);
  let left = kills;
  let resumed = 0;
  await shared([1, 2], async () => {
    while (left > 0) {
      const dir = runFolder();
      const most = 1 + Math.floor(Math.random() * 4);
      for (let i = 0; i < most && left > 0; i++) {
        left--;
        const { killed, said } = await runs.start(dir, {}, Math.random() * ms);
        assert.ok(killed || said.done, JSON.stringify(said));
        if (!killed) left++; // it was done before
        if (!killed) break;
        resumed++;
      }
      await runs.finish(dir);
      assert.equal(resultOf(dir), result);
      timingsHold(dir);
    }
  });
  assert.is(resumed, kills);
});

test("what a file counts on is durable before it appears", async () => {
  const { passed } = await (await Runs.of("short")).straight();
  const before = (name: string, k = 0) => passed.slice(0, passed.flatMap((p, i) => (p === name ? [i] : []))[k]);
  for (const step of ["step-000002", "step-000004"]) {
    const earlier = before(`before-rename:${step}`);
    const synced = earlier.lastIndexOf("after-sync:metrics.jsonl");
    assert.ok(synced > earlier.lastIndexOf("after-write:metrics.jsonl"), `metrics of ${step}`);
    for (const name of ["state.json", "trainer.safetensors"])
      assert.ok(earlier.lastIndexOf(`after-sync:${name}`) > synced, `${name} of ${step}`);
  }
  const trains = before("before-rename:stage.json", 1); // from scoring to training
  ordered(trains.lastIndexOf("after-sync:refs.f32"), ">", trains.lastIndexOf("after-write:refs.f32"));
});

// If names differ only in their step, the quick test takes the first and the last. Between a write and its rename a sync changes
// nothing that a killed process could leave behind: the quick test leaves these instants out.
const quick = /^half|-(rename|cut|remove):|^after-write:(?!.*\.tmp)/;
const kindOf = (name: string) => name.replace(/\d{6}/, "N");

function chosen(passed: readonly string[]): string[] {
  const names = [...new Set(passed)];
  const first = new Map<string, string>();
  const last = new Map<string, string>();
  for (const name of names) {
    if (!first.has(kindOf(name))) first.set(kindOf(name), name);
    last.set(kindOf(name), name);
  }
  const taken = new Set([...first.values(), ...last.values()]);
  return names.filter((name) => taken.has(name) && (kills >= 10 || quick.test(name)));
}

test("a run killed at every failpoint on its way", async () => {
  const runs = await Runs.of("three");
  const { result, passed } = await runs.straight();
  const names = chosen(passed);
  assert.ok(names.length > 30, names.join(", "));
  // Two runs side by side, each killed at every other name. A resumed run passes some names no more: a new one takes over.
  await shared([0, 1], async (part) => {
    let dir = runFolder();
    for (const name of names.filter((_, i) => i % 2 === part)) {
      const kill = () => runs.start(dir, { ISR_DPO_FAILPOINT: name });
      let ended = await kill();
      if (ended.said.done) {
        assert.equal(resultOf(dir), result, `before ${name}`);
        timingsHold(dir);
        dir = runFolder();
        ended = await kill();
      }
      assert.ok(ended.killed, `${name}: ${JSON.stringify(ended.said)}`);
    }
    await runs.finish(dir);
    assert.equal(resultOf(dir), result);
    timingsHold(dir);
  });
});

if (kills >= 100)
  test("a run killed at each failpoint, at its first and its last pass", async () => {
    const runs = await Runs.of("three");
    const { result, passed } = await runs.straight();
    const count = (name: string) => passed.filter((p) => p === name).length;
    const places = [...new Set(passed)].flatMap((name) =>
      count(name) > 1 ? [name, `${name}#${count(name)}`] : [name],
    );
    await shared(places, async (place) => {
      const dir = runFolder();
      const { killed, said } = await runs.start(dir, { ISR_DPO_FAILPOINT: place });
      assert.ok(killed, `${place}: ${JSON.stringify(said)}`);
      await runs.finish(dir);
      assert.equal(resultOf(dir), result, place);
      timingsHold(dir);
    });
  });

test.run();
