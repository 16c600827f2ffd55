// Saving after training: every name that the file has for a trained parameter holds the trained values, and the model that is
// loaded again computes what the trained one did.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { createTrainer, loadModel, type PlanOptions, plan, type VideoLM } from "../src/index.js";
import { excludes, includes, near, ordered, sameBits, some } from "./helpers/assert.js";
import { type Edit, edited, edits, embeddings, head, tensors } from "./helpers/edit-checkpoint.js";
import { temporaryFolder } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";
import { folderOf, videoDpo, videoPairs } from "./helpers/golden-video.js";
import { floatsOf, readSafetensors, type Stored } from "./helpers/safetensors.js";

const test = suite("saving");
const ids = Int32Array.from([1, 5, 9, 22, 31, 44, 2]);
const item = { ids, lossMask: Uint8Array.from([0, 0, 0, 1, 1, 1, 1]) };

const stored = (dir: string): Map<string, Stored> => {
  const files = readdirSync(dir).filter((f) => f.endsWith(".safetensors"));
  return new Map(files.flatMap((f) => [...readSafetensors(join(dir, f))]));
};
const logitsOf = async (model: VideoLM) =>
  (await model.forward({ ids }, { outputs: ["logits"] })).logits!.data.slice() as Float32Array;

/** Trains, saves; what was saved, and logits before and behind loading again. */
async function trained(dir: string) {
  const out = join(temporaryFolder(), "saved");
  await using model = await loadModel(dir);
  {
    await using trainer = await createTrainer(model, { loss: "sft", learningRate: 1e-2 });
    for (let i = 0; i < 2; i++) await trainer.trainStep([item]);
  }
  const before = await logitsOf(model);
  const { hash } = await model.save(out);
  await using again = await loadModel(out);
  assert.is((await again.save(join(temporaryFolder(), "again"))).hash, hash, "the hash of what was saved");
  sameBits(await logitsOf(again), before, "logits of the model that is loaded again");
  const names = [...stored(out).keys()];
  for (const name of names) near((await again.parameter(name)).data, (await model.parameter(name)).data, 0, name);
  return { saved: stored(out), names };
}

const twice = (from: RegExp, to: string): Edit =>
  tensors((all) => {
    for (const [name, t] of [...all]) if (from.test(name)) all.set(name.replace(from, to), t);
    return all;
  });

const rows: [what: string, source: string, same: (names: string[]) => [string, string][]][] = [
  ["a copy of the tied head", edited(folder("text_llama_gqa_tied"), edits["head copy"]!), () => [[head, embeddings]]],
  [
    "every decoder tensor under two names",
    edited(folder("text_llama"), twice(/^model\./, "")),
    (names) => names.filter((n) => n.startsWith("model.")).map((n) => [n.slice(6), n]),
  ],
  [
    "a video model's decoder under two releases' names",
    edited(
      folderOf("llava_next_video"),
      twice(/^(model\.language_model\.|language_model\.model\.)/, "language_model."),
    ),
    (names) =>
      names
        .filter((n) => /^language_model\.(layers|norm|embed)/.test(n))
        .map((n): [string, string] => [
          n,
          ["language_model.model.", "model.language_model."]
            .map((p) => n.replace("language_model.", p))
            .find((m) => names.includes(m))!,
        ]),
  ],
];
for (const [what, source, same] of rows)
  test(what, async () => {
    const before = stored(source);
    const { saved, names } = await trained(source);
    assert.equal(names, [...before.keys()], "names and their order");
    const pairs = same(names);
    ordered(pairs.length, ">", 0);
    for (const [a, b] of pairs) {
      sameBits(floatsOf(saved, a), floatsOf(saved, b), `${a} is ${b}`);
      assert.ok(
        floatsOf(saved, b).some((x, i) => x !== floatsOf(before, b)[i]),
        `${b} was trained`,
      );
    }
  });

test("the head alone, where config.json ties the embeddings to it", async () => {
  const { saved, names } = await trained(edited(folder("text_llama_gqa_tied"), edits["head alone"]!));
  excludes(names, embeddings);
  includes(names, head);
  includes([...saved.keys()], head);
});

test("a head of its own is trained apart from the embeddings", async () => {
  const { saved } = await trained(edited(folder("text_llama_gqa_tied"), edits["own head"]!));
  const [a, b] = [floatsOf(saved, head), floatsOf(saved, embeddings)];
  some(a, (x, i) => x !== b[i]);
});

test("a plan counts a head of its own", async () => {
  const bytes = async (edit: Edit) => {
    const options = {
      kind: "dpo",
      runDir: join(temporaryFolder(), "run"),
      items: 8,
      load: { device: "cuda", dtype: "f32" },
    };
    return (await plan({ ...options, model: edited(folder("text_llama_gqa_tied"), edit) } as unknown as PlanOptions))
      .bytes.weights;
  };
  const rows = floatsOf(stored(folder("text_llama_gqa_tied")), embeddings).length;
  assert.is((await bytes(edits["own head"]!)) - (await bytes(edits["head copy"]!)), 4 * rows);
});

for (const [family, from, to] of [
  ["video_llava", /^video_tower\./, "model.video_tower.vision_model."],
  ["video_llava_original", /^model\.video_tower\.video_tower\./, "video_tower.video_tower."],
] as const)
  test(`${family}: a trained tower that the file holds twice, and a projector`, async () => {
    const out = join(temporaryFolder(), "saved");
    const dir = edited(folderOf(family), twice(from, to), twice(/^model\.mm_projector\./, "mm_projector."));
    await using model = await loadModel(dir);
    await using trainer = await createTrainer(model, {
      learningRate: 1e-2,
      train: { vision: true, projector: true, decoder: false },
    });
    await trainer.trainStep(videoPairs(videoDpo(family), true));
    await model.save(out);
    const [before, after] = [stored(dir), stored(out)];
    const names = [...before.keys()].filter((name) => from.test(name));
    ordered(names.length, ">", 20);
    const bias = names.find((n) => /layers\.0\.mlp\.fc1\.bias$/.test(n))!;
    some(floatsOf(after, bias), (x, i) => x !== floatsOf(before, bias)[i], "it was trained");
    for (const name of names) sameBits(floatsOf(after, name.replace(from, to)), floatsOf(after, name), name);
    for (const name of before.keys())
      if (name.startsWith("mm_projector.")) sameBits(floatsOf(after, name), floatsOf(after, `model.${name}`), name);
  });

test("a tied head that the source left out stays left out", async () => {
  const { names } = await trained(edited(folder("text_llama_gqa_tied")));
  excludes(names, head);
  includes(names, embeddings);
});

test("a shard's tensor that the index does not list is trained and saved", async () => {
  const { saved, names } = await trained(edited(folder("text_llama3_rope"), edits.unlisted!));
  includes(names, "model.norm.weight");
  const before = stored(folder("text_llama3_rope"));
  some(floatsOf(saved, "model.norm.weight"), (x, i) => x !== floatsOf(before, "model.norm.weight")[i]);
});

test("a PyTorch file, which holds a tied head by both names", async () => {
  const { saved, names } = await trained(fileURLToPath(new URL("./golden/configs/tied-bin", import.meta.url)));
  includes(names, head);
  includes(names, embeddings);
  sameBits(floatsOf(saved, head), floatsOf(saved, embeddings), head);
});

test.run();
