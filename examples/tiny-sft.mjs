// node examples/tiny-sft.mjs FOLDER: a video model of 1.1 million drawn weights, and 256 clips of moving shapes to teach it with.
import { join } from "node:path";
import { initCheckpoint, worldSpec, writeWorldExamples } from "isr-dpo";

const folder = process.argv[2];
const { parameters } = await initCheckpoint(join(folder, "model"), worldSpec, 1);
const data = await writeWorldExamples(folder, { name: "train", seed: 1, clips: Number(process.argv[3] ?? 256) });
console.log(`${parameters} parameters; now: isr-dpo train sft --model ${join(folder, "model")} --data ${data} \\
  --run-dir ${join(folder, "run")} --epochs 4 --items-per-step 16 --learning-rate 2e-3 --schedule cosine --warmup-ratio 0.1`);
