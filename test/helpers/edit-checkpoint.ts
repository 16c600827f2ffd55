// Copies of golden checkpoints with a config or tensors changed.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { copyOf } from "./files.js";
import { readSafetensors, type Stored, writeSafetensors } from "./safetensors.js";

export type Config = Record<string, unknown>;
export type Tensors = Map<string, Stored>;
export type Edit = (dir: string) => void;

/** `text` may hold what JSON.stringify cannot write (Infinity): it replaces the value "@". */
export const editJson =
  (name: string, change: (o: Config) => Config | undefined, text = "@"): Edit =>
  (dir) => {
    const path = join(dir, name);
    const value = JSON.parse(readFileSync(path, "utf8")) as Config;
    writeFileSync(path, JSON.stringify(change(value) ?? value).replaceAll('"@"', text));
  };

export const config = (change: Config, without: readonly string[] = []): Edit =>
  editJson("config.json", (o) => {
    for (const key of without) delete o[key];
    return { ...o, ...change };
  });

/** Rewrites model.safetensors. */
export const tensors =
  (change: (all: Tensors) => Tensors | undefined): Edit =>
  (dir) => {
    const path = join(dir, "model.safetensors");
    const all = readSafetensors(path);
    writeSafetensors(path, change(all) ?? all);
  };

export const embeddings = "model.embed_tokens.weight";
export const head = "lm_head.weight";

/** The rows moved on by one, the last first. */
export function rolled(t: Stored): Stored {
  const data = t.data as Float32Array;
  const width = t.shape[1]!;
  const out = new Float32Array(data.length);
  out.set(data.subarray(0, data.length - width), width);
  out.set(data.subarray(data.length - width));
  return { ...t, data: out };
}

export const edits: Record<string, Edit> = {
  "own head": tensors((all) => void all.set(head, rolled(all.get(embeddings)!))),
  "head copy": tensors((all) => void all.set(head, all.get(embeddings)!)),
  "head alone": tensors((all) => {
    all.set(head, all.get(embeddings)!);
    all.delete(embeddings);
    return all;
  }),
  "no prefix": tensors((all) => new Map([...all].map(([name, t]) => [name.replace(/^model\./, ""), t]))),
  unlisted: editJson("model.safetensors.index.json", (o) => {
    delete (o.weight_map as Config)["model.norm.weight"];
    return o;
  }),
};

export function edited(dir: string, ...all: readonly Edit[]): string {
  const copy = copyOf(dir);
  for (const edit of all) edit(copy);
  return copy;
}
