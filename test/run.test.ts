// Run, apart from any engine: one object that is a promise and a stream.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { startRun } from "../src/run.js";

const test = suite("run");
const never = () => assert.unreachable();
const tick = () => new Promise((resolve) => setImmediate(resolve));

/** Emits 1..n, one a tick, and gives their sum; stops at the signal. */
const counting = (n: number, signal?: AbortSignal) =>
  startRun<number, number>(signal, async (aborted, emit) => {
    let sum = 0;
    for (let i = 1; i <= n; i++) {
      await tick();
      aborted.throwIfAborted();
      emit(i);
      sum += i;
    }
    return sum;
  });

test("awaited: the result", async () => {
  assert.is(await counting(3), 6);
  assert.is(await counting(3).result, 6);
  assert.is(await counting(3).then((x) => x + 1), 7);
});

test("iterated: every event, whenever the reader comes", async () => {
  const run = counting(5);
  await tick();
  await tick();
  const seen: number[] = [];
  for await (const e of run) {
    seen.push(e);
    for (let i = 0; i < 3; i++) await tick(); // slower than the work
  }
  assert.equal(seen, [1, 2, 3, 4, 5]);
  assert.is(await run, 15);
});

test("it starts at once", () => {
  let begun = false;
  startRun(undefined, async () => {
    begun = true;
  });
  assert.ok(begun);
});

test("break aborts, and the work has ended when the loop has been left", async () => {
  let ended = false;
  const run = startRun<number, void>(undefined, async (aborted, emit) => {
    emit(1);
    while (!aborted.aborted) await tick();
    ended = true;
    aborted.throwIfAborted();
  });
  for await (const e of run) {
    assert.is(e, 1);
    break;
  }
  assert.ok(ended);
  await run.result.then(
    () => assert.unreachable(),
    (e) => assert.is(e.name, "AbortError"),
  );
});

test("abort and signal give their reason", async () => {
  const reason = new Error("enough");
  const run = counting(1000);
  run.abort(reason);
  await run.result.then(never, (e) => assert.is(e, reason));
  const controller = new AbortController();
  const other = counting(1000, controller.signal);
  controller.abort(reason);
  await other.result.then(never, (e) => assert.is(e, reason));
  let begun = false;
  const late = startRun(AbortSignal.abort(reason), async () => {
    begun = true;
  });
  await late.result.then(never, (e) => assert.is(e, reason));
  assert.not(begun);
});

test("only iterated: the loop throws, and the result counts as handled", async () => {
  const unhandled: unknown[] = [];
  const note = (e: unknown) => unhandled.push(e);
  process.on("unhandledRejection", note);
  const seen: number[] = [];
  const run = startRun<number, void>(undefined, async (_, emit) => {
    emit(1);
    await tick();
    throw new Error("broken");
  });
  try {
    for await (const e of run) seen.push(e);
    assert.unreachable();
  } catch (e) {
    assert.is((e as Error).message, "broken");
  }
  for (let i = 0; i < 3; i++) await tick();
  process.off("unhandledRejection", note);
  assert.equal(seen, [1]);
  assert.equal(unhandled, []);
});

test("neither awaited nor iterated: a failure is an unhandled rejection", async () => {
  const others = process.listeners("unhandledRejection");
  process.removeAllListeners("unhandledRejection");
  const seen = new Promise<Error>((resolve) => process.once("unhandledRejection", (e) => resolve(e as Error)));
  startRun(undefined, async () => {
    throw new Error("lost");
  });
  assert.is((await seen).message, "lost");
  for (const listener of others) process.on("unhandledRejection", listener);
});

test("a slow reader loses progress between, never other events", async () => {
  type E = { type: "progress" | "state"; n: number };
  const coalesce = (queued: E, next: E) => (queued.type === "progress" && next.type === "progress" ? next : undefined);
  const run = startRun<E, void>(
    undefined,
    async (_, emit) => {
      for (let n = 0; n < 1000; n++) emit({ type: n % 100 === 0 ? "state" : "progress", n });
    },
    coalesce,
  );
  const seen: E[] = [];
  for await (const e of run) seen.push(e);
  assert.equal(
    seen.filter((e) => e.type === "state").map((e) => e.n),
    Array.from({ length: 10 }, (_, i) => 100 * i),
  );
  const progress = seen.filter((e) => e.type === "progress");
  assert.equal(
    progress.map((e) => e.n),
    [999],
  );
});

test("only awaited: events are not kept", async () => {
  const run = counting(3);
  await run;
  const seen: number[] = [];
  for await (const e of run) seen.push(e);
  assert.equal(seen, []);
});

test("the events of a run are read once", async () => {
  const run = counting(1);
  for await (const _ of run);
  assert.throws(() => run[Symbol.asyncIterator](), /once/);
});

test.run();
