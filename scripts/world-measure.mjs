// npm run world:measure -- [MODEL] [--seed N] [--clips N]: answers and judgement of a model of the world against the truth, on
// clips that it was not trained on. MODEL: default models/world.
import { parseArgs } from "node:util";
import { loadModel } from "../src/model/model.ts";
import { measureAnswers, measureJudge } from "../src/synthetic/measure-model.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { seed: { type: "string" }, clips: { type: "string" }, threads: { type: "string" } },
});
const seed = Number(values.seed ?? 0);
const clips = Number(values.clips ?? 200);
const percent = (x) => (x === null ? "-" : (100 * x).toFixed(1));

const model = await loadModel(positionals[0] ?? "models/world", {
  ...(values.threads === undefined ? {} : { threads: Number(values.threads) }),
});
const answers = await measureAnswers(model, { name: "held-out", seed, clips, questions: "both" }, { seed });
console.log(`${clips} held-out clips, two questions each, seed ${seed}\n`);
console.log("| answers | precision | recall | invented | exact | words | truth value |\n|---|---|---|---|---|---|---|");
for (const [kind, s] of Object.entries(answers)) {
  const shares = [s.precision, s.recall, s.invented, s.exact].map(percent).join(" | ");
  console.log(`| ${kind} | ${shares} | ${s.words.toFixed(2)} | ${s.value.toFixed(2)} |`);
}
const judged = await measureJudge(model, { name: "judged", seed, clips: 2 * clips }, { seed });
console.log(`\n${[...judged.values()][0].pairs} pairs of sampled answers of unequal truth\n`);
console.log(
  "| context | its precision | recall | agrees with the truth | one order | orders agree | prefers longer (truth) |",
);
console.log("|---|---|---|---|---|---|---|");
for (const [kind, a] of judged) {
  const shares = [a.contextPrecision, a.contextRecall, a.both, a.one, a.swap].map(percent).join(" | ");
  console.log(`| ${kind} | ${shares} | ${percent(a.longer)} (${percent(a.truthLonger)}) |`);
}
await model[Symbol.asyncDispose]();
