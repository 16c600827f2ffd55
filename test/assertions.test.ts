// What a failing test prints: no assertion of a test says only that something is false.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  every,
  exists,
  includes,
  isError,
  none,
  ordered,
  rejects,
  sameBytes,
  some,
  startsWith,
} from "./helpers/assert.js";
import { root } from "./helpers/child.js";

const test = suite("assertions");

/** Assertions of a source file that would print neither what they received nor a message with values in it. */
function silent(source: string): string[] {
  const file = ts.createSourceFile("x.ts", source, ts.ScriptTarget.Latest, true);
  const found: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node) && saysNothing(node)) found.push(node.getText(file));
    ts.forEachChild(node, visit);
  };
  visit(file);
  return found;
}

function saysNothing(call: ts.CallExpression): boolean {
  const name = call.expression.getText();
  const [actual, second, third] = call.arguments;
  const truth = ["assert.ok", "assert.not", "assert.not.ok"].includes(name);
  const equality = ["assert.is", "assert.equal"].includes(name) && /^(true|false)$/.test(second?.getText() ?? "");
  if (!actual || (!truth && !equality)) return false;
  const message = truth ? second : third;
  return message === undefined || ts.isStringLiteral(message) || ts.isNoSubstitutionTemplateLiteral(message);
}

const files = readdirSync(join(root, "test"), { recursive: true, encoding: "utf8" }).filter((n) => n.endsWith(".ts"));

for (const name of files)
  test(`a failure prints what was received: ${name}`, () => {
    assert.equal(silent(readFileSync(join(root, "test", name), "utf8")), []);
  });

const examples: [what: string, source: string, count: number][] = [
  ["a condition", "assert.ok(a > b);", 1],
  ["a condition with a fixed message", 'assert.ok(list.every(even), "all are even");', 1],
  ["a condition with values in its message", "assert.ok(a > b, String(a));", 0],
  ["a comparison with true", "assert.is(a === b, true);", 1],
  ["a comparison of values", "assert.is(a, b);", 0],
  ["a negation", "assert.not(existsSync(path));", 1],
];
for (const [what, source, count] of examples)
  test(`it is found out: ${what}`, () => assert.is(silent(source).length, count));

const messages: [what: string, fails: () => unknown, message: RegExp][] = [
  ["an order", () => ordered(3, "<", 2, "steps"), /^steps: expected 3 < 2$/],
  ["an order of NaN", () => ordered(Number.NaN, ">=", 0), /^expected NaN >= 0$/],
  ["a part of a text", () => includes("a cat", "dog"), /^expected "dog" in "a cat"$/],
  ["a member of a set", () => includes(new Set([1]), 2), /^expected 2 in Set\(1\) \{ 1 \}$/],
  ["the start of a text", () => startsWith("a cat", "b"), /^expected "b" at the start of "a cat"$/],
  ["all members", () => every([1, 2, 3], (n) => n !== 2), /^1 of 3 do not pass .*: \[1\] 2$/],
  ["some member", () => some([1, 3], (n) => n === 2), /^none of 2 passes .*: \[ 1, 3 \]$/],
  ["no member", () => none([1, 2], (n) => n === 2), /^expected none to pass .*: \[ 2 \]$/],
  ["a file", () => exists("/nowhere/at all"), /^expected \/nowhere\/at all to exist; \/ holds \[/],
  ["an error", () => isError(new TypeError("odd"), "IO"), /^expected IO but received TypeError: odd/],
  ["bytes", () => sameBytes(Buffer.from("abc"), Buffer.from("abd")), /they part at 2: "c", expected "d"$/],
];
for (const [what, fails, message] of messages) test(`it is printed: ${what}`, () => assert.throws(fails, message));

test("what holds passes", async () => {
  ordered(2, "<=", 2);
  includes(["a"], "a");
  startsWith("abc", "ab");
  every([], () => false);
  some([1], () => true);
  none([1], () => false);
  exists(root);
  sameBytes(Buffer.from("a"), Buffer.from("a"));
  await rejects(() => isError("no error", "IO"), "IO", /./, "x").catch((e) => startsWith(e.message, "x: expected IO"));
});

test.run();
