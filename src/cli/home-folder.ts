// `~` in paths of the command line: a shell does not expand it in --run-dir=~/x or inside of quotes.
import type { Command } from "commander";
import { fromHome } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";

const names = /^(dir|file|config|run)\b/; // of the values that are paths, in the usage of a command

function placed(name: string, value: unknown): unknown {
  if (Array.isArray(value)) return value.map((each) => placed(name, each));
  if (typeof value !== "string") return value;
  const path = fromHome(value);
  if (path !== null) return path;
  throw new IsrDpoError("INVALID_ARGUMENT", `${name}: expected a path, got ${JSON.stringify(value)}`, {
    hint: "write the folder in full, or ./~name for a folder of that name",
    detail: { field: name },
  });
}

/** Puts the home folder in place of `~` in a command's paths: options with <dir> or <file>, and its arguments. */
export function expandHome(command: Command): void {
  for (const option of command.options) {
    if (!names.test(/<(.+)>/.exec(option.flags)?.[1] ?? "")) continue;
    const key = option.attributeName();
    const value = command.getOptionValue(key);
    command.setOptionValueWithSource(key, placed(option.long ?? key, value), command.getOptionValueSource(key));
  }
  for (const [i, argument] of command.registeredArguments.entries())
    if (names.test(argument.name())) command.processedArgs[i] = placed(argument.name(), command.processedArgs[i]);
}
