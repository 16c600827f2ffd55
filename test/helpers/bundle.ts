// A child of the tests as one file made from the sources: it starts several times faster than through a loader.
import { buildSync } from "esbuild";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { root } from "./child.js";

/** Bundles test/children/<name>.ts; the path of what came out. It stands one level below the root, as src/ and dist/ do. */
export function bundled(name: string): string {
  const outfile = join(root, "build", `${name}.${process.pid}.mjs`);
  process.on("exit", () => rmSync(outfile, { force: true }));
  buildSync({
    entryPoints: [join(root, "test", "children", `${name}.ts`)],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    packages: "external",
    logLevel: "error",
  });
  return outfile;
}
