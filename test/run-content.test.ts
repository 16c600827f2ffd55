// What a run is made from is known by its content: a file that was moved goes on, one that was changed is refused with its
// name and since when, also by a finished run; a file that changes while it is read is no data; the date of templates stays.
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  isIsrDpoError,
  type IterationEvent,
  type Pair,
  type RunIterationsOptions,
  readPairs,
  runIterations,
  type TrainOptions,
  train,
} from "../src/index.js";
import { Content } from "../src/runfolder/content-digest.js";
import { rejects } from "./helpers/assert.js";
import { caught, rowsFile } from "./helpers/data.js";
import { copyOf, temporaryFolder } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";
import { clips, isrOptions, isrResultOf, samples } from "./helpers/isr-run.js";
import { optionsOf, resultOf, sizes, writeClips, writeData } from "./helpers/train-run.js";
import { idPairs, textRows } from "./helpers/training.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("run content");

/** A project of its own: model, rows and rows to evaluate on. */
function project(): string {
  const dir = join(temporaryFolder(), "project");
  cpSync(folder("text_llama"), join(dir, "model"), { recursive: true });
  cpSync(rowsFile(textRows(6)), join(dir, "rows.jsonl"));
  cpSync(rowsFile(textRows(2)), join(dir, "eval.jsonl"));
  return dir;
}

const options = (dir: string, more: Partial<TrainOptions> = {}): TrainOptions => ({
  ...{ kind: "dpo", model: join(dir, "model"), data: join(dir, "rows.jsonl"), evalData: join(dir, "eval.jsonl") },
  ...{ runDir: join(dir, "run"), itemsPerStep: 2, trainer: { learningRate: 1e-3 }, load: { threads: 1 }, ...more },
});

/** Stops a run behind its first step. */
async function halfway(o: TrainOptions): Promise<void> {
  for await (const e of train(o)) if (e.type === "step") break;
}

const other = (row: object) => `${JSON.stringify(row)}\n`;
const changes: [input: string, change: (dir: string) => void][] = [
  ["data", (dir) => appendFileSync(join(dir, "rows.jsonl"), other({ prompt: "a", chosen: "b", rejected: "c" }))],
  ["data", (dir) => appendFileSync(join(dir, "rows.jsonl"), "\n")], // bytes are compared, not what they mean
  ["evalData", (dir) => writeFileSync(join(dir, "eval.jsonl"), other({ prompt: "a", chosen: "b", rejected: "c" }))],
  [
    "model/generation_config.json",
    (dir) => writeFileSync(join(dir, "model/generation_config.json"), '{"eos_token_id":2}'),
  ],
  ["model/special_tokens_map.json", (dir) => writeFileSync(join(dir, "model/special_tokens_map.json"), "{}")],
];
for (const finished of [true, false])
  for (const [input, change] of changes)
    test(`${input} changed, the run ${finished ? "finished" : "half done"}: refused with its name and since when`, async () => {
      const dir = project();
      if (finished) await train(options(dir));
      else await halfway(options(dir));
      change(dir);
      const before = resultOf(join(dir, "run"));
      const e = await caught(async () => train(options(dir)));
      assert.is(e.code, "RUN_MISMATCH", e.message);
      const { recorded } = JSON.parse(readFileSync(join(dir, "run/run.json"), "utf8")) as { recorded: string };
      assert.ok(e.message.includes(`inputs.${input}: expected `) && e.message.includes(recorded), e.message);
      assert.equal(
        (e.detail!.differences as { key: string }[]).map((d) => d.key),
        [`inputs.${input}`],
      );
      assert.equal(resultOf(join(dir, "run")), before);
    });

for (const name of ["rows.jsonl", "eval.jsonl"])
  test(`${name} gone from a finished run: NOT_FOUND`, async () => {
    const dir = project();
    await train(options(dir));
    rmSync(join(dir, name));
    await rejects(() => train(options(dir)), "NOT_FOUND", new RegExp(name), name);
  });

test("the project moved, its files renamed, relative paths: the run goes on to the same bytes", async () => {
  const straight = project();
  await train(options(straight));
  const dir = project();
  await halfway(options(dir));
  const moved = join(temporaryFolder(), "elsewhere");
  renameSync(dir, moved);
  renameSync(join(moved, "rows.jsonl"), join(moved, "renamed.jsonl"));
  renameSync(join(moved, "model"), join(moved, "the model"));
  utimesSync(join(moved, "eval.jsonl"), new Date(0), new Date(0));
  const at = process.cwd();
  process.chdir(moved);
  try {
    const more = { model: "the model", data: "renamed.jsonl", evalData: "./eval.jsonl", runDir: "run" };
    const { resumed } = await train(options(moved, more));
    assert.equal({ resumed }, { resumed: true });
  } finally {
    process.chdir(at);
  }
  assert.equal(resultOf(join(moved, "run")), resultOf(join(straight, "run")));
});

test("media move with their rows: the run goes on to the same bytes", async () => {
  const size = sizes.short;
  const [first, second] = [join(temporaryFolder(), "a"), join(temporaryFolder(), "b")];
  await writeData(first, size);
  const [straight, run] = [join(temporaryFolder(), "run"), join(temporaryFolder(), "run")];
  await train(optionsOf(first, straight, size));
  await halfway(optionsOf(first, run, size));
  renameSync(first, second);
  await train(optionsOf(second, run, size));
  const kept = (dir: string) => Object.entries(resultOf(dir)).filter(([name]) => !name.startsWith("features/"));
  assert.equal(kept(run), kept(straight));
});

const given: [what: string, items: () => (Pair & { id: string })[]][] = [
  ["fewer", () => idPairs(7)],
  ["in another order", () => idPairs(8).reverse()],
  ["with another token", () => idPairs(8).map((p, i) => (i === 5 ? { ...p, rejected: [1, 2, 3] } : p))],
];
for (const finished of [true, false]) {
  const state = finished ? "finished" : "half done";
  const begun = memoized(async () => {
    const o: TrainOptions = {
      kind: "dpo",
      model: folder("text_llama"),
      data: idPairs(8),
      runDir: join(temporaryFolder(), "run"),
    };
    if (finished) await train(o);
    else await halfway({ ...o, itemsPerStep: 8 });
    return o;
  });
  for (const [what, items] of given)
    test(`items of a program, ${state}: others are refused: ${what}`, async () => {
      const o = await begun();
      const work = () => train({ ...o, data: items() });
      await rejects(work, "RUN_MISMATCH", /inputs\.data: expected the content of 20/, what);
    });
  test(`items of a program, ${state}: the same go on`, async () => {
    await train({ ...(await begun()), data: idPairs(8) });
  });
}

const whileRead: [what: string, change: (path: string) => void][] = [
  ["a line more", (path) => appendFileSync(path, "\n")],
  [
    "the same words in another file: nobody can know",
    (path) => {
      writeFileSync(`${path}.new`, readFileSync(path));
      renameSync(`${path}.new`, path);
    },
  ],
];
for (const [what, change] of whileRead)
  test(`rows that change while they are read are no data: ${what}`, async () => {
    const path = rowsFile(textRows(20_000)); // more than is read at a time
    const reading = (async () => {
      let n = 0;
      for await (const _ of readPairs(path)) if (n++ === 1) change(path);
    })();
    await rejects(() => reading, "DATA_INVALID", /changed while it was read/, "reading");
  });

test("rows whose times alone change are the same; changed words are not, whatever the times say", async () => {
  const path = rowsFile(textRows(20_000));
  const content = await Content.of(path);
  utimesSync(path, new Date(0), new Date(0));
  await content.unchanged(); // other times, the same content
  const { atime, mtime } = { atime: new Date(), mtime: new Date(0) };
  writeFileSync(path, readFileSync(path, "utf8").replace("What", "Whom"));
  utimesSync(path, atime, mtime);
  await rejects(() => content.unchanged(), "DATA_INVALID", /changed while it was read/, "times set back");
});

test("training data that change behind the first look are refused, and nothing is left", async () => {
  const dir = project();
  const evalData = join(dir, "eval.jsonl");
  const run = train(options(dir, { onBadRow: "skip", data: rowsFile([...textRows(4), "no row"]) }));
  let told = 0;
  const reading = (async () => {
    for await (const e of run)
      if (e.type === "warning" && e.code === "BAD_ROW" && told++ === 0)
        writeFileSync(evalData, other({ prompt: "another", chosen: "b", rejected: "c" }));
  })();
  const e = await reading.catch((x: unknown) => x);
  assert.ok(isIsrDpoError(e, "DATA_INVALID") && /changed while it was read/.test(e.message), String(e));
  assert.throws(() => readFileSync(join(dir, "run/run.json")), /ENOENT/);
});

// ---- iterations

const data = temporaryFolder();
test.before(() => writeClips(data, clips));
const one = (runDir: string, more: Partial<RunIterationsOptions> = {}): RunIterationsOptions => ({
  ...isrOptions(data, runDir),
  to: 2,
  ...more,
});

test("iterations: samples and the files of the model are known by their content", async () => {
  const runDir = join(temporaryFolder(), "run");
  const model = copyOf("test/golden/llava_hound/policy");
  const stop = new AbortController();
  const events = async (o: RunIterationsOptions, is: (e: IterationEvent) => boolean) => {
    for await (const e of runIterations({ ...o, finish: stop.signal })) if (is(e)) stop.abort(new Error("enough"));
  };
  await events(one(runDir, { model }), (e) => e.type === "pair").catch(() => {});
  const asked = samples.map((s, i) => (i === 3 ? { ...s, question: "What else is seen?" } : s));
  await rejects(
    () => runIterations(one(runDir, { samples: asked })),
    "RUN_MISMATCH",
    /inputs\.samples: expected the content of 20/,
    "",
  );
  const moved = copyOf(model);
  writeFileSync(join(model, "special_tokens_map.json"), "{}");
  await rejects(
    () => runIterations(one(runDir, { model })),
    "RUN_MISMATCH",
    /on 20.*content of the model's special_tokens_map\.json/,
    "",
  );
  await runIterations(one(runDir, { model: moved, samples: [...samples] }));
  const straight = join(temporaryFolder(), "run");
  await runIterations(one(straight));
  assert.equal(await isrResultOf(runDir), await isrResultOf(straight));
});

test("iterations: other questions under the name of an evaluation that was made are refused", async () => {
  const runDir = join(temporaryFolder(), "run");
  const asked = join(temporaryFolder(), "asked.jsonl");
  const write = (from: number) =>
    writeFileSync(
      asked,
      samples
        .slice(from, from + 2)
        .map(other)
        .join(""),
    );
  const o = (name = "few") =>
    one(runDir, { config: { ...isrOptions(data, runDir).config, evaluate: { samples: asked, name } } });
  write(0);
  await runIterations(o());
  await runIterations(o());
  write(2);
  await rejects(
    () => runIterations({ ...o(), to: 3 }),
    "RUN_MISMATCH",
    /evaluate\.samples: expected the questions that model \d was asked on 20/,
    "changed",
  );
  assert.is((await runIterations({ ...o("others"), to: 3 })).length, 2);
});

// ---- the date of chat templates

test("the date that a template prints is that of the first start", async () => {
  const dir = project();
  const config = JSON.parse(readFileSync(join(dir, "model/tokenizer_config.json"), "utf8"));
  const template =
    "{{ strftime_now('%Y %d') }} {% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";
  writeFileSync(join(dir, "model/tokenizer_config.json"), JSON.stringify({ ...config, chat_template: template }));
  rmSync(join(dir, "model/chat_template.jinja"), { force: true });
  const pinned = { load: { threads: 1, templateDate: "2024-02-29" } };
  const runs = ["straight", "begun"].map((name) => join(dir, name)) as [string, string];
  await train(options(dir, { ...pinned, runDir: runs[0] }));
  await halfway(options(dir, { ...pinned, runDir: runs[1] }));
  assert.is(JSON.parse(readFileSync(join(runs[1], "run.json"), "utf8")).templateDate, "2024-02-29T00:00:00");
  const otherDay = { load: { threads: 1, templateDate: "2024-03-01" } };
  await rejects(
    () => train(options(dir, { ...otherDay, runDir: runs[1] })),
    "RUN_MISMATCH",
    /templateDate: expected "2024-02-29/,
    "",
  );
  await train(options(dir, { runDir: runs[1] }));
  assert.equal(resultOf(runs[1]), resultOf(runs[0]));
  mkdirSync(join(dir, "later"));
  await train(options(dir, { ...otherDay, runDir: join(dir, "later") }));
  assert.is.not(resultOf(join(dir, "later"))["train/metrics.jsonl"], resultOf(runs[0])["train/metrics.jsonl"]);
});

test("a finished run whose model was taken away says so", async () => {
  const o = options(project());
  const { model } = await train(o);
  rmSync(model, { recursive: true });
  await rejects(() => train(o), "NOT_FOUND", /model: expected the model that this finished run made/, "gone");
});

test.run();
