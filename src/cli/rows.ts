// Rows of `isr-dpo generate`: a JSON object a line, checked here; what only the model can tell it says later.
import { dirname, isAbsolute, resolve } from "node:path";
import type { Readable } from "node:stream";
import { array, integer, number, object, options, path as checkPath, refuse, text } from "../check.js";
import { isRowFault } from "../data/fault.js";
import { countPlaces, foreignPlace } from "../data/places.js";
import { piecesOf } from "../data/turns.js";
import { IsrDpoError } from "../errors.js";
import type { FrameSampling, GenerateRequest, Media, Message, Prompt, Sampling } from "../types.js";
import type { FlagUse } from "./effects.js";
import { readLines } from "./files.js";

export interface Row {
  line: number;
  /** As given; default: the line's number. */
  id: string | number;
  request: GenerateRequest & { prompt: Exclude<Prompt, string>; copies: number };
  /** Equal for rows that look at the same media in the same way. */
  looksAt: string;
}

/** What the command line says for rows that say nothing themselves. */
export interface RowDefaults {
  sampling: Sampling;
  copies: number;
  frames: FrameSampling | undefined;
  /** Told what rows take of it. */
  use: FlagUse;
}

const keys = [
  "id",
  "prompt",
  "ids",
  "video",
  "image",
  "maxTokens",
  "temperature",
  "topP",
  "topK",
  "seed",
  "stop",
  "copies",
];
/** What follows the name of a request in a message, by itself. */
const bare = (rest: string): string =>
  rest.startsWith(".") ? rest.slice(1) : rest.startsWith(": ") ? rest.slice(2) : rest;

/** The failure of a row, with its file and line. */
export function rowError(file: string, line: number, e: IsrDpoError): IsrDpoError {
  const code = e.code === "INVALID_ARGUMENT" ? "DATA_INVALID" : e.code;
  const request = e.detail?.request;
  const name = typeof request === "number" ? `requests[${request}]` : "";
  const message = name !== "" && e.message.startsWith(name) ? bare(e.message.slice(name.length)) : e.message;
  return new IsrDpoError(code, `${file}:${line}: ${message}`, {
    hint: e.hint ?? "correct the row, or leave such rows out with --on-error skip",
    path: file,
    detail: { ...e.detail, line },
    cause: e,
  });
}

type Kind = "video" | "image";

const mediaOf = (prompt: Exclude<Prompt, string>): readonly Media[] =>
  "ids" in prompt
    ? (prompt.media ?? [])
    : prompt.flatMap(({ content }) =>
        typeof content === "string" ? [] : content.flatMap((part) => (part.type === "text" ? [] : [part.media])),
      );

/** A user's words with the row's media: at the places that are written for them, or before the words. */
function placed(text: string, media: readonly { type: Kind; media: Media }[], field = "prompt"): Message["content"] {
  const places = countPlaces(text);
  for (const kind of ["video", "image"] as const) {
    const given = media.filter((m) => m.type === kind).length;
    if (places[kind] > 0 && places[kind] !== given)
      refuse(
        field,
        `${kind === "video" ? "a video" : "an image"} for each of ${places[kind]} places written in the text`,
        given,
        "DATA_INVALID",
      );
  }
  if (media.length === 0 && foreignPlace(text) === undefined) return text;
  const waiting = [...media];
  const take = (kind: Kind) =>
    waiting.splice(
      waiting.findIndex((m) => m.type === kind),
      1,
    )[0]!;
  const parts = piecesOf(field, text).map((p) => (p.type === "text" ? p : take(p.type)));
  return [...waiting, ...parts];
}

class RowReader {
  constructor(
    readonly folder: string,
    readonly defaults: RowDefaults,
  ) {}

  #path(field: string, value: unknown): string {
    const p = checkPath(field, value);
    const address = /^[a-z][a-z0-9+.-]+:\/\//i.test(p); // refused later, in words of its own
    return isAbsolute(p) || address ? p : resolve(this.folder, p);
  }

  #medium(field: string, kind: Kind, value: unknown): Media {
    const given = typeof value === "string" ? { path: value } : options(field, value, ["kind", "path", "sample"]);
    const { frames, use } = this.defaults;
    const { sample = kind === "video" ? frames : undefined } = given as { sample?: FrameSampling };
    use.take("featureCache", ...(kind === "video" && sample === frames ? (["frames", "window", "fps"] as const) : []));
    return { kind, path: this.#path(`${field}.path`, given.path), ...(sample === undefined ? {} : { sample }) };
  }

  #media(row: Record<string, unknown>): { type: Kind; media: Media }[] {
    return (["video", "image"] as const).flatMap((type) => {
      const value = row[type];
      if (value === undefined) return [];
      const list = Array.isArray(value) ? value : [value];
      return list.map((m, i) => ({ type, media: this.#medium(list === value ? `${type}[${i}]` : type, type, m) }));
    });
  }

  #messages(given: readonly unknown[]): Message[] {
    return given.map((m, i) => {
      const at = `prompt[${i}]`;
      const { role, content } = options(at, m, ["role", "content"]);
      if (typeof content === "string") {
        if (role !== "assistant") placed(content, [], `${at}.content`); // media stand in parts
        return { role, content } as Message;
      }
      const parts = array(`${at}.content`, content).map((part, k) => {
        const field = `${at}.content[${k}]`;
        const { type, media } = object(field, part);
        return type === "video" || type === "image"
          ? { type, media: this.#medium(`${field}.media`, type, media) }
          : part;
      });
      return { role, content: parts } as Message;
    });
  }

  #prompt(row: Record<string, unknown>): Exclude<Prompt, string> {
    const media = this.#media(row);
    if ((row.prompt === undefined) === (row.ids === undefined))
      throw new IsrDpoError(
        "DATA_INVALID",
        `prompt: expected prompt or ids, got ${row.ids === undefined ? "neither" : "both"}`,
      );
    if (row.ids !== undefined) {
      const ids = array("ids", row.ids).map((id, i) => integer(`ids[${i}]`, id, -(2 ** 31), 2 ** 31 - 1));
      return { ids, ...(media.length > 0 ? { media: media.map((m) => m.media) } : {}) };
    }
    if (typeof row.prompt === "string") return [{ role: "user", content: placed(row.prompt, media) }];
    if (!Array.isArray(row.prompt) || row.prompt.length === 0) refuse("prompt", "a string or messages", row.prompt);
    if (media.length > 0)
      refuse("video", "media inside the messages, since prompt holds messages", row.video ?? row.image);
    return this.#messages(row.prompt as unknown[]);
  }

  #sampling(row: Record<string, unknown>): Sampling & { copies: number } {
    const given = <T>(key: string, check: (field: string, value: unknown) => T): { [key: string]: T } =>
      row[key] === undefined ? {} : { [key]: check(key, row[key]) };
    const stops = (field: string, value: unknown) =>
      (typeof value === "string" ? [value] : array(field, value)).map((s, i) => {
        if (text(`${field}[${i}]`, s) === "") refuse(`${field}[${i}]`, "a text that is not empty", s);
        return s as string;
      });
    const { sampling, use } = this.defaults;
    const unsaid = (keys: readonly ("topP" | "topK" | "seed" | "temperature" | "maxTokens" | "stop" | "copies")[]) =>
      use.take(...keys.filter((key) => row[key] === undefined));
    unsaid(["temperature", "maxTokens", "stop", "copies"]);
    if (Number(row.temperature ?? sampling.temperature ?? 0) > 0) unsaid(["topP", "topK", "seed"]);
    return {
      ...sampling,
      copies: this.defaults.copies,
      ...given("maxTokens", (f, v) => integer(f, v, 1, 2 ** 31 - 1)),
      ...given("temperature", (f, v) => number(f, v, { min: 0 })),
      ...given("topP", (f, v) => number(f, v, { above: 0, max: 1 })),
      ...given("topK", (f, v) => integer(f, v, 0, 2 ** 31 - 1)),
      ...given("seed", (f, v) => integer(f, v, 0)),
      ...given("stop", stops),
      ...given("copies", (f, v) => integer(f, v, 1, 65536)),
    };
  }

  read(line: number, bytes: Buffer): Row | undefined {
    let value: unknown;
    try {
      const json = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
      if (json.trim() === "") return undefined;
      value = JSON.parse(json);
    } catch (e) {
      throw new IsrDpoError("DATA_INVALID", `expected a JSON object in UTF-8, got ${(e as Error).message}`);
    }
    const row = options("row", object("row", value), keys);
    const { id = line } = row;
    if (typeof id !== "string" && typeof id !== "number") refuse("id", "a string or a number", id);
    this.defaults.use.row();
    const prompt = this.#prompt(row);
    return {
      line,
      id: id as string | number,
      request: { prompt, ...this.#sampling(row) },
      looksAt: JSON.stringify(mediaOf(prompt)),
    };
  }
}

/** Rows in order; `bad` takes a row that is none, and throws it or goes on. Paths are relative to the file's folder. */
export async function* readRows(
  input: Readable,
  file: string,
  defaults: RowDefaults,
  bad: (line: number, e: IsrDpoError) => void,
): AsyncGenerator<Row> {
  const reader = new RowReader(file === "-" ? process.cwd() : dirname(resolve(file)), defaults);
  for await (const { number: line, bytes } of readLines(input, file)) {
    let row: Row | undefined;
    try {
      row = reader.read(line, bytes);
    } catch (e) {
      if (!isRowFault(e)) throw e;
      bad(line, e);
    }
    if (row) yield row;
  }
}
