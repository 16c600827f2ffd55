// node examples/tiny-sft.mjs FOLDER [CLIPS]: a video model of 1.1 million drawn weights, and 256 clips of moving shapes to teach it with.
import { join } from "node:path";
import { initCheckpoint, worldSpec, writeWorldExamples } from "isr-dpo/synthetic";

const [folder, clips = "256", ...rest] = process.argv.slice(2);
if (!folder || folder.startsWith("-") || !/^[1-9]\d*$/.test(clips) || rest.length > 0) {
  console.error("usage: node examples/tiny-sft.mjs FOLDER [CLIPS]");
  process.exit(2);
}
const data = await writeWorldExamples(folder, { name: "train", seed: 1, clips: Number(clips) });
const { parameters } = await initCheckpoint(join(folder, "model"), worldSpec, 1);
console.log(`${parameters} parameters; now: npx isr-dpo train sft --model ${join(folder, "model")} --data ${data} \\
  --run-dir ${join(folder, "run")} --epochs 4 --items-per-step 16 --learning-rate 2e-3 --schedule cosine --warmup-ratio 0.1`);
