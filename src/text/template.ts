// A chat template as the rest of the package sees it; the interpreter that renders it is loaded with the first tokenizer.
import type { Message } from "../base/types.js";

export interface ChatTemplate {
  readonly source: string;
  /** Names of templates that stand beside it and are not used, such as tool_use. */
  readonly others?: readonly string[];
  /**
   * The text of a conversation; `generate` adds what opens the assistant's next turn. Throws TOKENIZER with the template's
   * own message when it refuses the conversation, and when it does not know how to render contents given as parts.
   */
  render(messages: readonly Message[], o: { generate: boolean }): string;
}

/** What can be done where a template is missing or cannot be used. */
export const withoutTemplate =
  "put a chat template that can be used beside the tokenizer (chat_template.jinja); prompts as ids need none";
