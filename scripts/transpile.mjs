// TypeScript to JavaScript, file by file, into a folder of build/: a test file then starts without a loader, which takes longer than
// most tests. A module still knows itself by the address of its source, so that what it reads or starts beside itself is found.
import { readdirSync, rmSync } from "node:fs";
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

/** All sources and tests, in a folder of this process, which is removed when it exits. Its path. */
export async function transpile() {
  const outdir = join(root, "build", `js-${process.pid}`);
  process.on("exit", () => rmSync(outdir, { recursive: true, force: true }));
  const entryPoints = folders.flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true })
      .filter(isSource)
      .map((name) => join(root, folder, name)),
  );
  const options = { bundle: false, format: "esm", target: "node20", sourcemap: "inline", logLevel: "error" };
  await build({ ...options, entryPoints, outbase: root, outdir, plugins: [ownAddress] });
  return outdir;
}
