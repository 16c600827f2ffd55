// Jinja chat templates. A template comes with a checkpoint and is not trusted: its size, the steps of a rendering and the
// sizes of what it builds are bounded, and it sees nothing but the messages as plain data and the special tokens.
import { IsrDpoError } from "../errors.js";
import type { Message } from "../types.js";
import { strftime, type WallClock } from "./date.js";
import { tokenizerError } from "./files.js";

export const templateLimits = {
  characters: 1 << 20,
  blanks: 1000,
  steps: 300_000,
  items: 10_000,
  text: 64 << 20,
} as const;

export interface ChatTemplate {
  readonly source: string;
  /**
   * The text of a conversation; `generate` adds what opens the assistant's next turn. Throws TOKENIZER with the template's
   * own message when it refuses the conversation, and when it does not know how to render contents given as parts.
   */
  render(messages: readonly Message[], o: { generate: boolean }): string;
}

type PlainPart = { type: "text"; text: string } | { type: "video" | "image" };
type PlainMessage = { role: string; content: string | PlainPart[] };

/** Messages as a template sees them. */
function plain(messages: readonly Message[]): PlainMessage[] {
  return messages.map(({ role, content }) => ({
    role,
    content:
      typeof content === "string"
        ? content
        : content.map((part) => (part.type === "text" ? { type: "text", text: part.text } : { type: part.type })),
  }));
}

function range(...given: unknown[]): number[] {
  const numbers = given.filter((x) => typeof x === "number");
  const [start, stop, step] = numbers.length > 1 ? numbers : [0, numbers[0]];
  const by = step ?? 1;
  if (stop === undefined || !Number.isFinite(start) || !Number.isFinite(stop) || !(Math.abs(by) >= 1))
    throw new Error("range: expected whole numbers");
  const length = Math.max(0, Math.ceil((stop - start!) / by));
  if (length > templateLimits.items) throw new Error(`range: more than ${templateLimits.items} numbers`);
  return Array.from({ length }, (_, i) => start! + i * by);
}

/** What of @huggingface/jinja is used; its own declarations do not resolve under "nodenext". */
interface Jinja {
  Template: new (source: string) => { parsed: unknown };
  Environment: new () => { set(name: string, value: unknown): unknown };
  Interpreter: new (
    env: unknown,
  ) => { run(program: unknown): { value: unknown }; evaluate(node: unknown, env: unknown): { value?: unknown } };
}

/** Runs a parsed template with its budget. */
function boundedInterpreter({ Interpreter }: Jinja) {
  return class extends Interpreter {
    steps = 0;

    override evaluate(node: unknown, env: unknown): { value?: unknown } {
      if (++this.steps > templateLimits.steps) throw new Error(`more than ${templateLimits.steps} steps`);
      const result = super.evaluate(node, env);
      const { value } = result;
      if (Array.isArray(value)) this.steps += value.length / 100;
      if (typeof value === "string" && value.length > templateLimits.text)
        throw new Error(`a text of more than ${templateLimits.text} characters`);
      if (Array.isArray(value) && value.length > templateLimits.items)
        throw new Error(`a list of more than ${templateLimits.items} items`);
      return result;
    }
  };
}

/** What every template may name. */
const globals = {
  ...{ true: true, false: false, none: null, True: true, False: false, None: null },
  range,
  raise_exception(message: unknown) {
    throw new Error(String(message));
  },
};

const probe = "probe-5d1c";

function checkSize(path: string, source: string): void {
  if (source.length > templateLimits.characters)
    throw tokenizerError(
      path,
      `expected a template of at most ${templateLimits.characters} characters, got ${source.length}`,
    );
  // The lexer's time is quadratic in a run of white space.
  if (new RegExp(`\\s{${templateLimits.blanks}}`).test(source))
    throw tokenizerError(
      path,
      `expected fewer than ${templateLimits.blanks} blanks in a row in the template, got more`,
    );
}

/**
 * Compiles a template. `specials` are the tokens that it may name: bos_token, eos_token, ...; `clock` is what strftime_now
 * prints.
 */
export async function compileTemplate(
  path: string,
  source: string,
  specials: Readonly<Record<string, string>>,
  clock: WallClock,
): Promise<ChatTemplate> {
  checkSize(path, source);
  const jinja = (await import("@huggingface/jinja")) as unknown as Jinja;
  const Interpreter = boundedInterpreter(jinja);
  const failed = (e: unknown) =>
    new IsrDpoError("TOKENIZER", `${path}: the chat template says: ${e instanceof Error ? e.message : e}`, {
      hint: "give the conversation in the form that this model was trained on",
      path,
      cause: e,
    });
  let parsed: unknown;
  try {
    parsed = new jinja.Template(source).parsed;
  } catch (e) {
    throw failed(e);
  }
  const run = (messages: PlainMessage[], generate: boolean): string => {
    try {
      const env = new jinja.Environment();
      const strftime_now = (format: unknown) => strftime(String(format), clock);
      const data = { strftime_now, messages, add_generation_prompt: generate, tools: null, documents: null };
      for (const [key, value] of Object.entries({ ...globals, ...specials, ...data })) env.set(key, value);
      return String(new Interpreter(env).run(parsed).value);
    } catch (e) {
      throw failed(e);
    }
  };
  let knowsParts: boolean | undefined;
  const requireParts = () => {
    knowsParts ??= (() => {
      const text = run([{ role: "user", content: [{ type: "text", text: probe }] }], false);
      return text.includes(probe) && !/["']text["']/.test(text);
    })();
    if (!knowsParts)
      throw new IsrDpoError(
        "TOKENIZER",
        `${path}: expected a chat template that renders contents given as parts, got one that takes strings only`,
        {
          hint: "give each message's content as a string, or use the chat template of the model's processor",
          path,
        },
      );
  };
  return {
    source,
    render(messages, { generate }) {
      const data = plain(messages);
      if (data.some(({ content }) => typeof content !== "string")) requireParts();
      return run(data, generate);
    },
  };
}
