// node scripts/duplicates.mjs: lists logic of src/ and native/ that stands twice, six lines or more of it, and ends with 1 if
// there is any. Comments, imports, declared overrides and blank lines do not count, nor does white space.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const least = 6; // lines
const code = /\.(ts|js|h|cc|cu|cuh)$/;

/** Comments, and declarations that implement an interface: its calls stand in every class that has them. */
const skipped = /\/\*[\s\S]*?\*\/|^[ \t]*[\w:<>*& ]+\([^;{}]*\)(?: const)? override;/gm;

/** The lines of a file that count, without white space, each with its number from 1. */
export function countedLines(text) {
  const bare = text.replace(skipped, (stretch) => stretch.replace(/[^\n]/g, ""));
  const counted = [];
  let within = false; // an import of several lines
  for (const [i, line] of bare.split("\n").entries()) {
    const code = line.replace(/(^|\s)\/\/.*$/, "").replace(/\s+/g, "");
    const imports = within || /^\s*(import |export (type )?\{.* from |#\s*include|using )/.test(line);
    within = (within || /^import(type)?\{/.test(code)) && !/from"|;$/.test(code);
    if (!imports && code !== "") counted.push({ number: i + 1, code });
  }
  return counted;
}

/** Stretches of at least six counted lines that stand in two places; `files` from path to text. */
export function duplicatesOf(files) {
  const lines = new Map([...files].map(([path, text]) => [path, countedLines(text)]));
  const first = new Map(); // the text of six lines -> where it stood first
  const found = [];
  for (const [path, own] of lines)
    for (let i = 0; i + least <= own.length; i++) {
      const key = own
        .slice(i, i + least)
        .map(({ code }) => code)
        .join("\n");
      const before = first.get(key);
      if (before === undefined) {
        first.set(key, { path, i });
        continue;
      }
      if (before.path === path && i < before.i + least) continue; // it overlaps itself
      const other = lines.get(before.path);
      let n = least;
      while (i + n < own.length && other[before.i + n]?.code === own[i + n].code) n++;
      found.push({ n, at: `${before.path}:${other[before.i].number}`, again: `${path}:${own[i].number}` });
      i += n - least;
    }
  return found;
}

const root = fileURLToPath(new URL("..", import.meta.url));

/** Files that a script writes from rows that stand once: nobody reads or changes them line by line. */
const made = ["src/base/option-types.ts", "src/base/config-types.ts"];

/** The files of src/ and native/ that people write, from path to text. */
export function sources() {
  const files = new Map();
  for (const folder of ["src", "native"])
    for (const entry of readdirSync(join(root, folder), { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath ?? entry.path, entry.name);
      const name = path.slice(root.length);
      if (entry.isFile() && code.test(name) && !made.includes(name)) files.set(name, readFileSync(path, "utf8"));
    }
  return files;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const found = duplicatesOf(sources());
  for (const { n, at, again } of found) console.log(`${n} lines of ${at} stand again in ${again}`);
  console.log(`${found.length} stretches of ${least} lines or more stand twice`);
  process.exitCode = found.length > 0 ? 1 : 0;
}
