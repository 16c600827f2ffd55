// A conversation line by line: each line is a turn, lines that begin with a slash are commands.
import { createInterface } from "node:readline";
import { nearest } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import { report } from "./exit-code.js";
import { Interrupted } from "./interrupt.js";
import { say } from "./terminal.js";

/** What the command line or a /video line names. */
export interface Attachment {
  kind: "video" | "image";
  path: string;
}

/** What a line can ask for. */
export interface Turns {
  ask(prompt: string, signal: AbortSignal): Promise<void>;
  attach(medium: Attachment, signal: AbortSignal): Promise<void>;
  reset(): Promise<void>;
}

const commands = ["video", "image", "reset", "help", "exit"];
const help = `/video FILE, /image FILE   attach to the next turn
/reset                     forget all turns
/exit, Ctrl-D              leave; Ctrl-C stops an answer, then leaves`;

/** A line that begins with a slash and a word, and what follows it. */
export const commandOf = (line: string): readonly (string | undefined)[] =>
  /^\/([A-Za-z]+)(?:\s+(.*))?$/s.exec(line.trimEnd()) ?? [];

/** Does what a line says; false: leave. */
async function obey(conversation: Turns, line: string, signal: AbortSignal): Promise<boolean> {
  const [, command, rest] = commandOf(line);
  if (command === undefined) {
    await conversation.ask(line, signal);
    return true;
  }
  if (command === "exit") return false;
  if (command === "help") say(help);
  else if (command === "reset") await conversation.reset();
  else if (command === "video" || command === "image") {
    if (!rest) throw new IsrDpoError("INVALID_ARGUMENT", `/${command}: expected the path of a file, got nothing`);
    await conversation.attach({ kind: command, path: rest }, signal);
  } else {
    const meant = nearest(command, commands);
    throw new IsrDpoError("INVALID_ARGUMENT", `expected a command, got /${command}`, {
      hint: meant ? `did you mean /${meant}?` : `commands: ${commands.map((c) => `/${c}`).join(", ")}`,
    });
  }
  return true;
}

/**
 * Reads turns from stdin until it ends, /exit, or a Ctrl-C while nothing is answered (then it throws Interrupted). On a
 * terminal a turn that fails is reported and the conversation goes on; in a pipe it ends the command.
 */
export async function converse(conversation: Turns): Promise<void> {
  const terminal = process.stdin.isTTY === true && process.stderr.isTTY === true;
  const lines = createInterface({
    input: process.stdin,
    output: process.stderr,
    terminal,
    prompt: terminal ? "> " : "",
  });
  let turn: AbortController | undefined;
  let interrupted = false;
  let closed = false;
  const interrupt = () => {
    if (turn && !turn.signal.aborted) return turn.abort(new Interrupted("stopped"));
    interrupted = true;
    lines.close();
  };
  const work = async (line: string): Promise<boolean> => {
    turn = new AbortController();
    try {
      return await obey(conversation, line, turn.signal);
    } catch (e) {
      if (e instanceof Interrupted) say("(stopped)");
      else if (terminal) report(e);
      else throw e;
      return true;
    } finally {
      turn = undefined;
    }
  };
  lines.on("close", () => {
    closed = true;
  });
  lines.on("SIGINT", interrupt);
  process.on("SIGINT", interrupt);
  try {
    if (terminal) say("a line is a turn; /help lists commands");
    lines.prompt();
    for await (const line of lines) {
      if (interrupted || (line.trim() !== "" && !(await work(line)))) break;
      if (terminal && !closed) lines.prompt();
    }
  } finally {
    process.off("SIGINT", interrupt);
    lines.close();
  }
  if (interrupted) throw new Interrupted("interrupted");
}
