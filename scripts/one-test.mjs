// node --import <this file> test/FILE: of the file's tests, those that ISR_TEST_ONLY names, as [{"suite", "name"}]. What a suite does
// before its tests is done too, if it has one of them. Stands in for uvu: this module is what tests import then.
import { register } from "node:module";
import { isMainThread } from "node:worker_threads";

const wanted = JSON.parse(process.env.ISR_TEST_ONLY ?? "[]");

/** The hook, on Node's own thread for it. */
export async function resolve(specifier, context, next) {
  if (specifier !== "uvu" || context.parentURL === import.meta.url) return await next(specifier, context);
  return { url: import.meta.url, shortCircuit: true };
}

if (isMainThread) register(import.meta.url);
const uvu = isMainThread ? await import("uvu") : undefined;

export function suite(name, state) {
  const test = uvu.suite(name, state);
  let found = false;
  const add = (title, work) => {
    if (!wanted.some((one) => one.name === title && (!one.suite || one.suite === name))) return;
    found = true;
    test(title, work);
  };
  return Object.assign(add, test, { run: () => found && test.run() });
}
