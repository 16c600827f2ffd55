// Every export of the package and every member of what it exports says what it is: asked of the compiler.
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { suite } from "uvu";
import * as assert from "uvu/assert";

const test = suite("docstrings");
const top = dirname(dirname(fileURLToPath(import.meta.url)));
const entries = ["src/index.ts", "src/native.ts", "src/synthetic/index.ts"].map((file) => join(top, file));

/** A program of the package and of more files that stand nowhere, which import it by its name. */
function programOf(more: ReadonlyMap<string, string>): ts.Program {
  const options: ts.CompilerOptions = {
    ...{
      module: ts.ModuleKind.ESNext,
      moduleResolution: ts.ModuleResolutionKind.Bundler,
      target: ts.ScriptTarget.ES2022,
    },
    ...{ lib: ["lib.es2023.d.ts", "lib.esnext.disposable.d.ts"], types: ["node"] },
    ...{ strict: true, noEmit: true, skipLibCheck: true, paths: { "isr-dpo": [entries[0]!] } },
  };
  const host = ts.createCompilerHost(options);
  const { fileExists, getSourceFile } = host;
  host.fileExists = (file) => more.has(file) || fileExists(file);
  host.getSourceFile = (file, language, ...rest) => {
    const text = more.get(file);
    return text === undefined ? getSourceFile(file, language, ...rest) : ts.createSourceFile(file, text, language);
  };
  return ts.createProgram([...entries, ...more.keys()], options, host);
}

const program = programOf(new Map());
const checker = program.getTypeChecker();

const isOurs = (node: ts.Node) => {
  const file = node.getSourceFile().fileName;
  return file.startsWith(join(top, "src")) && !file.includes("node_modules");
};

const said = (node: ts.Node): boolean => {
  const text = node.getSourceFile().text;
  const ranges = ts.getLeadingCommentRanges(text, node.getFullStart()) ?? [];
  return ranges.some(({ pos, end }) => text.slice(pos, pos + 3) === "/**" && end - pos > 8);
};

const documented = (symbol: ts.Symbol): boolean =>
  (symbol.declarations ?? []).some((d) => said(ts.isVariableDeclaration(d) ? d.parent.parent : d));

/** What an exported interface or class says of itself, but what is private. */
const membersOf = (d: ts.Declaration): readonly (ts.TypeElement | ts.ClassElement)[] =>
  ts.isInterfaceDeclaration(d) || ts.isClassDeclaration(d)
    ? [...d.members].filter(({ name }) => name && !ts.isPrivateIdentifier(name) && !ts.isComputedPropertyName(name))
    : [];

function* publicNames(): Generator<[path: string, symbol: ts.Symbol, declarations: ts.Declaration[]]> {
  for (const entry of entries) {
    const module = checker.getSymbolAtLocation(program.getSourceFile(entry)!)!;
    for (const exported of checker.getExportsOfModule(module)) {
      const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
      yield [exported.name, symbol, (symbol.declarations ?? []).filter(isOurs)];
    }
  }
}

test("every export has a docstring", () => {
  const names = [...publicNames()];
  assert.ok(names.length > 80, `${names.length} exports`);
  assert.equal(
    names.filter(([, symbol]) => !documented(symbol)).map(([path]) => path),
    [],
  );
});

test("every member of an exported interface or class has a docstring", () => {
  const bare = new Set<string>();
  let count = 0;
  for (const [path, , declarations] of publicNames())
    for (const member of declarations.flatMap(membersOf)) {
      count++;
      if (!said(member)) bare.add(`${path}.${member.name!.getText()}`);
    }
  assert.ok(count > 200, `${count} members`);
  assert.equal([...bare], []);
});

const shown = ["loadModel", "createTrainer", "train", "trainIteration", "runIterations", "readPairs", "plan", "report"];

test("main functions have an example, and examples compile", () => {
  const examples = new Map<string, string>();
  for (const [name, symbol] of publicNames())
    for (const { name: tag, text } of symbol.getJsDocTags(checker)) {
      const code = /```ts\n([\s\S]*?)```/.exec(ts.displayPartsToString(text))?.[1];
      if (tag === "example" && code !== undefined) examples.set(join(top, "test", `${name}.example.ts`), code);
    }
  assert.equal(
    shown.filter((name) => !examples.has(join(top, "test", `${name}.example.ts`))),
    [],
  );
  const compiled = programOf(examples);
  const wrong = [...examples.keys()].flatMap((file) =>
    ts.getPreEmitDiagnostics(compiled, compiled.getSourceFile(file)).map((d) => {
      const { line } = ts.getLineAndCharacterOfPosition(d.file!, d.start!);
      return `${file}:${line + 1} ${ts.flattenDiagnosticMessageText(d.messageText, " ")}`;
    }),
  );
  assert.equal(wrong, []);
});

test.run();
