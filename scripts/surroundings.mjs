// npm run surroundings [-- part of a name]: the tests on machines unlike this one, as far as one machine can play another:
// one core, seventeen, no network but loopback and no IPv6, a home that cannot be written. What cannot be played here is
// counted as skipped.
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { executable, root, tsTests } from "./native.mjs";
import { Stages } from "./stages.mjs";

const computing = "^(golden|determinism|trainer|model|native)\\.test\\.ts$";
const outside = "^(live|judge-openai|cli|cli-run|import|config|video-tools)\\.test\\.ts$";

/** The preloaded library that changes the number of cores, or nothing where it cannot be built. */
function coresLibrary() {
  const library = join(root, "build", "faults", "libisr_cores.so");
  mkdirSync(join(root, "build", "faults"), { recursive: true });
  const source = join(root, "test", "faults", "cores.c");
  const compile = [source, "-O1", "-shared", "-fPIC", "-o", library, "-ldl"];
  return spawnSync(process.env.CC ?? "gcc", compile, { stdio: "inherit" }).status === 0 ? library : undefined;
}

const runs = (command, ...args) => spawnSync(command, args, { stdio: "ignore" }).status === 0;

const loopback = 'ip link set lo up && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && exec "$@"';
const inside = ["unshare", "--map-root-user", "--net", "sh", "-c", loopback, "sh"];

/** A surrounding: the command line before each command, or what is missing for it; environment; tests; native tests too? */
const rows = [
  {
    name: "one core",
    wrap: () => (runs("taskset", "-c", "0", "true") ? ["taskset", "-c", "0"] : undefined),
    missing: "taskset",
    tests: computing,
    native: true,
  },
  {
    name: "no IPv6, loopback alone",
    wrap: () => (runs(...inside, "true") ? inside : undefined),
    missing: "unshare with a network of its own, and ip",
    tests: outside,
  },
  {
    name: "a home that cannot be written",
    wrap: () => [],
    env: { HOME: "/proc", XDG_CACHE_HOME: "/proc" },
    tests: outside,
  },
  {
    name: "seventeen cores",
    wrap: () => (coresLibrary() ? [] : undefined),
    missing: "a C compiler",
    env: { LD_PRELOAD: join(root, "build", "faults", "libisr_cores.so"), ISR_CORES: "17" },
    tests: computing,
    native: true,
  },
];

/** All rows whose name contains `part`, after a build: native_tests and the addon are there. */
export async function surroundings(stages, part = "") {
  const waiting = rows.filter((row) => row.name.includes(part));
  const play = async ({ name, wrap, missing, env, tests, native }) => {
    const before = wrap();
    if (!before) return stages.skip(name, `needs ${missing}`);
    const stage = (what, command, args) => {
      const [first, ...rest] = [...before, command, ...args];
      return stages.stage(`${what}, ${name}`, first, rest, { cwd: root, env, limit: 1800 });
    };
    if (native) await stage("native tests", executable(join(root, "build", "cmake"), "native_tests"), []);
    await stage("TypeScript tests", process.execPath, tsTests(tests));
  };
  const lane = async () => {
    for (let row = waiting.shift(); row; row = waiting.shift()) await play(row);
  };
  await Promise.all([lane(), lane()]); // a row keeps one core busy, or waits for processes
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const stages = new Stages();
  await surroundings(stages, process.argv[2]);
  stages.end();
}
