// Threads and loaded addons before the import, after it, and after the first use.
import { readdirSync, readFileSync } from "node:fs";

const look = () => ({
  threads: readdirSync("/proc/self/task").length,
  addons: [...new Set(readFileSync("/proc/self/maps", "utf8").match(/\S+isr[_-]dpo\S*\.node/g) ?? [])],
});

const before = look();
await import("../../src/index.js");
const native = await import("../../src/native.js");
const imported = look();
const one = [Float32Array.of(-1)];
native.dpoLoss(one, one, one, one);
console.log(JSON.stringify({ before, imported, used: look() }));
