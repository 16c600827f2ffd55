// A row of a table is a test with a name: a loop over rows inside one test stops at the first that fails, which hides the
// others, and what failed is the whole table.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { root } from "./helpers/child.js";

const test = suite("rows");

/** Tests with such a loop whose rows are one case together, and why they are. */
const exceptions: Readonly<Record<string, string>> = {
  "train-run.test.ts: stopped again and again, a run goes on, and says what it resumed":
    "each row goes on with the run that the row before it has stopped",
};

/** What an expression says without `as`, `satisfies`, `!` and parentheses. */
function bare(e: ts.Expression): ts.Expression {
  if (ts.isAsExpression(e) || ts.isParenthesizedExpression(e) || ts.isSatisfiesExpression(e)) return bare(e.expression);
  return ts.isNonNullExpression(e) ? bare(e.expression) : e;
}

function each(node: ts.Node, see: (node: ts.Node) => void): void {
  see(node);
  ts.forEachChild(node, (child) => each(child, see));
}

/** Names by which a file asserts: of the libraries, and of its own functions that call one of those. */
function assertionsOf(file: ts.SourceFile): Set<string> {
  const names = new Set(["assert"]);
  const own: [name: string, body: ts.Node][] = [];
  each(file, (node) => {
    if (ts.isImportDeclaration(node) && /helpers\/assert/.test(node.moduleSpecifier.getText(file)))
      for (const name of node.importClause?.namedBindings?.getText(file).match(/\w+/g) ?? []) names.add(name);
    if (ts.isFunctionDeclaration(node) && node.name) own.push([node.name.text, node]);
    if (ts.isVariableDeclaration(node) && node.initializer && ts.isArrowFunction(node.initializer))
      own.push([node.name.getText(file), node.initializer]);
  });
  for (let before = 0; before !== names.size; ) {
    before = names.size;
    for (const [name, body] of own) if (asserts(body, names)) names.add(name);
  }
  return names;
}

function asserts(body: ts.Node, names: ReadonlySet<string>): boolean {
  let found = false;
  each(body, (node) => {
    if (ts.isCallExpression(node)) found ||= names.has(node.expression.getText().split(".")[0]!);
  });
  return found;
}

interface Loop {
  rows: ts.Expression;
  row: ts.BindingName | undefined;
  body: ts.Node;
}

/** for (const row of rows), for (const [i, row] of rows.entries()) and rows.forEach((row) => ...). */
function loopOf(node: ts.Node): Loop | undefined {
  if (ts.isForOfStatement(node) && ts.isVariableDeclarationList(node.initializer)) {
    const row = node.initializer.declarations[0]!.name;
    const rows = bare(node.expression);
    const called = ts.isCallExpression(rows) && ts.isPropertyAccessExpression(rows.expression) ? rows.expression : null;
    if (called?.name.text !== "entries") return { rows, row, body: node.statement };
    const second = ts.isArrayBindingPattern(row) ? row.elements[1] : undefined;
    const inner = second && ts.isBindingElement(second) ? second.name : undefined;
    return { rows: bare(called.expression), row: inner, body: node.statement };
  }
  if (!ts.isCallExpression(node) || !ts.isPropertyAccessExpression(node.expression)) return undefined;
  const [body] = node.arguments;
  if (node.expression.name.text !== "forEach" || !body || !ts.isArrowFunction(body)) return undefined;
  return { rows: bare(node.expression.expression), row: body.parameters[0]?.name, body };
}

/** Names of the tests of a file that assert in a loop over a list of rows, written in that file, each taken apart. */
function tablesIn(source: string): string[] {
  const file = ts.createSourceFile("x.ts", source, ts.ScriptTarget.Latest, true);
  const names = assertionsOf(file);
  const lists = new Map<string, ts.Expression>();
  each(file, (node) => {
    if (ts.isVariableDeclaration(node) && node.initializer) lists.set(node.name.getText(), bare(node.initializer));
  });
  const isTable = ({ rows, row, body }: Loop) => {
    const list = ts.isIdentifier(rows) ? lists.get(rows.text) : rows;
    const several = list && ts.isArrayLiteralExpression(list) && list.elements.length > 1;
    const apart = row && ts.isArrayBindingPattern(row) && row.elements.length > 1;
    return several && apart && asserts(body, names);
  };
  const found: string[] = [];
  each(file, (node) => {
    if (!ts.isCallExpression(node) || node.arguments.length !== 2) return;
    const [name, body] = node.arguments as unknown as [ts.Expression, ts.Expression];
    if (!ts.isStringLiteralLike(name) && !ts.isTemplateExpression(name)) return;
    if (!ts.isArrowFunction(body)) return;
    let tables = 0;
    each(body.body, (inner) => {
      const loop = loopOf(inner);
      if (loop && isTable(loop)) tables++;
    });
    if (tables > 0) found.push(name.getText().slice(1, -1));
  });
  return found;
}

const files = readdirSync(join(root, "test")).filter((name) => name.endsWith(".test.ts"));
const loops = files.map((name) => ({ name, tests: tablesIn(readFileSync(join(root, "test", name), "utf8")) }));

for (const { name, tests } of loops)
  test(`a row is a test: ${name}`, () => {
    assert.equal(
      tests.filter((each) => exceptions[`${name}: ${each}`] === undefined),
      [],
    );
  });

test("no exception is left over", () => {
  const used = loops.flatMap(({ name, tests }) => tests.map((each) => `${name}: ${each}`));
  assert.equal(
    Object.keys(exceptions).filter((key) => !used.includes(key)),
    [],
  );
});

const table = "const rows = [[1, 2], [3, 4]] as const;";
const examples: [what: string, source: string, found: string[]][] = [
  ["rows in a test", `${table} test("t", () => { for (const [a, b] of rows) assert.is(a, b); });`, ["t"]],
  ["rows written there", `test("t", () => { for (const [a, b] of [[1, 2], [3, 4]]) assert.is(a, b); });`, ["t"]],
  [
    "rows and their places",
    `${table} test("t", () => { for (const [i, [a, b]] of rows.entries()) assert.is(a, b); });`,
    ["t"],
  ],
  ["forEach", `${table} test("t", async () => rows.forEach(([a, b]) => assert.is(a, b)));`, ["t"]],
  [
    "a function that asserts",
    `${table} const same = (a, b) => assert.is(a, b); test("t", () => { for (const [a, b] of rows) same(a, b); });`,
    ["t"],
  ],
  [
    "an assertion of the helpers",
    `import { ordered } from "./helpers/assert.js"; ${table} test("t", () => { for (const [a, b] of rows) ordered(a, "<", b); });`,
    ["t"],
  ],
  ["a test for each row", `${table} for (const [a, b] of rows) test(\`\${a}\`, () => assert.is(a, b));`, []],
  ["rows that prepare", `${table} test("t", () => { for (const [a, b] of rows) put(a, b); assert.is(1, 1); });`, []],
  ["members of what was found", `test("t", () => { for (const [a, b] of found()) assert.is(a, b); });`, []],
  ["a list of one thing each", `test("t", () => { for (const name of ["a", "b"]) assert.is(name, name); });`, []],
];
for (const [what, source, found] of examples)
  test(`it is found out: ${what}`, () => assert.equal(tablesIn(source), found));

test.run();
