// Stages that hold what we say of NCCL to NCCL itself: its header, and its library as far as it answers without a card. Version after
// version, from Python's packages; where there is no pip, or nothing to download from, they are skipped by name.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { executable, root } from "./native.mjs";

const versions = ["2.19.3", "2.22.3", ""]; // the oldest that is taken, one between, the newest

/** The folder of an unpacked version, or why there is none. */
function fetched(version) {
  const into = join(root, "build", "nccl", version || "newest");
  const there = join(into, "nvidia", "nccl");
  if (existsSync(there)) return { there };
  mkdirSync(into, { recursive: true });
  const wanted = `nvidia-nccl-cu12${version ? `==${version}` : ""}`;
  try {
    execFileSync("python3", ["-m", "pip", "download", "-q", "--no-deps", "-d", into, wanted], { stdio: "pipe" });
    const wheel = readdirSync(into).find((name) => name.endsWith(".whl"));
    execFileSync("python3", ["-m", "zipfile", "-e", join(into, wheel), into], { stdio: "pipe" });
    return { there };
  } catch (e) {
    return {
      why: `pip did not get ${wanted}: ${String(e.stderr ?? e.message)
        .trim()
        .split("\n")
        .at(-1)}`,
    };
  }
}

/** `dir`: a build that has native_tests. */
export async function testNccl(stages, dir) {
  for (const version of versions) {
    const name = `NCCL ${version || "newest"}`;
    const { there, why } = fetched(version);
    if (why) {
      stages.skip(name, why);
      continue;
    }
    const includes = ["native", "test/nccl/include", join(there, "include")].map((folder) => `-I${folder}`);
    await stages.stage(`${name}, header`, "c++", ["-std=c++20", "-fsyntax-only", ...includes, "test/nccl/abi.cc"], {
      cwd: root,
    });
    const env = { ISR_DPO_NCCL: join(there, "lib", "libnccl.so.2") };
    await stages.stage(`${name}, library`, executable(dir, "native_tests"), ["nccl library"], { cwd: root, env });
  }
}
