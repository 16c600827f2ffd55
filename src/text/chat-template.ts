// Chat templates: the checkpoint's Jinja template, which is given the messages as plain data and the special tokens by name.
import { IsrDpoError } from "../base/errors.js";
import type { Message } from "../base/types.js";
import { type ChatTemplate, withoutTemplate } from "./template.js";
import { strftime, type WallClock } from "./template-date.js";
import { compile, JinjaFault, type Template } from "./jinja/index.js";

/** Characters of a template. */
export const maxTemplate = 1 << 20;

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

const probe = "probe-5d1c";

/** What is wrong with a template, and where; what does not need it works all the same. */
export function templateFault(path: string, line: number, what: string, hint: string, cause?: unknown): IsrDpoError {
  const at = line > 0 ? `${path}:${line}` : path;
  return new IsrDpoError("TOKENIZER", `${at}: the chat template ${what}`, {
    hint,
    path,
    ...(cause === undefined ? {} : { cause }),
  });
}

function failed(path: string, e: unknown): IsrDpoError {
  if (!(e instanceof JinjaFault)) throw e;
  if (e.raised)
    return templateFault(
      path,
      e.line,
      `says: ${e.message}`,
      "give the conversation in the form that this model was trained on",
      e,
    );
  return templateFault(path, e.line, `cannot render the conversation: ${e.message}`, withoutTemplate, e);
}

function compiled(path: string, source: string, clock: WallClock): Template {
  if (source.length > maxTemplate)
    throw templateFault(
      path,
      0,
      `is too long: expected at most ${maxTemplate} characters, got ${source.length}`,
      withoutTemplate,
    );
  try {
    return compile(source, (format) => strftime(format, clock));
  } catch (e) {
    if (!(e instanceof JinjaFault)) throw e;
    throw templateFault(path, e.line, `cannot be used: ${e.message}`, withoutTemplate, e);
  }
}

/**
 * Compiles a template. `specials` are the tokens that it may name: bos_token, eos_token, ...; `clock` is what strftime_now
 * prints. Throws TOKENIZER with the file, the line and the construct that cannot be used.
 */
export function compileTemplate(
  path: string,
  source: string,
  specials: Readonly<Record<string, string>>,
  clock: WallClock,
): ChatTemplate {
  const template = compiled(path, source, clock);
  const run = (messages: PlainMessage[], generate: boolean): string => {
    try {
      const data = { messages, add_generation_prompt: generate, tools: null, documents: null };
      return template.render({ ...specials, ...data });
    } catch (e) {
      throw failed(path, e);
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
