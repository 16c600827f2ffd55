// Evaluations of models that a run folder keeps: evaluation/<name>.<index>.json.
import { join } from "node:path";
import { isObject, type Json } from "../base/check.js";
import { jsonOf, namesIn, numberOr, type Tell, textOr } from "./run-files.js";

export interface Evaluation {
  name: string;
  title: string;
  kind: string;
  /** Index of the model. */
  model: number;
  count: number | null;
  accuracy: number | null;
  /** 95 %. */
  interval: [number, number] | null;
  chance: number | null;
  /** Mean words of an answer. */
  words: number | null;
  domain: string | null;
  versus: { other: string; wins: number; losses: number; ties: number } | null;
  extra: [label: string, value: number][];
}

function versusOf(value: unknown): Evaluation["versus"] {
  if (!isObject(value)) return null;
  const [wins, losses, ties] = [value.wins, value.losses, value.ties].map((v) => numberOr(v, 0));
  return { other: textOr(value.other, "another model"), wins: wins!, losses: losses!, ties: ties! };
}

function evaluationOf(found: Json): Evaluation | null {
  const [name, model] = [textOr(found.name, null), numberOr(found.model, null)];
  if (name === null || model === null) return null;
  const [low, high] = Array.isArray(found.interval) ? found.interval.map((v) => numberOr(v, null)) : [null, null];
  return {
    name,
    model,
    title: textOr(found.title, name),
    kind: textOr(found.kind, "exact"),
    count: numberOr(found.count, null),
    accuracy: numberOr(found.accuracy, null),
    interval: low != null && high != null ? [low, high] : null,
    chance: numberOr(found.chance, null),
    words: numberOr(found.words, null),
    domain: textOr(found.domain, null),
    versus: versusOf(found.versus),
    extra: Object.entries(isObject(found.extra) ? found.extra : {}).flatMap(([label, v]) =>
      typeof v === "number" && Number.isFinite(v) ? [[label, v] as [string, number]] : [],
    ),
  };
}

/** By name, then by model. */
export async function readEvaluations(runDir: string, run: string, tell: Tell): Promise<Evaluation[]> {
  const list: Evaluation[] = [];
  for (const file of await namesIn(join(runDir, "evaluation"))) {
    if (!file.endsWith(".json")) continue;
    const found = await jsonOf(join(runDir, "evaluation", file), `${run}: evaluation/${file}`, tell);
    if (!found) continue;
    const evaluation = evaluationOf(found);
    if (evaluation) list.push(evaluation);
    else tell(`${run}: evaluation/${file} has no name or no model index and was left out.`);
  }
  return list.sort((a, b) => (a.name === b.name ? a.model - b.model : a.name < b.name ? -1 : 1));
}
