// Run, apart from any engine: one object that is a promise and a stream.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { excludes } from "./helpers/assert.js";
import { signalOf } from "../src/base/check.js";
import { startRun } from "../src/base/run.js";
import { unheard } from "./helpers/unheard.js";

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
  assert.equal({ begun }, { begun: true });
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
  assert.equal({ ended }, { ended: true });
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
  assert.equal({ begun }, { begun: false });
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
    { coalesce },
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

const ways: [name: string, ask: (run: ReturnType<typeof counting>) => unknown][] = [
  ["result", (run) => run.result],
  ["then", (run) => run.then(() => {})],
  ["catch", (run) => run.catch(() => {})],
  ["finally", (run) => run.finally(() => {})],
  ["race", (run) => Promise.race([run])],
];
for (const [name, way] of ways)
  test(`only the result is asked for: events are not kept: ${name}`, async () => {
    const run = counting(4);
    const asked = way(run);
    for (let i = 0; i < 3; i++) await tick(); // while it goes on
    await asked;
    const seen: number[] = [];
    for await (const e of run) seen.push(e);
    assert.ok(seen.length < 3, `${name} kept ${seen}`);
    excludes(seen, 1, `${name} kept the first event`);
  });

test("the result is asked for and the events are read in one tick: none is lost", async () => {
  const run = startRun<number, string>(undefined, async (_, emit) => {
    emit(1); // before the call has returned
    await tick();
    emit(2);
    return "done";
  });
  const { result } = run;
  const seen: number[] = [];
  for await (const e of run) seen.push(e);
  assert.equal(seen, [1, 2]);
  assert.is(await result, "done");
});

test("a whole promise: then, catch, finally, its tag, and the static functions of Promise", async () => {
  const failing = () =>
    startRun(undefined, async () => {
      throw new Error("broken");
    });
  assert.is(await failing().catch((e) => e.message), "broken");
  let ended = 0;
  const end = () => {
    ended += 1;
  };
  assert.is(await counting(2).finally(end), 3);
  assert.is(
    await failing()
      .finally(end)
      .catch((e) => e.message),
    "broken",
  );
  assert.is(ended, 2);
  assert.is(Object.prototype.toString.call(counting(1)), "[object Run]");
  assert.equal(await Promise.all([counting(1), counting(2)]), [1, 3]);
  const kept: Promise<number> = counting(2); // by its type too
  assert.is(await kept, 3);
});

const breaking = (message: string) =>
  startRun(undefined, async (aborted) => {
    while (!aborted.aborted) await tick();
    throw new Error(message);
  });

const quiet: [what: string, work: () => unknown][] = [
  ["abort()", () => counting(1000).abort()],
  ["abort() with a reason", () => counting(1000).abort(new Error("enough"))],
  ["abort() twice", () => void [counting(1000)].map((run) => [run.abort(), run.abort(new Error("again"))])],
  ["the owner's signal", () => void counting(1000, AbortSignal.timeout(1))],
  ["a signal that is aborted already", () => void counting(1000, AbortSignal.abort())],
  [
    "abort() after the end",
    async () => {
      const run = counting(1);
      await tick();
      await tick();
      await tick();
      run.abort();
    },
  ],
  [
    "abort() of a run that fails otherwise and is heard",
    () => {
      const run = breaking("heard");
      run.abort();
      return run.catch(() => {});
    },
  ],
];
for (const [what, work] of quiet)
  test(`nobody listens, and nothing is told: ${what}`, async () => {
    assert.equal(
      (
        await unheard(async () => {
          await work();
          await new Promise((resolve) => setTimeout(resolve, 20));
        })
      ).map(String),
      [],
    );
  });

test("abort() does not hide another failure that nobody hears", async () => {
  const seen = await unheard(() => breaking("the disk is full").abort());
  assert.equal(
    seen.map((e) => (e as Error).message),
    ["the disk is full"],
  );
});

test("a signal of another library is obeyed", async () => {
  const listeners = new Set<() => void>();
  const signal = {
    aborted: false,
    reason: new Error("theirs"),
    addEventListener: (_: string, f: () => void) => listeners.add(f),
    removeEventListener: (_: string, f: () => void) => listeners.delete(f),
  };
  const run = counting(1000, signalOf({ signal }));
  await tick();
  signal.aborted = true;
  for (const f of listeners) f();
  await run.then(never, (e) => assert.is(e, signal.reason));
  assert.is(signalOf({ signal: 3 }), undefined); // refused behind, where the promise can reject
  assert.is(signalOf(null), undefined);
});

test("the cost of an event does not grow with the events that wait", async () => {
  let asked = 0;
  const run = startRun<number, void>(
    undefined,
    async (_, emit) => {
      for (let n = 0; n < 5000; n++) emit(n);
    },
    {
      coalesce: () => {
        asked += 1;
        return undefined;
      },
    },
  );
  const seen: number[] = [];
  for await (const e of run) seen.push(e);
  assert.equal([seen.length, seen[0], seen.at(-1)], [5000, 0, 4999]);
  assert.ok(asked <= 5000 * 64, `${asked} comparisons`);
});

test("the events of a run are read once", async () => {
  const run = counting(1);
  for await (const _ of run);
  await run[Symbol.asyncIterator]()
    .next()
    .then(never, (e) => assert.match(e.message, /once/));
});

test.run();
