// Puts and gets features in a folder that other processes use too; prints how often it hit, and fails on a wrong value.
import { FeatureCache } from "../../src/video/feature-cache.js";

const [dir, maxBytes] = process.argv.slice(2);
const cache = new FeatureCache({ dir: dir!, maxBytes: Number(maxBytes) });
for (let round = 0; round < 40; round++) {
  const key = `clip ${round % 7}`;
  const found = await cache.get(key, { rows: 4, cols: 50, dtype: "f32" });
  if (found && !(found.data as Float32Array).every((v, i) => v === (round % 7) + i))
    throw new Error(`${key} is another's`);
  const data = Float32Array.from({ length: 200 }, (_, i) => (round % 7) + i);
  if (!found) await cache.put(key, { dtype: "f32", shape: [4, 50], data });
}
console.log(JSON.stringify({ hits: cache.hits, corrupt: cache.corrupt }));
