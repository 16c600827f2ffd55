// Puts features that are larger than the process may write, and prints the error's code and what is left in the folder.
import { readdirSync } from "node:fs";
import { FeatureCache } from "../../src/video/feature-cache.js";

const dir = process.argv[2]!;
const code = await new FeatureCache({ dir })
  .put("a", { dtype: "u8", shape: [1, 1 << 23], data: new Uint8Array(1 << 23) })
  .then(
    () => "none",
    (e: { code?: string }) => e.code,
  );
console.log(JSON.stringify({ code, left: readdirSync(dir) }));
