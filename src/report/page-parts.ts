// Styles and scripts of pages: separate files, which are shipped unchanged and allowed by their hash alone.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { packageRoot } from "../base/addon.js";

/** Source of a content security policy for a style or script that stands in the page. */
export const hash = (text: string): string => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

/** Files of src/, one after the other. Modules become parts of one script: what they import stands in the parts before them. */
export async function joined(names: readonly string[]): Promise<string> {
  const parts = names.map((name) => readFile(join(packageRoot(), "src", name), "utf8"));
  return (await Promise.all(parts))
    .join("")
    .replace(/^import .* from "\.\/.*";\n/gm, "")
    .replace(/^export /gm, "");
}
