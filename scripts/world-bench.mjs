// npm run world:bench -- FOLDER [MODEL ...] [--seeds N] [--clips N] [--held-out N] [--iterations N] [--first-seed N]: the demo
// over seeds and models of other training seeds, with judges by rule and a wrong caption as bounds and controls. Prints means with standard errors, and
// differences of designs pair by pair of seeds. Goes on where it was stopped. MODEL: default models/world.
import { join } from "node:path";
import { parseArgs } from "node:util";
import { lookOf } from "../src/iterate/frame-policy.ts";
import { runIterations, trainIteration } from "../src/iterate/run-iterations.ts";
import { loadModel } from "../src/model/model.ts";
import { demo, demoConfig, demoDesigns } from "../src/synthetic/demo.ts";
import { captionJudge, randomJudge, shorterJudge, truthJudge } from "./world/rule-judges.ts";
import { measureAnswers, measureJudge } from "../src/synthetic/measure-model.ts";
import { worldPrompts } from "../src/synthetic/world-prompts.ts";
import { worldSamples, wrongCaptions } from "../src/synthetic/world-samples.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    seeds: { type: "string", default: "5" },
    "first-seed": { type: "string", default: "1" },
    clips: { type: "string", default: "256" },
    "held-out": { type: "string", default: "200" },
    iterations: { type: "string", default: "3" },
  },
});
const [out, ...given] = positionals;
if (!out) throw new Error("give a folder for the runs");
const models = given.length > 0 ? given : ["models/world"];
const [clips, heldOut, iterations] = [values.clips, values["held-out"], values.iterations].map(Number);
const seeds = Array.from({ length: Number(values.seeds) }, (_, i) => Number(values["first-seed"]) + i);

const controls = {
  random: (seed) => randomJudge(seed),
  shorter: () => shorterJudge,
  truth: (_, samples) => truthJudge(samples),
};

async function withModel(dir, work) {
  const model = await loadModel(dir);
  try {
    return await work(model);
  } finally {
    await model[Symbol.asyncDispose]();
  }
}

/** Two at a time: each uses one thread. */
async function each(tasks) {
  const waiting = [...tasks];
  const work = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) await next();
  };
  await Promise.all([work(), work()]);
}

/** What the runs of controls have in common: no contexts are written. */
function control(name, { dir, seed }) {
  const samples = worldSamples({ name: "train", seed, clips });
  const options = {
    ...{ runDir: join(dir, `judge-${name}`), context: "none", prompts: worldPrompts, load: { threads: 1 } },
    samples: samples.map(({ id, video, question }) => ({ id, video, question })),
    // a rule may tie most pairs, or choose by position: that is what it is here for
    config: { ...demoConfig("none", { seed, dir }), guards: { maxPosition: 1, minUsable: 0 } },
  };
  return { samples, options };
}

const measured = (dir, seed) =>
  withModel(dir, (m) => measureAnswers(m, { name: "held-out", seed, clips: heldOut, questions: "both" }, { seed }));

/** Figures of the last model that a judge by rule makes. */
async function byRule(name, { dir, model, seed }) {
  const { samples, options } = control(name, { dir, seed });
  const judge = controls[name](seed, samples);
  const results = await runIterations({ ...options, model, from: 1, to: 1 + iterations, judge });
  return measured(results.at(-1).model, seed);
}

/** The same of the model's own judgement, with another clip's caption in place of its contexts. */
async function misled({ dir, model, seed }) {
  const { samples, options } = control("wrong-caption", { dir, seed });
  const captions = new Map(wrongCaptions(samples).map((text, i) => [samples[i].id, text]));
  const videos = new Map(samples.map(({ id, video }) => [id, join(dir, "videos", video)]));
  const { stretches, frames } = options.config.video;
  const rule = { looks: "varied", stretches, seed: BigInt(seed), sample: { frames } };
  let current = model;
  for (let t = 1; t <= iterations; t++) {
    current = await withModel(current, async (judging) => {
      const judge = captionJudge("world/wrong-caption", judging, {
        caption: (id) => captions.get(id),
        media: (id) => ({ kind: "video", path: videos.get(id), sample: lookOf(rule, id, "judge", t) }),
      });
      return (await trainIteration({ ...options, model: current, iteration: t, judge })).model;
    });
  }
  return measured(current, seed);
}

/** Figures of one seed by row: start, designs, controls. */
async function one(model, seed, k) {
  const dir = join(out, `model-${k}-seed-${seed}`);
  const { accuracy } = await demo({ dir, model, seed, clips, heldOut, iterations });
  const rows = { start: accuracy.none[0] };
  for (const design of demoDesigns) rows[design] = accuracy[design].at(-1);
  const given = { dir, model, seed };
  const found = {};
  await each([
    async () => (found["wrong caption"] = await misled(given)),
    ...Object.keys(controls).map((name) => async () => (found[`${name} judge`] = await byRule(name, given))),
  ]);
  for (const name of ["wrong caption", ...Object.keys(controls).map((c) => `${c} judge`)]) rows[name] = found[name];
  const judge = await withModel(model, (m) => measureJudge(m, { name: "judged", seed, clips: heldOut }, { seed }));
  return { rows, judge };
}

const mean = (x) => x.reduce((a, b) => a + b, 0) / x.length;
/** Mean and its standard error over seeds. */
function spread(x) {
  const m = mean(x);
  const error = Math.sqrt(x.reduce((a, b) => a + (b - m) ** 2, 0) / Math.max(1, x.length - 1) / x.length);
  return [m, error];
}
const shown = (x, digits = 1) => {
  const [m, error] = spread(x.map((v) => 100 * v));
  return `${m.toFixed(digits)} ± ${error.toFixed(digits)}`;
};

for (const [k, model] of models.entries()) {
  const found = [];
  for (const seed of seeds) {
    found.push(await one(model, seed, k));
    const { rows } = found.at(-1);
    console.error(
      `${model}, seed ${seed}: ${Object.entries(rows)
        .map(([n, r]) => `${n} ${(100 * r.sampled.exact).toFixed(1)}`)
        .join(", ")}`,
    );
  }
  const of = (row, pick) => found.map((f) => pick(f.rows[row]));
  console.log(
    `\n${model}: ${seeds.length} seeds, ${clips} clips, ${iterations} iterations, ${heldOut} held-out clips\n`,
  );
  console.log(
    "| after the last iteration | accuracy | precision | recall | invented | accuracy, greedy | words |\n|---|---|---|---|---|---|---|",
  );
  for (const row of Object.keys(found[0].rows)) {
    const shares = ["exact", "precision", "recall", "invented"].map((key) => shown(of(row, (r) => r.sampled[key])));
    const words = mean(of(row, (r) => r.sampled.words)).toFixed(2);
    console.log(`| ${row} | ${shares.join(" | ")} | ${shown(of(row, (r) => r.greedy.exact))} | ${words} |`);
  }
  console.log("\n| difference in accuracy, seed by seed | |\n|---|---|");
  for (const other of ["none", "fixed", "renew", "wrong caption", "random judge", "start"]) {
    const differences = found.map((f) => f.rows.retrospective.sampled.exact - f.rows[other].sampled.exact);
    console.log(`| retrospective - ${other} | ${shown(differences)} |`);
  }
  console.log("\n| the start's judgement, context | agrees with the truth |\n|---|---|");
  for (const kind of found[0].judge.keys())
    console.log(`| ${kind} | ${shown(found.map((f) => f.judge.get(kind).both))} |`);
}
