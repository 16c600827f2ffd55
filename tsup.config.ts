// dist/: ESM and CommonJS of the entries, types for both, and the command line (ESM only). Chunks are shared between
// entries, so that `isr-dpo`, `isr-dpo/native` and `isr-dpo/synthetic` have one IsrDpoError.
import { defineConfig } from "tsup";

const entries = { index: "src/index.ts", native: "src/native.ts", synthetic: "src/synthetic/index.ts" };
const common = { target: "node20", shims: true, splitting: true } as const; // no source maps: they were two thirds of dist/

export default defineConfig([
  {
    ...common,
    entry: { ...entries, cli: "src/cli/main.ts" },
    format: ["esm"],
    clean: true,
    dts: { entry: entries },
  },
  {
    ...common,
    entry: entries,
    format: ["cjs"],
    dts: { entry: entries },
  },
]);
