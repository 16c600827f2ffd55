// The prompts of the method as data: one system text, and instructions that all stand after the video, so that all prompts of
// a clip share everything before the instructions. A file of the user may replace them; their hash is part of a run.
import { sha256 } from "../base/sha256.js";
import { isObject, nearest, show } from "../base/check.js";
import { fill, placesOf } from "../base/templates.js";
import { IsrDpoError } from "../base/errors.js";
import { type OpenAIJudgeOptions, replyRequest } from "../judge/openai-judge.js";
import { canonicalJson } from "../runfolder/run-json.js";
import type { Media, Message } from "../base/types.js";

/** The texts of the method. Placeholders in braces are filled in; each text must hold the placeholders that its line names. */
export interface Prompts {
  /** The system text; null: the one of the model's template. */
  system: string | null;
  /** Asks for an answer: {question}. */
  response: string;
  /** Asks for a description of a video. */
  context: {
    /** Asks for a description where there is no earlier one. */
    first: string;
    /** Asks to improve on an earlier description: {previous}. */
    next: string;
  };
  /** Asks which of two answers is better. */
  judge: {
    /** Asks without a context: {question} {first} {second}. */
    plain: string;
    /** Asks with a context: {context} {question} {first} {second}. */
    withContext: string;
    /** The replies in favour of the first and of the second response. */
    labels: readonly [string, string];
  };
}

/** The built-in prompts. */
export const defaultPrompts: Prompts = {
  system: null,
  response:
    "Answer the question about the video in a few plain sentences. State only what can be seen, and nothing that the question does not ask for.\nQuestion: {question}",
  context: {
    first:
      "Describe the video in detail: who and what is there, how it looks, what happens and in which order. State only what can be seen.",
    next: "An earlier description of this video reads:\n{previous}\n\nWatch the video again and write a better description: keep what is right, correct what is wrong, add what is missing. Answer with the new description alone.",
  },
  judge: {
    plain:
      "Question about the video: {question}\n\nAnswer 1: {first}\n\nAnswer 2: {second}\n\nWhich answer responds to the question and agrees with the video better? Length does not count. Reply with the number alone, 1 or 2.",
    withContext:
      "A description of the video reads:\n{context}\n\nQuestion about the video: {question}\n\nAnswer 1: {first}\n\nAnswer 2: {second}\n\nWith the video and its description in mind: which answer responds to the question and agrees with the video better? Length does not count. Reply with the number alone, 1 or 2.",
    labels: ["1", "2"],
  },
};

const mute = (text: string): string =>
  text.replace(" in a few plain sentences", "").replace(" Length does not count.", "");

/** Those of preset paper: the built-in ones without a word about length, since the paper's results are about lengths too. */
export const paperPrompts: Prompts = {
  ...defaultPrompts,
  response: mute(defaultPrompts.response),
  judge: {
    ...defaultPrompts.judge,
    plain: mute(defaultPrompts.judge.plain),
    withContext: mute(defaultPrompts.judge.withContext),
  },
};

/** The built-in prompts of a configuration. */
export const builtIn = (preset: "paper" | undefined): Prompts => (preset === "paper" ? paperPrompts : defaultPrompts);

/** Every template with the names that it must hold. */
const templates: readonly [keys: readonly string[], names: readonly string[]][] = [
  [["response"], ["question"]],
  [["context", "first"], []],
  [["context", "next"], ["previous"]],
  [
    ["judge", "plain"],
    ["question", "first", "second"],
  ],
  [
    ["judge", "withContext"],
    ["context", "question", "first", "second"],
  ],
];

const invalid = (field: string, message: string, hint?: string) =>
  new IsrDpoError("INVALID_CONFIG", `${["prompts", ...(field === "" ? [] : [field])].join(".")}: ${message}`, {
    ...(hint ? { hint } : {}),
    detail: { field: ["prompts", ...(field === "" ? [] : [field])].join(".") },
  });

function checkTemplate(field: string, value: unknown, names: readonly string[]): void {
  if (typeof value !== "string" || value.trim() === "") throw invalid(field, `expected a text, got ${show(value)}`);
  const found = placesOf(value);
  for (const name of names) {
    const n = found.filter((f) => f === name).length;
    if (n !== 1) throw invalid(field, `expected {${name}} once, got it ${n} times`);
  }
  const strange = found.find((f) => !names.includes(f));
  if (strange === undefined) return;
  const meant = nearest(strange, names);
  throw invalid(
    field,
    `expected no place but ${names.map((n) => `{${n}}`).join(", ") || "none"}, got {${strange}}`,
    meant && `did you mean {${meant}}?`,
  );
}

/** Prompts of the user's over the built-in ones. INVALID_CONFIG names the text and what is wrong with it. */
export function promptsOf(value: unknown, own: Prompts = defaultPrompts): Prompts {
  if (value === undefined) return own;
  if (!isObject(value)) throw invalid("", `expected an object, got ${show(value)}`);
  for (const [where, keys] of [
    ["", ["system", "response", "context", "judge"]],
    ["context", ["first", "next"]],
    ["judge", ["plain", "withContext", "labels"]],
  ] as const) {
    const part = where === "" ? value : value[where];
    if (part === undefined) continue;
    if (!isObject(part)) throw invalid(where, `expected an object, got ${show(part)}`);
    const strange = Object.keys(part).find((k) => !(keys as readonly string[]).includes(k));
    if (strange !== undefined) throw invalid(where, `unknown key ${show(strange)}`, `known keys: ${keys.join(", ")}`);
  }
  const given = value as Partial<Prompts>;
  const all: Prompts = {
    system: given.system === undefined ? own.system : given.system,
    response: given.response ?? own.response,
    context: { ...own.context, ...given.context },
    judge: { ...own.judge, ...given.judge },
  };
  if (all.system !== null && typeof all.system !== "string")
    throw invalid("system", `expected a text or null, got ${show(all.system)}`);
  for (const [keys, names] of templates)
    checkTemplate(
      keys.join("."),
      keys.reduce<unknown>((o, k) => (o as Record<string, unknown>)[k], all),
      names,
    );
  const { labels } = all.judge;
  const good =
    Array.isArray(labels) && labels.length === 2 && labels.every((l) => typeof l === "string" && l.trim() !== "");
  if (!good || labels[0].startsWith(labels[1]) || labels[1].startsWith(labels[0]))
    throw invalid(
      "judge.labels",
      `expected two texts, neither the beginning of the other, got ${JSON.stringify(labels)}`,
    );
  return all;
}

/** A file of prompts (YAML or JSON) in place of the built-in ones. NOT_FOUND, IO, INVALID_CONFIG with what is wrong in it. */
export async function readPrompts(path: string, own: Prompts = defaultPrompts): Promise<Prompts> {
  const { readYaml } = await import("../config/read-config.js");
  const given = await readYaml(path);
  try {
    if (Object.keys(given).length === 0) throw invalid("", "expected a text in place of a built-in one, got none");
    return promptsOf(given, own);
  } catch (e) {
    const { message, hint, detail } = e as IsrDpoError;
    throw new IsrDpoError("INVALID_CONFIG", `${path}: ${message}`, {
      ...(hint === undefined ? {} : { hint }),
      ...(detail === undefined ? {} : { detail }),
      path,
    });
  }
}

/**
 * The words of a judge behind an endpoint: those of `prompts` where they are not the built-in ones, with the request for a reply
 * in JSON behind them, which stands last and therefore holds; the endpoint's own words for the others.
 */
export function endpointWords({ system, judge }: Prompts): Pick<OpenAIJudgeOptions, "prompts" | "labels"> {
  const { plain, withContext, labels } = judge;
  const own = defaultPrompts.judge;
  const relabelled = labels.some((label, i) => label !== own.labels[i]);
  const asked = (text: string) => `${text}\n\n${replyRequest(labels)}`;
  const words = {
    ...(system === null ? {} : { system }),
    ...(plain === own.plain && !relabelled ? {} : { plain: asked(plain) }),
    ...(withContext === own.withContext && !relabelled ? {} : { withContext: asked(withContext) }),
  };
  return { ...(Object.keys(words).length > 0 ? { prompts: words } : {}), ...(relabelled ? { labels } : {}) };
}

/** Texts of the user's that no stage of a run asks with. */
export function unusedPrompts(prompts: Prompts, own: Prompts, contextless: boolean, foreignJudge: boolean): string[] {
  const texts: [key: string, differs: boolean, why: string | false][] = [
    [
      "context.first",
      prompts.context.first !== own.context.first,
      contextless && "context.design none writes no context",
    ],
    ["context.next", prompts.context.next !== own.context.next, contextless && "context.design none writes no context"],
    ["judge.plain", prompts.judge.plain !== own.judge.plain, foreignJudge && "the judge has words of its own"],
    [
      "judge.withContext",
      prompts.judge.withContext !== own.judge.withContext,
      foreignJudge ? "the judge has words of its own" : contextless && "context.design none gives the judge no context",
    ],
  ];
  return texts.flatMap(([key, differs, why]) => (differs && why ? [`prompts.${key} has no effect: ${why}`] : []));
}

export const promptsHash = (prompts: Prompts): string => sha256(canonicalJson(prompts));

const conversation = (prompts: Prompts, media: Media, text: string): Message[] => [
  ...(prompts.system === null ? [] : [{ role: "system" as const, content: prompts.system }]),
  {
    role: "user",
    content: [
      { type: "video", media },
      { type: "text", text },
    ],
  },
];

export const responsePrompt = (prompts: Prompts, media: Media, question: string): Message[] =>
  conversation(prompts, media, fill(prompts.response, { question }));

/** The question alone, as evaluation asks it. */
export const plainPrompt = (prompts: Prompts, media: Media, question: string): Message[] =>
  conversation(prompts, media, question);

export const contextPrompt = (prompts: Prompts, media: Media, previous: string | null): Message[] =>
  conversation(prompts, media, previous === null ? prompts.context.first : fill(prompts.context.next, { previous }));

export const judgePrompt = (
  prompts: Prompts,
  media: Media,
  { context, question, first, second }: { context: string | null; question: string; first: string; second: string },
): Message[] =>
  conversation(
    prompts,
    media,
    context === null
      ? fill(prompts.judge.plain, { question, first, second })
      : fill(prompts.judge.withContext, { context, question, first, second }),
  );
