// Loading and packing a checkpoint against a plain read() of the same file into fresh memory, alternately in one process.
import { closeSync, openSync, readSync } from "node:fs";

function plainRead(file, bytes) {
  const start = performance.now();
  const memory = Buffer.allocUnsafeSlow(bytes); // fresh from the system: its pages are first touched by read()
  const fd = openSync(file, "r");
  for (let done = 0; done < bytes; ) done += readSync(fd, memory, done, bytes - done, done);
  closeSync(fd);
  return performance.now() - start;
}

export async function benchLoad({ loadModel }, { dir, file, bytes }, report, rounds = 5) {
  plainRead(file, bytes); // the page cache is warm for both
  let read = Number.POSITIVE_INFINITY;
  let load = Number.POSITIVE_INFINITY;
  for (let i = 0; i < rounds; ++i) {
    read = Math.min(read, plainRead(file, bytes));
    globalThis.gc?.();
    const start = performance.now();
    const model = await loadModel(dir);
    load = Math.min(load, performance.now() - start);
    await model[Symbol.asyncDispose]();
  }
  const rate = (ms) => bytes / 1e6 / ms;
  report({ bench: "load", name: `plain read() of ${(bytes / 1e6).toFixed(0)} MB`, value: rate(read), unit: "GB/s" });
  report({ bench: "load", name: "load and pack", value: rate(load), unit: "GB/s" });
  report({ bench: "load", name: "load / read", value: read / load, unit: "x", atLeast: 1.5 });
}
