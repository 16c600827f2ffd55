// Rows of generateFile(): one JSON object per line, checked here; the model reports later what only it can know.
import { isAbsolute, resolve } from "node:path";
import { array, integer, object, options, path as checkPath, refuse } from "../base/check.js";
import { isRowFault } from "../base/data-fault.js";
import { countPlaces, foreignPlace } from "../data/media-placeholders.js";
import { piecesOf } from "../data/conversation-turns.js";
import { IsrDpoError } from "../base/errors.js";
import type { FrameSampling, GenerateRequest, Media, Message, Prompt, Sampling } from "../base/types.js";
import { linesOfStream } from "../base/line-files.js";
import { checked } from "../base/option-rows.js";
import { renamed } from "../base/renamed.js";
import { requestRows } from "./sampling-options.js";

export interface Row {
  line: number;
  /** As given; default: the line's number. */
  id: string | number;
  request: GenerateRequest & { prompt: Exclude<Prompt, string>; n: number };
  /** Equal for rows that look at the same media in the same way. */
  looksAt: string;
}

const rowSampling = ["maxTokens", "temperature", "topP", "topK", "seed", "stop", "n"] as const;
type RowSampling = (typeof rowSampling)[number];

/** Options that rows may take. */
export type RowOption = RowSampling | keyof FrameSampling | "featureCache";

/** What is said for rows that say nothing themselves. */
export interface RowDefaults {
  sampling: Sampling;
  n: number;
  frames: FrameSampling | undefined;
  /** What rows have taken of it, and of the model's feature cache. */
  used: Set<RowOption>;
}

const keys = ["id", "prompt", "ids", "video", "image", ...rowSampling];
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

  #take(...options: readonly RowOption[]): void {
    for (const option of options) this.defaults.used.add(option);
  }

  #path(field: string, value: unknown): string {
    const p = checkPath(field, value);
    const address = /^[a-z][a-z0-9+.-]+:\/\//i.test(p); // refused later, in words of its own
    return isAbsolute(p) || address ? p : resolve(this.folder, p);
  }

  #medium(field: string, kind: Kind, value: unknown): Media {
    const given = typeof value === "string" ? { path: value } : options(field, value, ["kind", "path", "sample"]);
    const { frames } = this.defaults;
    const { sample = kind === "video" ? frames : undefined } = given as { sample?: FrameSampling };
    this.#take(
      "featureCache",
      ...(kind === "video" && sample === frames ? (["frames", "window", "fps"] as const) : []),
    );
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

  #sampling(row: Record<string, unknown>): Sampling & { n: number } {
    const { sampling, n } = this.defaults;
    const unsaid = (...keys: RowSampling[]) => this.#take(...keys.filter((key) => row[key] === undefined));
    unsaid("temperature", "maxTokens", "stop", "n");
    if (Number(row.temperature ?? sampling.temperature ?? 0) > 0) unsaid("topP", "topK", "seed");
    const said = rowSampling.filter((key) => row[key] !== undefined);
    const list = typeof row.stop === "string" ? [row.stop] : row.stop;
    const value = (key: RowSampling) => checked<unknown>(key, key === "stop" ? list : row[key], requestRows[key]);
    return { ...sampling, n, ...Object.fromEntries(said.map((key) => [key, value(key)])) };
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
    const row = options("row", renamed("", object("row", value), "copies"), keys);
    const { id = line } = row;
    if (typeof id !== "string" && typeof id !== "number") refuse("id", "a string or a number", id);
    const prompt = this.#prompt(row);
    return {
      line,
      id: id as string | number,
      request: { prompt, ...this.#sampling(row) },
      looksAt: JSON.stringify(mediaOf(prompt)),
    };
  }
}

/** Rows in order; `bad` takes a row that is none, and throws it or goes on. Paths are relative to `folder`. */
export async function* readRows(
  input: AsyncIterable<Uint8Array>,
  { name, folder, bad }: { name: string; folder: string; bad: (line: number, e: IsrDpoError) => void },
  defaults: RowDefaults,
): AsyncGenerator<Row> {
  const reader = new RowReader(folder, defaults);
  for await (const { number: line, bytes } of linesOfStream(input, name)) {
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
