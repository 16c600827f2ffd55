// The documentation stays true: files and scripts that it names exist, every error code has its row, the README's examples
// are the files in examples/, and those run.
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { exists, ordered } from "./helpers/assert.js";
import { renamings } from "../src/base/renamed.js";
import { readExamples, readPairs, readSamples } from "../src/index.js";
import { all, rowsFile } from "./helpers/data.js";
import { memoized } from "./helpers/memoized.js";

const top = dirname(dirname(fileURLToPath(import.meta.url)));
const read = (path: string) => readFileSync(join(top, path), "utf8");
const inFolder = (folder: string) =>
  readdirSync(join(top, folder))
    .filter((name) => name.endsWith(".md"))
    .map((name) => `${folder}/${name}`);
const pages = [
  "README.md",
  "CONTRIBUTING.md",
  "CHANGELOG.md",
  "native/README.md",
  ...inFolder("docs"),
  ...inFolder("docs/decisions"),
];
const checkpoint = join(top, "test/golden/text_llama/policy");
const example = (name: string) => read(`examples/${name}`).replace(/^\/\/.*\n/, "");

test("every page links to files that exist", () => {
  const broken: string[] = [];
  let links = 0;
  for (const page of pages)
    for (const [, target] of read(page).matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g)) {
      ++links;
      if (page === "README.md") broken.push(`${page}: ${target}: relative, and npm shows it elsewhere`);
      if (!existsSync(join(top, dirname(page), target!))) broken.push(`${page}: ${target}`);
    }
  const { homepage } = JSON.parse(read("package.json")) as { homepage: string };
  const own = homepage.replace(/#.*/, "").replace("https://github.com/", "");
  const inRepository = new RegExp(
    `(?:\\]\\(|\\]: )https://(?:github|raw\\.githubusercontent)\\.com/${own}/(?:blob/)?main/([^)#\\n]+)`,
    "g",
  );
  for (const page of pages)
    for (const [, target] of read(page).matchAll(inRepository)) {
      ++links;
      if (!existsSync(join(top, target!))) broken.push(`${page}: ${target}`);
    }
  const readme = read("README.md");
  for (const [, name] of readme.matchAll(/\]\[([^\]]+)\]/g))
    if (!readme.includes(`\n[${name}]: `)) broken.push(`README.md: [${name}] is not defined`);
  ordered(links, ">", 20, "links were found");
  assert.equal(broken, []);
});

test("every page names paths that exist", () => {
  const broken: string[] = [];
  const path =
    /`((?:native|src|test|bench|scripts|docs|examples|cmake|kernels|core|io|autograd|models|infer|train)\/[\w./-]*[\w/])`/g;
  for (const page of pages)
    for (const [, name] of read(page).matchAll(path)) {
      if (/^(build|train\/(metrics|timings|evaluation|step-))\b/.test(name!)) continue; // made, not kept
      if (!existsSync(join(top, name!)) && !existsSync(join(top, "native", name!))) broken.push(`${page}: ${name}`);
    }
  assert.equal(broken, []);
});

test("every npm script that a page names exists", () => {
  const { scripts } = JSON.parse(read("package.json"));
  const named = pages.flatMap((page) => [...read(page).matchAll(/npm run ([\w:]+)/g)].map(([, name]) => name!));
  ordered(named.length, ">", 10, "scripts were found");
  assert.equal(
    named.filter((name) => !(name in scripts)),
    [],
  );
});

test("every switch that a page or script names is read somewhere", () => {
  const tree = (folder: string) =>
    readdirSync(join(top, folder), { recursive: true, withFileTypes: true })
      .filter((e) => e.isFile() && /\.(ts|mjs|cc|cu|c|h)$/.test(e.name))
      .map((e) => readFileSync(join(e.parentPath ?? e.path, e.name), "utf8"));
  const named = [...pages.map(read), ...tree("scripts")]
    .flatMap((text) => text.match(/\bISR_DPO_[A-Z_]+\b/g) ?? [])
    .filter((name) => !name.startsWith("ISR_DPO_DEP_")); // the codes of warnings about old names
  const code = ["src", "native", "test", "bench"].flatMap(tree).join("\n");
  // or a warning's code, or where a library is looked for (core/library.h)
  const isRead = (name: string) =>
    new RegExp(`env\\.${name}\\b|getenv\\("${name}"\\)|code: "${name}"|"${name}", \\{"lib`).test(code);
  ordered(named.length, ">", 3, "switches were found");
  const byNodeGypBuild = "ISR_DPO_PREBUILD"; // node-gyp-build makes this name from that of the package
  assert.equal([...new Set(named)].filter((name) => name !== byNodeGypBuild && !isRead(name)).sort(), []);
});

test("every old name has a row with its new name and the code of its warning, and no other", () => {
  const [, table] = /\n## Deprecated names\n([\s\S]*)/.exec(read("docs/service.md")) ?? [];
  const rows = [
    ...(table ?? "").matchAll(/^\| `(?:tokenizer\.)?(\w+).*? \| `(?:tokenizer\.)?(\w+).* \| `(\w+)` \|$/gm),
  ];
  assert.equal(
    rows.map(([, old, now, code]) => [old, now, code]).sort(),
    Object.entries(renamings)
      .map(([old, { now, code }]) => [old, now, code])
      .sort(),
  );
});

test("every error code has a row, and no other", () => {
  const source = read("src/base/errors.ts");
  const codes = new Set([...source.matchAll(/^\s*(?:\| )?"([A-Z_]+)"/gm)].map(([, code]) => code!));
  const rows = read("docs/errors.md").split("\n");
  const documented = rows.flatMap((row) =>
    [...(/^\| (`.*?) \|/.exec(row)?.[1] ?? "").matchAll(/`([A-Z_]+)`/g)].map(([, c]) => c!),
  );
  ordered(codes.size, ">", 20, "codes were found");
  assert.equal(documented.sort(), [...codes].sort());
});

const fenced = (page: string, info: string) =>
  [...read(page).matchAll(new RegExp(`\`\`\`${info}\n([\\s\\S]*?)\`\`\``, "g"))].map(([, text]) => text!);

const readers: [kind: string, read: (path: string) => AsyncIterable<unknown>][] = [
  ["pairs", readPairs],
  ["examples", readExamples],
  ["samples", readSamples],
];
for (const [kind, reader] of readers)
  test(`the ${kind} that docs/data.md shows are read`, async () => {
    const blocks = fenced("docs/data.md", `jsonl ${kind}`);
    ordered(blocks.length, ">", 0, kind);
    for (const block of blocks) {
      const rows = block.trim().split("\n");
      assert.is((await all(reader(rowsFile(rows)))).length, rows.length, block);
    }
  });

test("the bad rows that docs/data.md shows are refused in its words", async () => {
  const [refused] = fenced("docs/data.md", "jsonl pairs refused");
  const [messages] = fenced("docs/data.md", "text");
  const good = { video: "v.mp4", prompt: "p", chosen: "c", rejected: "r" };
  const skipped: string[] = [];
  const file = rowsFile([...refused!.trim().split("\n"), good]);
  const kept = await all(
    readPairs(file, { format: "hound", onBadRow: "skip", onSkip: ({ message }) => skipped.push(message) }),
  );
  assert.is(kept.length, 1);
  const shown = messages!.trim().split("\n");
  assert.is(skipped.length, shown.length);
  for (const [i, message] of skipped.entries()) {
    const [begin, open] = shown[i]!.split(/\.\.\.$/); // what JSON.parse says differs between versions of Node
    const told = message.slice(dirname(file).length + 1);
    assert.is(open === undefined ? told : told.slice(0, begin!.length), begin);
  }
});

test("docs/training.md names every metric and file of a run", () => {
  const page = read("docs/training.md");
  const fields = (source: string, name: string) =>
    [...new RegExp(`interface ${name}[^{]*{([\\s\\S]*?)\n}`).exec(read(source))![1]!.matchAll(/^ {2}(\w+)[?]?:/gm)].map(
      ([, key]) => key!,
    );
  const metrics = [
    ...fields("src/train/trainer.ts", "StepMetrics"),
    ...fields("src/train/run-events.ts", "RunStepMetrics"),
  ];
  ordered(metrics.length, ">", 20);
  assert.equal(
    metrics.filter((key) => !page.includes(`\`${key}\``)),
    [],
  );
});

test("the README shows the examples as they are", () => {
  const blocks = [...read("README.md").matchAll(/```js\n([\s\S]*?)```/g)].map(([, code]) => code!);
  assert.equal(blocks, [example("iterate.mjs")]);
});

const measuredSeeds = memoized(() => {
  const seeds = [...read("bench/results/2026-11-25-world.txt").matchAll(/, seed \d+: (.*)/g)].map(
    ([, figures]) => new Map([...figures!.matchAll(/([a-z ]+) (\d+\.\d)/g)].map(([, name, x]) => [name!.trim(), +x!])),
  );
  assert.is(seeds.length, 10);
  return seeds;
});
const difference = (a: string, b: string): [mean: number, error: number] => {
  const each = measuredSeeds().map((figures) => figures.get(a)! - figures.get(b)!);
  const mean = each.reduce((x, y) => x + y) / each.length;
  const squares = each.reduce((sum, x) => sum + (x - mean) ** 2, 0);
  return [mean, Math.sqrt(squares / (each.length - 1) / each.length)];
};
const designs: [row: string, design: string][] = [
  ...["retrospective", "fixed", "renew", "none"].map((name): [string, string] => [`\`${name}\``, name]),
  ["another clip", "wrong caption"],
  ["a random judge", "random judge"],
  ["knows the truth", "truth judge"],
];
for (const [row, design] of designs)
  test(`the README's gains and their standard errors are those of the measured seeds: ${design}`, () => {
    const table = read("README.md")
      .split("\n")
      .filter((line) => line.includes(" ± "));
    const shown = table.find((line) => line.includes(row))!.matchAll(/(-?\d+\.\d) ± (\d+\.\d)/g);
    const measured = [difference(design, "start"), difference("retrospective", design)];
    for (const [i, [, ...pair]] of [...shown].entries())
      for (const [j, value] of pair.entries())
        assert.ok(Math.abs(+value! - measured[i]![j]!) < 0.051, `${row}: ${value}, measured ${measured[i]![j]}`);
  });

const examples = readdirSync(join(top, "examples")).filter((name) => name.endsWith(".mjs"));
const wrongArguments: [what: string, args: string[]][] = [
  ["none", []],
  ["an empty one", [""]],
  ["--help", ["--help"]],
  ["too many", ["a", "b", "c", "d"]],
];
for (const name of examples)
  for (const [what, args] of wrongArguments)
    test(`examples/${name} with wrong arguments (${what}): its usage, and nothing is written`, () => {
      const cwd = mkdtempSync(join(tmpdir(), "isr-dpo-usage-"));
      const ended = spawnSync(process.execPath, [join(top, "examples", name), ...args], {
        cwd,
        encoding: "utf8",
        timeout: 60_000,
      });
      assert.is(ended.status, 2, ended.stderr);
      assert.match(ended.stderr, new RegExp(`^usage: node .*${name} [A-Z]`, "m"));
      assert.is(ended.stdout, "");
      assert.equal(readdirSync(cwd), []);
      rmSync(cwd, { recursive: true });
    });

test("the examples run", () => {
  const dir = mkdtempSync(join(tmpdir(), "isr-dpo-examples-"));
  const run = (name: string, ...args: string[]) =>
    execFileSync(process.execPath, [join(top, "examples", name), checkpoint, ...args], { encoding: "utf8" });
  try {
    assert.match(run("generate.mjs"), /^copy 0: \d+( \d+)* \((stop|length), first token -\d+\.\d{3} nats\)$/m);
    const lines = run("train.mjs", join(dir, "model"));
    assert.match(lines, /^step \d: loss 0\.693147, margin 0\.000$/m);
    assert.match(lines, /^saved \d+ bytes$/m);
    exists(join(dir, "model/model.safetensors"));
    const iterate = [join(top, "examples/iterate.mjs"), join(dir, "iterate")];
    const told = execFileSync(process.execPath, iterate, { encoding: "utf8" });
    assert.match(told, /^step 0: loss 0\.6931\n/);
    assert.match(told, /\n\d+ pairs of 32 samples; model 2 is in .*iterations.1.model\n$/);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("Ctrl-C stops examples/iterate.mjs, and the same command goes on", async () => {
  const dir = mkdtempSync(join(tmpdir(), "isr-dpo-stopped-"));
  const start = () => {
    const child = spawn(process.execPath, [join(top, "examples/iterate.mjs"), dir]);
    const told = { out: "", err: "" };
    child.stdout.setEncoding("utf8").on("data", (text: string) => (told.out += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (told.err += text));
    return { child, told, ended: once(child, "close") };
  };
  try {
    const first = start();
    await once(first.child.stdout, "data"); // a step
    first.child.kill("SIGINT");
    assert.equal(await first.ended, [130, null], first.told.err);
    assert.match(first.told.out, /stopped; the same command goes on from there\n$/);
    assert.is(first.told.err, "");
    const second = start();
    assert.equal(await second.ended, [0, null], second.told.err);
    assert.match(second.told.out, /\n\d+ pairs of 32 samples; model 2 is in /);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

/** The service example in a process of its own, and what it says to a body that is posted. */
const service = memoized(async () => {
  const server = spawn(process.execPath, [join(top, "examples/service.mjs"), join(top, "models/world"), "0"]);
  process.on("exit", () => server.kill());
  const ended = once(server, "exit");
  const [line] = await once(server.stdout.setEncoding("utf8"), "data");
  const url = `http://127.0.0.1:${/listening on (\d+)/.exec(line)?.[1]}`;
  const post = async (body: string) => {
    const response = await fetch(url, { method: "POST", body });
    const said = (await response.json()) as Record<string, unknown>;
    return { ...said, status: response.status } as Record<string, unknown>;
  };
  return { server, ended, post };
});

test("the service example answers ids", async () => {
  const answer = await (await service()).post('{"ids":[1,2,3]}');
  assert.is(answer.status, 200);
  ordered((answer.ids as number[]).length, ">", 0);
});

test("the service example answers words", async () => {
  const { status, text, finishReason } = await (await service()).post('{"text":"what happens ?"}');
  assert.equal([status, finishReason], [200, "stop"]);
  assert.match(String(text), /^[a-z .]+$/);
});

const refusedBodies: [what: string, body: string, status: number, code: string | undefined][] = [
  ["an id that is none", '{"ids":[1,1000000]}', 400, "INVALID_ARGUMENT"],
  ["a long text", JSON.stringify({ text: "what ".repeat(2000) }), 400, "CONTEXT_OVERFLOW"],
  ["no JSON", "{oops", 400, undefined],
  ["null", "null", 400, undefined],
  ["another key", '{"words":"what"}', 400, undefined],
  ["ids and words", '{"ids":[1],"text":"what"}', 400, undefined],
];
for (const [what, body, status, code] of refusedBodies)
  test(`the service example says what was wrong: ${what}`, async () => {
    const said = await (await service()).post(body);
    assert.equal([said.status, said.code], [status, code], body.slice(0, 40));
    assert.type(said.message, "string", body.slice(0, 40));
  });

test("the service example ends in order", async () => {
  const { server, ended } = await service();
  server.kill();
  assert.equal(await ended, [0, null]);
});

test.run();
