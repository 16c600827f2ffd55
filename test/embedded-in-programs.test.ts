// The package inside somebody's program: handlers that fail, errors that travel, disposal, runs that refuse.
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  createCommunicator,
  createTrainer,
  IsrDpoError,
  type Judge,
  type LoadOptions,
  loadModel,
  readPairs,
  runIterations,
  train,
  trainIteration,
} from "../src/index.js";
import { writeWorld } from "../src/synthetic/index.js";
import { isError, isNoError, ordered, rejects } from "./helpers/assert.js";
import { root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";
import { unheard } from "./helpers/unheard.js";

const test = suite("embed");
const world = join(root, "models/world");
const theirs = new Error("from the handler");

/** What a call rejects with; whatever else ends the process fails the test run. */
const reasonOf = (work: () => Promise<unknown>): Promise<unknown> =>
  work().then(
    () => assert.unreachable("it resolved"),
    (e) => e,
  );

const handlers: [what: string, handler: () => unknown][] = [
  [
    "throws",
    () => {
      throw theirs;
    },
  ],
  ["gives a promise that rejects", () => Promise.reject(theirs)],
  ["rejects later", () => setTimeout(30).then(() => Promise.reject(theirs))],
];
for (const [what, handler] of handlers) {
  test(`onProgress ${what}: loadModel rejects with that, and loads the next time`, async () => {
    let calls = 0;
    const onProgress = () => {
      calls += 1;
      return handler() as undefined;
    };
    assert.is(await reasonOf(() => loadModel(world, { onProgress })), theirs);
    if (what !== "rejects later") assert.is(calls, 1);
    await using model = await loadModel(world);
    assert.is((await model.generate({ prompt: "what", maxTokens: 2 })).length, 1);
  });

  test(`onMedia ${what}: the call rejects with that, and the model stays usable`, async () => {
    const dir = temporaryFolder();
    const { samples: _, videos } = await writeWorld(dir, { name: "one", seed: 1, clips: 1 });
    const { readdirSync } = await import("node:fs");
    const path = join(videos, readdirSync(videos).find((f) => f.endsWith(".mp4"))!);
    let fails = true;
    const onMedia = () => (fails ? (handler() as undefined) : undefined);
    await using model = await loadModel(world, { onMedia });
    const request = { prompt: "what", media: [path], maxTokens: 2 };
    for (const call of [
      () => model.encode(path),
      () => model.preprocess(path),
      () => model.generate(request).result,
      () => model.encode(path), // told again, since it was not opened
    ])
      assert.is(await reasonOf(call), theirs);
    fails = false;
    assert.is((await model.generate(request)).length, 1);
  });
}

for (const [what, handler] of handlers)
  for (const key of ["onSkip", "onNote"] as const)
    test(`${key} ${what}: the reading fails with that`, async () => {
      const { writeFileSync } = await import("node:fs");
      const path = join(temporaryFolder(), "rows.jsonl");
      const row = { id: "same", prompt: "p", chosen: "c", rejected: "r" };
      writeFileSync(path, ["no row", JSON.stringify(row), JSON.stringify(row)].join("\n"));
      const options = { onBadRow: "skip", onSkip: () => {}, onNote: () => {}, [key]: handler } as const;
      const read = async () => {
        for await (const _ of readPairs(path, options));
      };
      assert.is(await reasonOf(read), theirs, `${key} ${what}`);
    });

test("a falsy reason of a handler stays what it is", async () => {
  const onProgress = () => {
    throw undefined;
  };
  assert.is(await reasonOf(() => loadModel(world, { onProgress })), undefined);
});

test("what onProgress began has ended when the model is there", async () => {
  let ended = 0;
  const onProgress: NonNullable<LoadOptions["onProgress"]> = async () => {
    await setTimeout(5);
    ended += 1;
  };
  let begun = 0;
  await using _ = await loadModel(world, {
    onProgress: (p) => {
      begun += 1;
      return onProgress(p);
    },
  });
  ordered(begun, ">", 0);
  assert.is(ended, begun);
});

test("a judge, samples and items of the caller's that throw: the run rejects with that", async () => {
  const dir = temporaryFolder();
  const { videos } = await writeWorld(dir, { name: "two", seed: 1, clips: 2 });
  const { readdirSync } = await import("node:fs");
  const video = readdirSync(videos).find((f) => f.endsWith(".mp4"))!;
  const samples = [{ id: "a", video, question: "what happens ?" }];
  const judge: Judge = {
    id: "theirs",
    compare() {
      throw theirs;
    },
  };
  const config = {
    videos,
    video: { frames: 4 },
    response: { maxTokens: 8 },
    context: { maxTokens: 8 },
    prompts: join(world, "prompts.json"),
    guards: { minUsable: 0, maxPosition: 1 },
  } as const;
  const common = { model: world, iteration: 1, config } as const;
  const seeds = [1, 2, 3, 4].map((seed) => ({ ...config, seed })); // one whose answers are cut is not judged
  const truncated = { ...seeds[0]!, judge: { truncated: "keep" } } as const;
  assert.is(
    await reasonOf(
      () => trainIteration({ ...common, config: truncated, runDir: join(dir, "j"), samples, judge }).result,
    ),
    theirs,
  );
  const broken = {
    // biome-ignore lint/correctness/useYield: it fails before the first
    *[Symbol.iterator]() {
      throw theirs;
    },
  };
  assert.is(
    await reasonOf(() => trainIteration({ ...common, runDir: join(dir, "s"), samples: broken }).result),
    theirs,
  );
  const options = {
    kind: "sft",
    model: world,
    runDir: join(dir, "t"),
    data: broken as never,
    onBadRow: "skip",
  } as const;
  assert.is(await reasonOf(() => train(options).result), theirs);
});

const wrong = (x: unknown) => x as never;
const calls: [what: string, call: () => Promise<unknown>, message: RegExp][] = [
  ["train without options", () => train(wrong(undefined)), /options: expected an object/],
  ["train of another kind", () => train(wrong({ kind: "ppo" })), /kind/],
  [
    "train with a signal that is none",
    () => train(wrong({ kind: "sft", data: "x", model: "m", runDir: "r", signal: 1 })),
    /signal/,
  ],
  ["trainIteration without options", () => trainIteration(wrong(undefined)), /options/],
  [
    "trainIteration with an unknown option",
    () => trainIteration(wrong({ iteration: 1, rundir: "x" })),
    /did you mean 'runDir'/,
  ],
  ["runIterations backwards", () => runIterations(wrong({ from: 3, to: 2 })), /options\.to/],
  ["runIterations with a signal that is none", () => runIterations(wrong({ to: 2, signal: {} })), /signal/],
];
for (const [what, call, message] of calls)
  test(`a rejection, not a throw at the call: ${what}`, async () => {
    let run: Promise<unknown> | undefined;
    try {
      run = call();
    } catch (e) {
      assert.unreachable(`thrown at the call: ${e}`);
    }
    await rejects(() => run, "INVALID_ARGUMENT", message, what);
  });

test("dispose() is Symbol.asyncDispose, on everything, as often as one likes", async () => {
  const model = await loadModel(world);
  const session = model.session();
  const trainer = await createTrainer(model, {});
  const communicator = await createCommunicator({ transport: "none" });
  for (const it of [session, trainer, communicator, model]) {
    await it.dispose();
    await it.dispose();
    await it[Symbol.asyncDispose]();
  }
  await rejects(() => model.hash(), "DISPOSED", /model/, "the model");
  await rejects(() => session.generate({ prompt: "what" }), "DISPOSED", /./, "the session");
  await rejects(() => trainer.trainStep([]), "DISPOSED", /./, "the trainer");
  await rejects(() => communicator.barrier(), "DISPOSED", /./, "the communicator");
});

type Loaded = Awaited<ReturnType<typeof loadModel>>;
const long = { prompt: "what happens ?", maxTokens: 300, minTokens: 300 };
const said = [{ role: "user" as const, content: "what happens ?" }];

/** Starts runs that nobody listens to and disposes of what they need, at once or while tokens come. */
const disposals: [what: string, start: (model: Loaded) => unknown, wait?: number][] = [
  ["a model, at once", (model) => void model.generate(long)],
  ["a model, while tokens come", (model) => void model.generate(long), 30],
  ["a model that chats", (model) => void model.chat(said, { minTokens: 300, maxTokens: 300 })],
  ["several runs of a model", (model) => void [1, 2, 3].map(() => model.generate(long))],
  [
    "a session",
    async (model) => {
      const session = model.session();
      void session.generate(long);
      await session.dispose();
    },
  ],
];
for (const [what, start, wait = 0] of disposals)
  test(`disposing under runs that nobody listens to tells nobody: ${what}`, async () => {
    const model = await loadModel(world);
    const seen = await unheard(async () => {
      await start(model);
      if (wait > 0) await setTimeout(wait);
      await model.dispose();
      await setTimeout(20);
    });
    assert.equal(seen.map(String), []);
  });

test("a run that somebody listens to says that its model was disposed of", async () => {
  const model = await loadModel(world);
  const heard = [model.generate(long), model.chat(said)].map((run) => reasonOf(() => run));
  const read = reasonOf(async () => {
    for await (const _ of model.generate(long));
  });
  await model.dispose();
  for (const e of await Promise.all([...heard, read])) isError(e, "DISPOSED");
});

test("a run of what was disposed of before is told, as any failure that nobody hears", async () => {
  const model = await loadModel(world);
  const session = model.session();
  await session.dispose();
  const late = await unheard(() => void session.generate(long));
  await model.dispose();
  late.push(...(await unheard(() => void [model.generate(long), model.chat(said)])));
  assert.is(late.length, 3);
  for (const e of late) isError(e, "DISPOSED");
});

const facts = { hint: "do\nthis", path: "/a b/c", detail: { field: "x.y", count: 3, list: [1, 2] } };
const travels: [what: string, error: IsrDpoError][] = [
  ["all facts", new IsrDpoError("DATA_INVALID", "expected this, got that", facts)],
  ["no facts", new IsrDpoError("NUMERIC", "loss: expected a finite number, got NaN")],
  ["no message", new IsrDpoError("IO", "", { path: "p" })],
  ["a message of several lines", new IsrDpoError("BINARY_MISSING", 'a\n  {"hint": "not this"}\n    at here', facts)],
  ["a detail that JSON lacks", new IsrDpoError("BUG", "x", { hint: "h", detail: { n: 3n, i: Infinity } })],
];
for (const [what, error] of travels)
  test(`an error of ${what} through structuredClone and JSON`, () => {
    const { code, message, hint, path } = error;
    const detail = error.toJSON().detail;
    const clone: unknown = structuredClone(error);
    isNoError(clone, code === "IO" ? "BUG" : "IO");
    isError(clone, code);
    const parsed = IsrDpoError.from(JSON.parse(JSON.stringify(error)));
    for (const e of [clone, IsrDpoError.from(structuredClone(error)), parsed]) {
      isError(e);
      const { name, code: c, message: m, hint: h, path: p, detail: d } = e;
      assert.equal([name, c, m, h, p, d], ["IsrDpoError", code, message, hint, path, detail]);
      assert.is("hint" in e, hint !== undefined);
    }
    assert.instance(parsed, IsrDpoError);
  });

for (const e of [
  new Error("IsrDpoError [IO]: x"),
  new TypeError("x"),
  { name: "IsrDpoError", code: "ELSE" },
  null,
  "x",
  structuredClone(new RangeError("y")),
])
  test(`what is no error of ours stays none: ${e instanceof Error ? String(e) : JSON.stringify(e)}`, () =>
    assert.is(IsrDpoError.from(e), undefined));

test("a worker posts what it caught", async () => {
  const child = pathToFileURL(join(root, "test/children/errors.ts"));
  const worker = new Worker(
    `import("tsx/esm/api").then(({ register }) => { register(); return import(${JSON.stringify(child.href)}); })`,
    { eval: true },
  );
  const [{ thrown, json }] = await once(worker, "message");
  isError(thrown, "NOT_FOUND");
  assert.match(thrown.path!, /no\/such\/folder/);
  assert.equal(IsrDpoError.from(JSON.parse(json))!.toJSON(), IsrDpoError.from(thrown)!.toJSON());
  await worker.terminate();
});

test.run();
