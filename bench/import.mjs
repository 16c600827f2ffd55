// What `import "isr-dpo"` costs: time beyond importing an empty module, threads started, GPU libraries touched.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const probe = `
import { readFileSync, readdirSync } from "node:fs";
const threads = () => readdirSync("/proc/self/task").length;
const before = threads(), start = performance.now();
await import(process.argv[2]);
const ms = performance.now() - start;
console.log(JSON.stringify({ ms, threads: threads() - before, gpu: /libcuda|libnvidia|\\/dev\\/nvidia/.test(readFileSync("/proc/self/maps", "utf8")) }));`;

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

export function benchImport(root, report, rounds = 15) {
  const dir = mkdtempSync(join(tmpdir(), "isr-dpo-import-"));
  try {
    writeFileSync(join(dir, "probe.mjs"), probe);
    writeFileSync(join(dir, "empty.mjs"), "export {};\n");
    const ask = (file) =>
      JSON.parse(
        execFileSync(process.execPath, [join(dir, "probe.mjs"), pathToFileURL(file).href], { encoding: "utf8" }),
      );
    const empty = [];
    const full = [];
    for (let i = 0; i < rounds; ++i) {
      empty.push(ask(join(dir, "empty.mjs")));
      full.push(ask(join(root, "dist/index.js")));
    }
    const added = median(full.map((r) => r.ms)) - median(empty.map((r) => r.ms));
    report({ bench: "import", name: "time beyond an empty module", value: added, unit: "ms", atMost: 60 });
    const threads = Math.max(...full.map((r) => r.threads)) - Math.max(...empty.map((r) => r.threads));
    report({ bench: "import", name: "threads started", value: threads, unit: "", atMost: 0 });
    report({
      bench: "import",
      name: "GPU libraries mapped",
      value: full.some((r) => r.gpu) ? 1 : 0,
      unit: "",
      atMost: 0,
    });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
