// dist/: ESM and CommonJS of the two entries, types for both, and the command line (ESM only). Chunks are shared between
// entries, so that `isr-dpo` and `isr-dpo/native` have one IsrDpoError.
import { defineConfig } from "tsup";

const common = { target: "node20", sourcemap: true, shims: true, splitting: true } as const;

export default defineConfig([
  {
    ...common,
    entry: { index: "src/index.ts", native: "src/native.ts", cli: "src/cli/main.ts" },
    format: ["esm"],
    clean: true,
    dts: { entry: { index: "src/index.ts", native: "src/native.ts" } },
  },
  {
    ...common,
    entry: { index: "src/index.ts", native: "src/native.ts" },
    format: ["cjs"],
    dts: { entry: { index: "src/index.ts", native: "src/native.ts" } },
  },
]);
