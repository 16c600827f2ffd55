// isr-dpo merge MODEL --adapter DIR --out DIR: a checkpoint with its adapter merged, by loadModel() and its save().
import { Command } from "commander";
import { asyncDispose } from "../base/addon.js";
import { count } from "../base/counts.js";
import { IsrDpoError } from "../base/errors.js";
import { samePlace } from "../runfolder/path-overlap.js";
import { load } from "./flags.js";
import { interruption } from "./interrupt.js";
import { say } from "./terminal.js";

interface MergeFlags {
  adapter: string;
  out: string;
}

async function merge(dir: string, { adapter, out }: MergeFlags): Promise<void> {
  for (const [name, path] of Object.entries({ model: dir, adapter }))
    if (await samePlace(out, path))
      throw new IsrDpoError("INVALID_ARGUMENT", `--out: expected another folder than the ${name}'s, got ${out}`, {
        path: out,
      });
  const stop = interruption();
  try {
    const model = await load(dir, { adapter }, stop.signal, false);
    try {
      const { modules, rank } = model.info.adapter!;
      const { hash, bytes } = await model.save(out, { signal: stop.signal });
      say(`${out}: ${count(modules)} matrices merged, rank ${rank}; ${count(bytes)} bytes, sha256 ${hash}`);
    } finally {
      await model[asyncDispose]();
    }
  } finally {
    stop.off();
  }
}

export function mergeCommand(): Command {
  return new Command("merge")
    .description("write a checkpoint with a LoRA adapter merged into it, in the layout and types of the checkpoint")
    .argument("<model>", "folder of the checkpoint that the adapter belongs to")
    .requiredOption("--adapter <dir>", "folder of the adapter, in PEFT's format")
    .requiredOption("--out <dir>", "folder that is written")
    .exitOverride()
    .action(merge);
}
