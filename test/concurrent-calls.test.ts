// Calls of one model at the same time: they share the running batch, each gets what it would get alone, nobody waits for
// another's end, and weights change only between them.
import { join } from "node:path";
import sharp from "sharp";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  type Completion,
  createTrainer,
  type GenerateRequest,
  loadModel,
  type Session,
  type VideoLM,
} from "../src/index.js";
import { isError, reasonOf, sameBits } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";
import { cases, folder } from "./helpers/golden.js";
import { folderOf, videoCases } from "./helpers/golden-video.js";

const test = suite("sharing");
const { cases: all, suppress } = cases("text_llama");
const prompts = all.map((c) => ({ ids: c.prompt }));
const tick = (ms = 0) => new Promise((resolve) => setTimeout(resolve, ms));
const pair = [{ prompt: prompts[1]!, chosen: [3, 9], rejected: [4] }];

/** Goes on until it is aborted, as far as a test is concerned. */
const endless = (n = 1): GenerateRequest => ({
  prompt: prompts[1]!,
  maxTokens: 480,
  suppress,
  temperature: 1,
  n,
});

const requests: GenerateRequest[] = Array.from({ length: 12 }, (_, i) => ({
  prompt: prompts[i % prompts.length]!,
  maxTokens: 1 + 7 * i,
  temperature: i % 3 === 0 ? 0 : 1.2,
  n: 1 + (i % 4),
  seed: i,
  ...(i % 2 ? { suppress, minTokens: i % 3 } : {}),
}));

function sameCompletions(found: readonly Completion[], expected: readonly Completion[], what: string): void {
  assert.is(found.length, expected.length, what);
  found.forEach((c, i) => {
    const e = expected[i]!;
    assert.equal(
      [c.copy, c.finishReason, c.text, [...c.ids]],
      [e.copy, e.finishReason, e.text, [...e.ids]],
      `${what}: ${i}`,
    );
    sameBits(c.logProbs, e.logProbs, `${what}: log-probs of ${i}`);
  });
}

type Ask = (model: VideoLM, session: Session, r: GenerateRequest, i: number) => PromiseLike<Completion[]>;
const ways: [what: string, ask: Ask][] = [
  ["all of the model", (model, _, r) => model.generate(r)],
  ["of the model and of a session", (model, session, r, i) => (i % 2 ? session : model).generate(r)],
  ["with budgets of their own", (model, _, r, i) => model.generate(r, { maxBytes: 2 ** (24 + (i % 3)) })],
  ["each a moment later", (model, _, r, i) => tick(i).then(() => model.generate(r))],
];
for (const threads of [1, 3])
  for (const [what, ask] of ways)
    test(`calls at once give the bits of calls one after the other, ${threads} threads: ${what}`, async () => {
      await using model = await loadModel(folder("text_llama"), { threads });
      const alone: Completion[][] = [];
      for (const r of requests) alone.push(await model.generate(r));
      await using session = model.session();
      const together = await Promise.all(requests.map((r, i) => ask(model, session, r, i)));
      together.forEach((found, i) => {
        sameCompletions(found, alone[i]!, `${what}: call ${i}`);
      });
      assert.equal(model.load(), { queued: 0, running: 0, sequences: 0, waiting: 0 });
    });

for (const family of ["video_llava", "llava_next_video"] as const)
  test(`video calls at once give the bits of calls one after the other: ${family}`, async () => {
    await using model = await loadModel(folderOf(family));
    const { cases } = videoCases(family);
    const ask = (c: (typeof cases)[number]) =>
      model.generate({ prompt: { ids: c.ids, media: c.media }, maxTokens: 12, minTokens: 12 });
    const together = await Promise.all(cases.map(ask));
    await using fresh = await loadModel(folderOf(family));
    for (const [i, c] of cases.entries())
      sameCompletions(
        together[i]!,
        await fresh.generate({ prompt: { ids: c.ids, media: c.media }, maxTokens: 12, minTokens: 12 }),
        `${family}: ${i}`,
      );
  });

test("a short call does not wait for a long one's end, nor does what only reads the weights", async () => {
  await using model = await loadModel(folder("text_llama"));
  const expected = await model.forward({ ids: all[0]!.ids });
  const controller = new AbortController();
  const long = model.generate([endless(100), endless()], { signal: controller.signal });
  const ended = reasonOf(long);
  await tick(5);
  const [short] = await model.generate({ prompt: prompts[0]!, maxTokens: 1 });
  assert.is(short!.ids.length, 1);
  const { running, sequences, waiting, queued } = model.load();
  assert.equal([running, queued], [1, 0]);
  assert.ok(sequences > 0 && waiting > 0 && sequences + waiting <= 101, `${sequences} and ${waiting}`);
  const [hash, logits, [logps]] = await Promise.all([
    model.hash(),
    model.forward({ ids: all[0]!.ids }),
    model.logProbs([{ ids: all[0]!.ids, lossMask: all[0]!.lossMask }]),
  ]);
  assert.is(hash.length, 64);
  sameBits(logits.logits!.data, expected.logits!.data, "a forward between two tokens");
  assert.is(logps!.length, all[0]!.logps.length);
  assert.is(model.load().running, 1, "the long one goes on");
  controller.abort(new Error("enough"));
  assert.is(((await ended) as Error).message, "enough");
});

test("weights change between calls: those before a step have the old ones, those behind it the new", async () => {
  const made = async () => {
    const model = await loadModel(folder("text_llama"), { threads: 2 });
    return { model, trainer: await createTrainer(model, { learningRate: 1e-2 }) };
  };
  const ask = { prompt: prompts[2]!, maxTokens: 40, suppress };
  const straight = await made();
  const before = await straight.model.generate(ask);
  await straight.trainer.trainStep(pair);
  const after = await straight.model.generate(ask);
  const hash = await straight.model.hash();
  await straight.model.dispose();

  const { model, trainer } = await made();
  const calls = [model.generate(ask), model.generate({ ...ask, maxTokens: 39 })] as const;
  const step = trainer.trainStep(pair);
  const behind = [model.generate(ask), model.hash(), model.generate(ask)] as const;
  const [first, , , next, changed, last] = await Promise.all([...calls, step, ...behind]);
  sameCompletions(first, before, "before the step");
  sameCompletions(next, after, "behind the step");
  assert.is(changed, hash);
  sameCompletions(last, after, "behind the step");
  await model.dispose();
});

test("what changes weights waits for the calls before it, and is waited for", async () => {
  await using model = await loadModel(folder("text_llama"), { threads: 1 });
  await using trainer = await createTrainer(model);
  const controller = new AbortController();
  const long = reasonOf(model.generate(endless(300), { signal: controller.signal }));
  let ended = false;
  const step = trainer.trainStep(pair).finally(() => {
    ended = true;
  });
  const behind = model.hash();
  const both = Promise.allSettled([step, behind]);
  const busy = () => model.load().running === 1 && model.load().queued === 2;
  while (!ended && !busy()) await tick(1);
  assert.equal({ ended }, { ended: false }, "the step has ended before the call that stands before it");
  controller.abort(new Error("enough"));
  assert.is(((await long) as Error).message, "enough");
  assert.equal(
    (await both).map(({ status }) => status),
    ["fulfilled", "fulfilled"],
  );
});

test("a call that is aborted, or refused, or whose handler throws, leaves the others as they are", async () => {
  await using model = await loadModel(folder("text_llama"));
  const alone = await model.generate(requests[11]!);
  const controller = new AbortController();
  const leaving = reasonOf(model.generate(endless(9), { signal: controller.signal }));
  const staying = model.generate(requests[11]!);
  const refused = reasonOf(model.generate({ prompt: prompts[0]!, maxTokens: 600 }));
  const full = reasonOf(model.generate(endless(), { maxBytes: 1 }));
  const breaking = (async () => {
    for await (const _ of model.generate(endless(3))) break;
  })();
  isError(await refused, "CONTEXT_OVERFLOW");
  isError(await full, "OUT_OF_MEMORY");
  controller.abort(new Error("gone"));
  assert.is(((await leaving) as Error).message, "gone");
  sameCompletions(await staying, alone, "the one that stays");
  await breaking.catch(() => undefined);
  assert.is(model.load().running, 0);
});

test("a session that is disposed ends its calls alone; the model's dispose ends all", async () => {
  const model = await loadModel(folder("text_llama"));
  const session = model.session();
  const ofSession = [reasonOf(session.generate(endless(3))), reasonOf(session.generate(endless()))];
  const ofModel = reasonOf(model.generate(endless()));
  await tick(10);
  await session.dispose();
  for (const failed of await Promise.all(ofSession)) isError(failed, "DISPOSED");
  assert.is(model.load().running, 1);
  await model.dispose();
  isError(await ofModel, "DISPOSED");
});

test("a call whose media take long to open holds up nobody but a step behind it", async () => {
  const family = "video_llava";
  const path = join(temporaryFolder(), "still.png");
  await sharp({ create: { width: 40, height: 30, channels: 3, background: "#336699" } })
    .png()
    .toFile(path);
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const told: string[] = [];
  await using model = await loadModel(folderOf(family), {
    onMedia: async (report) => {
      told.push(report.path);
      await opened;
    },
  });
  await using trainer = await createTrainer(model, { learningRate: 1e-3, loss: "sft" });
  const order: string[] = [];
  const note = <T>(what: string, work: PromiseLike<T>): Promise<T> =>
    Promise.resolve(work).finally(() => order.push(what));
  const ids = { ids: [1, 5, 9, 11] };
  const slow = note("slow", model.encode({ kind: "image", path }));
  const hash = await model.hash();
  await note("text", model.generate({ prompt: ids, maxTokens: 3 }));
  const step = note("step", trainer.trainStep([{ ids: [1, 5, 9, 7], lossMask: Uint8Array.of(0, 0, 1, 1) }]));
  const behind = note("behind", model.hash());
  while (told.length === 0) await tick(5);
  await tick(20);
  assert.equal(order, ["text"]);
  open();
  await Promise.all([slow, step]);
  assert.is.not(await behind, hash);
  assert.equal(new Set(order), new Set(["text", "slow", "step", "behind"]));
});

test.run();
