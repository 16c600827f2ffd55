// TypeScript to JavaScript, file by file, into a folder of build/: a test file then starts without a loader, which takes longer than
// most tests. A module still knows itself by the address of its source, so that what it reads or starts beside itself is found.
import { readFileSync, readdirSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "esbuild";
import { root } from "./native.mjs";

const folders = ["src", "test", "scripts"];
const isSource = (name) => /\.(ts|js)$/.test(name) && !name.endsWith(".d.ts");

const ownAddress = {
  name: "own address",
  setup: ({ onLoad }) =>
    onLoad({ filter: /\.ts$/ }, async ({ path }) => {
      const text = await readFile(path, "utf8");
      return { contents: text.replaceAll("import.meta.url", JSON.stringify(pathToFileURL(path).href)), loader: "ts" };
    }),
};

/** All sources and tests of a tree, or some of them (paths in it), in a folder of this process, which is removed when it exits. Its path. */
export async function transpile(tree = root, some = undefined) {
  const outdir = join(tree, "build", `js-${process.pid}`);
  if (!some) process.on("exit", () => rmSync(outdir, { recursive: true, force: true }));
  const all = () =>
    folders.flatMap((folder) =>
      readdirSync(join(tree, folder), { recursive: true })
        .filter(isSource)
        .map((name) => join(folder, name)),
    );
  const entryPoints = (some ?? all()).map((file) => join(tree, file));
  const options = { bundle: false, format: "esm", target: "node20", sourcemap: "inline", logLevel: "error" };
  await build({ ...options, entryPoints, outbase: tree, outdir, plugins: [ownAddress] });
  return outdir;
}

/** A file that loads sources by their addresses, or threads that do, needs a loader. */
const needsLoader = (path) => /new Worker|execArgv|await import\(/.test(readFileSync(path, "utf8"));

/** Arguments of node that run a file of tests of a tree, with `more` before its name. */
export const testCommand = (file, outdir, tree = root, more = []) =>
  needsLoader(join(tree, "test", file))
    ? ["--import", "tsx", ...more, join("test", file)]
    : ["--enable-source-maps", ...more, join(outdir, "test", file.replace(/ts$/, "js"))];
