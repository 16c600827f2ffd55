// A draw belongs to its position: the second token of a completion is not drawn with the first one's number.
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { loadModel } from "../src/index.js";

const checkpoint = join(dirname(fileURLToPath(import.meta.url)), "golden/text_llama/policy");
const test = suite("draws");

test("each position has a draw of its own", async () => {
  await using model = await loadModel(checkpoint);
  const sampling = { temperature: 1, suppress: [2] };
  const prompt = [1, 17, 4, 9];
  const seeds = Array.from({ length: 24 }, (_, seed) => seed);
  let alike = 0;
  for (const seed of seeds) {
    const [two] = await model.generate({ ...sampling, seed, maxTokens: 2, prompt: { ids: prompt } });
    const [first, second] = two!.ids;
    // The same distribution as the second token's, drawn at position 0: the first token's number again.
    const [again] = await model.generate({ ...sampling, seed, maxTokens: 1, prompt: { ids: [...prompt, first!] } });
    if (again!.ids[0] === second) ++alike;
  }
  assert.ok(alike < seeds.length / 2, `${alike} of ${seeds.length} second tokens are what the first draw gives`);
});

test.run();
