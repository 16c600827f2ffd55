// isr-dpo config show|schema: the resolved values of a configuration file, and the keys that it may hold.
import { Command, Option } from "commander";
import { colours } from "./exit-code.js";
import { setOption } from "./flags.js";
import { printable } from "./terminal.js";

interface ShowFlags {
  kind?: "train" | "run";
  set: string[];
  json?: boolean;
}

async function show(file: string, flags: ShowFlags): Promise<void> {
  const { kindOf, readConfig, settingsOf, leavesOf } = await import("../config/read-config.js");
  const kind = flags.kind ?? (await kindOf(file));
  const { config, sources } = await readConfig(file, kind, settingsOf(flags.set));
  const { unusedKeys } = await import("../config/unused-keys.js");
  const unused = unusedKeys(kind, config);
  if (flags.json) {
    console.log(JSON.stringify({ kind, config, sources: Object.fromEntries(sources), unused }, null, 2));
    return;
  }
  const c = colours(process.stdout);
  const rows = [...leavesOf(config)].map(
    ([key, value]) => [key, JSON.stringify(value), sources.get(key) ?? ""] as const,
  );
  const widths = [0, 1].map((i) => Math.min(60, Math.max(...rows.map((row) => row[i]!.length))));
  for (const [key, value, source] of rows) {
    const text = printable(`${key.padEnd(widths[0]!)}  ${value.padEnd(widths[1]!)}  ${source}`);
    const why = unused.find((u) => u.key === key)?.why;
    const told = why === undefined ? text : `${text}  ${c.yellow(`no effect: ${printable(why)}`)}`;
    console.log(source === "default" ? c.dim(told) : told);
  }
}

const kindOption = () =>
  new Option("--kind <kind>", "train: of `train sft|dpo`; run: of `run`").choices(["train", "run"]);

export function configCommand(): Command {
  return new Command("config")
    .description("show configuration files and their keys")
    .addCommand(
      new Command("show")
        .description("print a file with every default filled in, and where each value comes from")
        .argument("<config>", "configuration file (YAML)")
        .addOption(kindOption().default(undefined, "by its keys"))
        .addOption(setOption())
        .option("--json", "print JSON")
        .exitOverride()
        .action(show),
    )
    .addCommand(
      new Command("schema")
        .description("print the JSON Schema of such files, for editors")
        .addOption(kindOption().default("run"))
        .exitOverride()
        .action(async ({ kind }: { kind: "train" | "run" }) => {
          const { jsonSchema } = await import("../config/schema.js");
          console.log(JSON.stringify(jsonSchema(kind), null, 2));
        }),
    )
    .exitOverride();
}
