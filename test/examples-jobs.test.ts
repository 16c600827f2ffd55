// The examples of schedulers: SLURM's script under a double of srun, the others held to what they have to say.
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { parse } from "yaml";
import { exists, includes } from "./helpers/assert.js";
import { cliCommand, root } from "./helpers/child.js";
import { needing } from "./helpers/optional.js";
import { freePort } from "./helpers/rank-group.js";
import { clips, isrOptions, samples } from "./helpers/isr-run.js";
import { sizes, writeClips, writeData } from "./helpers/train-run.js";

const test = suite("examples of jobs");
const dir = mkdtempSync(join(tmpdir(), "isr-dpo-jobs-"));
test.before(async () => {
  await writeData(dir, sizes.three);
  mkdirSync(join(dir, "bin"));
  const program = (name: string, text: string) => {
    writeFileSync(join(dir, "bin", name), `#!/bin/bash\n${text}\n`);
    chmodSync(join(dir, "bin", name), 0o755);
  };
  program("npx", `shift; exec ${[process.execPath, ...cliCommand].map((word) => `"${word}"`).join(" ")} "$@"`);
  program("scontrol", `echo "$@" >> "${dir}/scontrol.log"`);
  // Two tasks of one step; the step's exit code is the greatest of theirs. KILL_TASK ends that task by a signal.
  program(
    "srun",
    `[ "$1" = --kill-on-bad-exit=1 ] || exit 99
shift
export SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=localhost
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & pids[$task]=$!; done
[ -z "\${KILL_TASK:-}" ] || { sleep 0.3; kill -KILL "\${pids[$KILL_TASK]}"; }
worst=0
for pid in "\${pids[@]}"; do wait "$pid"; code=$?; [ $code -le $worst ] || worst=$code; done
exit $worst`,
  );
});
test.after(() => rmSync(dir, { recursive: true, force: true }));

/** Runs the batch script as SLURM would: what it ended with, and what it asked scontrol for. */
async function batch(config: string, env: Record<string, string> = {}, kind = "dpo") {
  rmSync(join(dir, "scontrol.log"), { force: true });
  const id = String((await freePort()) - 20_000 + 20_000 * 3); // the port is 20000 + id mod 20000
  const done = spawnSync("bash", ["examples/slurm/train.sbatch", kind, config], {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, PATH: `${dir}/bin:${process.env.PATH}`, SLURM_JOB_ID: id, SLURM_NTASKS: "2", ...env },
  });
  const log = join(dir, "scontrol.log");
  return { code: done.status, err: done.stderr, id, asked: existsSync(log) ? readFileSync(log, "utf8").trim() : "" };
}

function configFile(name: string, more = ""): string {
  const path = join(dir, `${name}.yaml`);
  const lines = [
    ...[
      `model: ${join(root, "test/golden/llava_hound/policy")}`,
      `data: ${join(dir, "pairs.jsonl")}`,
      `runDir: ${join(dir, name)}`,
    ],
    ...["epochs: 30", "itemsPerStep: 2", more],
  ];
  writeFileSync(path, `${lines.join("\n")}\n`);
  return path;
}

test("SLURM: a job of two tasks is done, and asks for nothing", async () => {
  const { code, err, asked } = await batch(configFile("well"));
  assert.equal([code, asked], [0, ""], err);
  exists(join(dir, "well/model/model.safetensors"));
});

test("SLURM: iterations", async () => {
  await writeClips(dir, clips);
  const config = join(dir, "isr.yaml");
  writeFileSync(join(dir, "samples.jsonl"), samples.map((s) => `${JSON.stringify(s)}\n`).join(""));
  const { config: c } = isrOptions(dir, "");
  const model = join(root, "test/golden/llava_hound/policy");
  const own = { model, samples: join(dir, "samples.jsonl"), runDir: join(dir, "iterations"), to: 2 };
  writeFileSync(config, JSON.stringify({ ...c, ...own })); // JSON is YAML
  const { code, err, asked } = await batch(config, {}, "run");
  assert.equal([code, asked], [0, ""], err);
  exists(join(dir, "iterations/iterations/1/model/model.safetensors"));
});

test("SLURM: a killed task puts the job into the queue again, which goes on", async () => {
  const config = configFile("killed");
  const first = await batch(config, { KILL_TASK: "1" });
  assert.ok([75, 137].includes(first.code!), `${first.code}: ${first.err}`);
  assert.is(first.asked, `requeue ${first.id}`);
  const again = await batch(config);
  assert.equal([again.code, again.asked], [0, ""], again.err);
});

test("SLURM: a wrong configuration ends the job", async () => {
  const { code, err, asked } = await batch(configFile("wrong", "lerningRate: 1"));
  assert.is(code, 78, err);
  assert.is(asked, "");
  includes(err, "lerningRate");
});

test("Kubernetes: as many machines as pods, rank 0 at pod 0's name, and exit codes that end the set", () => {
  const set = parse(readFileSync(join(root, "examples/kubernetes/jobset.yaml"), "utf8"));
  assert.equal([set.apiVersion, set.kind], ["jobset.x-k8s.io/v1alpha2", "JobSet"]);
  const [job] = set.spec.replicatedJobs;
  const { completionMode, completions, parallelism, backoffLimit, podFailurePolicy, template } = job.template.spec;
  assert.equal([completionMode, parallelism, backoffLimit], ["Indexed", completions, 0]);
  const [container] = template.spec.containers;
  const env = Object.fromEntries(container.env.map((e: { name: string; value?: string }) => [e.name, e.value]));
  assert.is(env.ISR_DPO_NODES, String(completions));
  assert.is(env.MASTER_ADDR, `${set.metadata.name}-${job.name}-0-0.${set.metadata.name}`);
  includes(Object.keys(env), "ISR_DPO_RANKS_TOKEN");
  assert.equal(podFailurePolicy.rules[0].onExitCodes.values, [2, 65, 78]);
  assert.is(podFailurePolicy.rules[0].onExitCodes.containerName, container.name);
  assert.is(template.spec.restartPolicy, "Never");
  includes(container.args, "--ranks");
});

test("Docker: what is installed to build and to run, and signals that reach the command", () => {
  const text = readFileSync(join(root, "examples/docker/Dockerfile"), "utf8");
  const [build, run] = text.split(/^FROM .*$/m).slice(1);
  for (const name of ["cmake", "g++", "libgloo-dev", "npm run build"]) includes(build, name);
  for (const name of ["ffmpeg", "libgloo0", "tini", "dist/cli.js"]) includes(run, name);
  exists(join(root, "src/cli/main.ts"));
});

const unit = join(root, "examples/systemd/isr-dpo-train.service");
test("systemd: exit codes that need a hand end it, others start it again", () => {
  const lines = readFileSync(unit, "utf8").split("\n");
  for (const line of ["Restart=on-failure", "RestartPreventExitStatus=2 65 78", "SuccessExitStatus=130"])
    includes(lines, line);
});

const analyze = spawnSync("systemd-analyze", ["--version"]).status === 0;
needing(test, analyze ? undefined : "systemd-analyze is not installed")(
  "systemd: systemd-analyze takes the unit",
  () => {
    const { status, stderr } = spawnSync("systemd-analyze", ["verify", "--man=no", unit], { encoding: "utf8" });
    const about = stderr.split("\n").filter((line) => line.includes("isr-dpo-train"));
    assert.equal(about, [], stderr);
    assert.is(status, 0, stderr);
  },
);

test.run();
