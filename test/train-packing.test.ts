// Packing: shared prefixes, micro-batches, checkpointing and the order of items change no loss and no gradient beyond
// float32 rounding, on every golden family; and the tokens computed are those that the sharing rule leaves.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  createTrainer,
  loadModel,
  type Pair,
  type SequencePair,
  type Tensor,
  type TrainerOptions,
  type TrainItem,
  type VideoLM,
} from "../src/index.js";
import type { Sequence } from "../src/base/types.js";
import { close, maxAbs, near, ordered } from "./helpers/assert.js";
import { dpo, families, folder, pairs } from "./helpers/golden.js";
import { adapters, lora } from "./helpers/golden-lora.js";
import { folderOf, isOriginal, videoDpo, videoFamilies, videoPairs } from "./helpers/golden-video.js";
import { memoized } from "./helpers/memoized.js";

interface Golden {
  family: string;
  dir: string;
  items: SequencePair[];
  loss: number;
  gradients: Map<string, Float32Array>;
  trained: Pick<TrainerOptions, "train" | "lora">;
  adapter?: string;
}

function textGolden(family: (typeof families)[number]): Golden {
  const d = dpo(family);
  const items = pairs(d, true);
  return {
    family,
    dir: folder(family),
    items,
    loss: d.facts.loss_beta_0_1,
    gradients: d.gradients,
    trained: { train: { decoder: true } },
  };
}

function videoGolden(family: (typeof videoFamilies)[number]): Golden {
  const d = videoDpo(family);
  const train = { vision: !isOriginal(family), projector: family !== "llava_hound", decoder: true };
  const items = videoPairs(d, true);
  const { gradients, facts } = d;
  return { family, dir: folderOf(family), items, loss: facts.loss_beta_0_1, gradients, trained: { train } };
}

function loraGolden(name: (typeof adapters)[number]): Golden {
  const { base, dir: adapter, facts, config, pairs: all, reference, gradients } = lora(name);
  const items = all.map((pair, i) => ({ ...pair, reference: reference[i]! }));
  const trained = { lora: { rank: config.r, alpha: config.lora_alpha } };
  return { family: name, dir: base, adapter, items, loss: facts.loss, gradients, trained };
}

const goldens = [...families.map(textGolden), ...videoFamilies.map(videoGolden), ...adapters.map(loraGolden)];
const f32 = (t: Tensor | undefined) => t!.data as Float32Array;

type Grid = Required<Pick<TrainerOptions, "sharePrefix" | "checkpointing" | "microBatchTokens">> & {
  reversed: boolean;
};
const either = [true, false];
const grid: Grid[] = either.flatMap((sharePrefix) =>
  either.flatMap((checkpointing) =>
    [1, 100_000].flatMap((microBatchTokens) =>
      either.map((reversed) => ({ sharePrefix, checkpointing, microBatchTokens, reversed })),
    ),
  ),
);
const nameOf = (g: Grid) =>
  `${g.sharePrefix ? "shared" : "separate"}, ${g.microBatchTokens === 1 ? "an item" : "all"} a micro-batch` +
  `${g.checkpointing ? ", checkpointing" : ""}${g.reversed ? ", reversed" : ""}`;

async function gradientsOf(model: VideoLM, items: readonly TrainItem[], o: TrainerOptions) {
  await using trainer = await createTrainer(model, o);
  return await trainer.gradients(items);
}

type Result = Awaited<ReturnType<typeof gradientsOf>>;

function sameGradients(actual: Result, expected: Map<string, Float32Array>, what: string): void {
  for (const [name, g] of actual.gradients) {
    const values = expected.get(name)!;
    near(f32(g), values, 5e-5 * maxAbs(values) + 1e-7, `${what}: gradient of ${name}`);
  }
}

const valuesOf = (r: Result) => new Map([...r.gradients].map(([name, g]) => [name, f32(g)]));
const swapped = ({ chosen, rejected, reference }: SequencePair): SequencePair => ({
  chosen: rejected,
  rejected: chosen,
  reference: { chosen: reference!.rejected, rejected: reference!.chosen },
});

/** Ids that stand for rows of media in the ids of forward(). */
function placeholders(dir: string): Set<number> {
  const config = JSON.parse(readFileSync(join(dir, "config.json"), "utf8"));
  const named = ["video_token_id", "video_token_index", "image_token_id", "image_token_index"].map((k) => config[k]);
  return new Set([-200, -201, ...named.filter((x) => typeof x === "number")]);
}

/** A sequence's rows as strings (a row of a medium knows its medium), and the row that predicts its first scored token. */
async function rowsOf(model: VideoLM, s: Sequence, visual: ReadonlySet<number>, media: Map<unknown, number>) {
  const { ids } = await model.forward({ ids: s.ids, ...(s.media ? { media: s.media } : {}) }, { outputs: [] });
  const key = s.media?.[0];
  if (key !== undefined && !media.has(key)) media.set(key, media.size);
  const rows = [...ids].map((id) => (visual.has(id) ? `${id}/${media.get(key)}` : `${id}`));
  const answer = s.lossMask!.length - s.lossMask!.indexOf(1); // the golden answers stand at the end, every token scored
  return { rows, limit: rows.length - answer - 1 };
}

/** Rows that sharing leaves: each prefix before a scoring row once, and all other rows. */
function sharedRows(all: readonly { rows: string[]; limit: number }[]): number {
  const prefixes = new Set<string>();
  let own = 0;
  for (const { rows, limit } of all) {
    for (let t = 0; t < limit; t++) prefixes.add(rows.slice(0, t + 1).join(" "));
    own += rows.length - limit;
  }
  return prefixes.size + own;
}

for (const golden of goldens) {
  const test = suite(`packing ${golden.family}`);
  const { dir, adapter, items, loss, trained } = golden;

  const open = () => loadModel(dir, adapter === undefined ? {} : { adapter });
  const model = memoized(open);
  const plain = { ...trained, sharePrefix: false, microBatchTokens: 1 } as const;
  const separate = memoized(async () =>
    gradientsOf(await model(), items, { ...plain, checkpointing: false, beta: 0.1 }),
  );

  for (const g of grid)
    test(`preferences: ${nameOf(g)}: the golden loss and gradients`, async () => {
      const { reversed, ...o } = g;
      const given = reversed ? [...items].reverse() : items;
      const result = await gradientsOf(await model(), given, { ...o, ...trained, beta: 0.1 });
      close(result.metrics.loss, loss, 1e-5, `${nameOf(g)}: loss`);
      const { metrics, gradients } = await separate();
      close(result.metrics.margin, metrics.margin, 3e-5, "margin");
      assert.equal([...result.gradients.keys()].sort(), [...gradients.keys()].sort());
      sameGradients(result, valuesOf(await separate()), nameOf(g));
      sameGradients(result, golden.gradients, `${nameOf(g)}, golden`);
    });

  const sequences = items.flatMap(({ chosen, rejected }) => [chosen, rejected]);
  const supervised = memoized(async () => gradientsOf(await model(), sequences, { ...plain, loss: "sft" }));
  for (const { reversed, ...g } of grid)
    test(`supervised: ${nameOf({ reversed, ...g })}: the same loss and gradients`, async () => {
      const given = reversed ? [...sequences].reverse() : sequences;
      const result = await gradientsOf(await model(), given, { ...trained, loss: "sft", ...g });
      close(result.metrics.loss, (await supervised()).metrics.loss, 1e-5, `${nameOf({ reversed, ...g })}: loss`);
      sameGradients(result, valuesOf(await supervised()), nameOf({ reversed, ...g }));
    });

  test("supervised: the loss is the mean over the scored tokens", async () => {
    const logProbs = await (await model()).logProbs(sequences);
    const [total, tokens] = logProbs.reduce(([t, n], x) => [t + x.reduce((a, b) => a + b, 0), n + x.length], [0, 0]);
    close((await supervised()).metrics.loss, -total / tokens, 1e-5, "mean over the scored tokens");
  });

  test("a swapped pair has the negated margin, and the loss grows by it", async () => {
    await using model = await open();
    const o = { ...trained, beta: 0.1 };
    const whole = await gradientsOf(model, items, o);
    const other = await gradientsOf(model, items.map(swapped), o);
    close(other.metrics.margin, -whole.metrics.margin, 1e-6, "margin");
    close(other.metrics.chosenReward, whole.metrics.rejectedReward, 1e-6, "reward");
    close(other.metrics.loss, whole.metrics.loss + whole.metrics.margin, 1e-6, "-log s(-d) = d - log s(d)");
    const { metrics } = await gradientsOf(model, [items[0]!, swapped(items[0]!)], o);
    close(metrics.margin, 0, 1e-6, "margins of a pair and its swapped self cancel");
  });

  test("tokens computed are those that the sharing rule leaves", async () => {
    await using model = await open();
    const visual = placeholders(dir);
    const media = new Map<unknown, number>();
    const sides = async (pair: SequencePair) => [
      await rowsOf(model, pair.chosen, visual, media),
      await rowsOf(model, pair.rejected, visual, media),
    ];
    const computed = async (some: readonly SequencePair[], o: TrainerOptions) =>
      (await gradientsOf(model, some, { ...trained, ...o })).metrics.tokensComputed;
    for (const pair of items) {
      const [w, l] = await sides(pair);
      const [P, W, L] = [w!.limit + 1, w!.rows.length - w!.limit - 1, l!.rows.length - l!.limit - 1];
      assert.equal(l!.rows.slice(0, P), w!.rows.slice(0, P), "golden pairs have one prompt");
      assert.is(await computed([pair], {}), P - 1 + (1 + W) + (1 + L));
      assert.is(await computed([pair], { sharePrefix: false }), 2 * P + W + L);
    }
    // Pairs of one clip (or prompt): a second question, and the same question with answers that begin alike.
    const [first] = items as [SequencePair];
    const asked = (s: Sequence): Sequence => ({
      ...s,
      ids: Int32Array.from([...s.ids.slice(0, s.lossMask!.indexOf(1)), 5, ...s.ids.slice(s.lossMask!.indexOf(1))]),
      lossMask: Uint8Array.from([
        ...s.lossMask!.slice(0, s.lossMask!.indexOf(1)),
        0,
        ...s.lossMask!.slice(s.lossMask!.indexOf(1)),
      ]),
    });
    const second: SequencePair = {
      chosen: asked(first.chosen),
      rejected: asked(first.rejected),
      reference: first.reference!,
    };
    const family = [...items, second, swapped(first)];
    const all = (await Promise.all(family.map(sides))).flat();
    const apart = all.reduce((n, { rows }) => n + rows.length, 0);
    assert.is(await computed(family, { sharePrefix: false }), apart);
    assert.is(await computed(family, { microBatchTokens: 1e5 }), sharedRows(all));
    const single = (await Promise.all(family.map(async (p) => sharedRows(await sides(p))))).reduce((a, b) => a + b, 0);
    assert.is(await computed(family, { microBatchTokens: 1 }), single);
    ordered(sharedRows(all), "<", single);
    ordered(single, "<", apart);
    const packed = valuesOf(await gradientsOf(model, family, { ...trained, microBatchTokens: 1e5 }));
    sameGradients(
      await gradientsOf(model, family, { ...trained, sharePrefix: false }),
      packed,
      "four answers of a prompt",
    );
  });

  test.after(async () => (await model())[Symbol.asyncDispose]());
  test.run();
}

const rule = suite("packing rule");
const byIds = (prompt: number[], chosen: number[], rejected: number[]): Pair => ({
  prompt: { ids: prompt },
  chosen,
  rejected,
});
const P = [1, 9, 8, 7, 6, 5];

const cases: readonly [name: string, items: Pair[], tokens: number][] = [
  ["answers that differ at once", [byIds(P, [11, 2], [12, 13, 2])], 5 + 3 + 4],
  ["answers that begin alike share no more than the prompt", [byIds(P, [11, 12, 2], [11, 13, 2])], 5 + 4 + 4],
  ["equal answers", [byIds(P, [11, 2], [11, 2])], 5 + 3 + 3],
  ["a prompt of one token shares nothing", [byIds([1], [11, 2], [12, 2])], 3 + 3],
  ["two pairs of one prompt", [byIds(P, [11, 2], [12, 2]), byIds(P, [13, 2], [14, 15, 2])], 5 + 3 + 3 + 3 + 4],
  [
    "prompts that part",
    [byIds(P, [11, 2], [12, 2]), byIds([1, 9, 8, 4, 3], [11, 2], [12, 2])],
    3 + 2 + 3 + 3 + 1 + 3 + 3,
  ],
  [
    "one prompt inside the other",
    [byIds(P, [11, 2], [12, 2]), byIds([...P, 4], [11, 2], [12, 2])],
    5 + 3 + 3 + 1 + 3 + 3,
  ],
  ["nothing in common", [byIds(P, [11, 2], [12, 2]), byIds([3, ...P], [11, 2], [12, 2])], 5 + 3 + 3 + 6 + 3 + 3],
];

for (const [name, items, tokens] of cases)
  rule(name, async () => {
    await using model = await loadModel(folder("text_llama"));
    const shared = await gradientsOf(model, items, {});
    assert.is(shared.metrics.tokensComputed, tokens);
    const separate = await gradientsOf(model, items, { sharePrefix: false, microBatchTokens: 1 });
    assert.is(
      separate.metrics.tokensComputed,
      items.reduce((n, p) => n + 2 * (p.prompt as Sequence).ids.length + p.chosen.length + p.rejected.length, 0),
    );
    close(shared.metrics.loss, separate.metrics.loss, 1e-7, "loss");
    sameGradients(shared, valuesOf(separate), name);
  });

// Micro-batches are as many as the budget takes, and an item alone may exceed it.
for (const [microBatchTokens, tokens] of [
  [10, 44],
  [16, 44],
  [17, 34],
  [23, 5 + 18 + 11],
  [29, 29],
] as const)
  rule(`micro-batches of at most ${microBatchTokens} tokens compute ${tokens}`, async () => {
    await using model = await loadModel(folder("text_llama"));
    const items = [11, 12, 13, 14].map((id) => byIds(P, [id, 2], [id + 10, 2])); // 5 + 3 + 3 alone, + 6 each beside another
    assert.is((await gradientsOf(model, items, { microBatchTokens })).metrics.tokensComputed, tokens);
  });

rule.run();
