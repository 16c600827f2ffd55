// Who started a process: the variables of each launcher, and those that contradict each other.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { firstHost, machineFrom, placeFrom } from "../src/train/ranks/launch-variables.js";
import { rejects } from "./helpers/assert.js";

const test = suite("launch variables");

const places: [string, Record<string, string>, ReturnType<typeof placeFrom>][] = [
  ["none", { PATH: "/bin" }, undefined],
  [
    "torchrun",
    {
      RANK: "3",
      WORLD_SIZE: "8",
      LOCAL_RANK: "1",
      MASTER_ADDR: "node0",
      MASTER_PORT: "29500",
      TORCHELASTIC_RUN_ID: "job",
    },
    { launcher: "torchrun", rank: 3, size: 8, localRank: 1, host: "node0", port: 29_500, job: "job." },
  ],
  [
    "torchrun, whose agent has the port",
    {
      RANK: "0",
      WORLD_SIZE: "2",
      MASTER_ADDR: "a",
      MASTER_PORT: "29500",
      TORCHELASTIC_USE_AGENT_STORE: "True",
      TORCHELASTIC_RESTART_COUNT: "1",
    },
    { launcher: "torchrun", rank: 0, size: 2, host: "a", port: 29_501, job: ".1" },
  ],
  [
    "SLURM",
    {
      ...{ SLURM_PROCID: "5", SLURM_STEP_NUM_TASKS: "16", SLURM_NTASKS: "99", SLURM_LOCALID: "1", SLURM_STEP_ID: "0" },
      ...{ SLURM_STEP_NODELIST: "gpu[007,010-012]", SLURM_JOB_ID: "123456" },
    },
    {
      launcher: "SLURM",
      rank: 5,
      size: 16,
      localRank: 1,
      host: "gpu007",
      port: 20_000 + (123_456 % 20_000),
      job: "123456.0.",
    },
  ],
  ["a batch script of SLURM, without srun", { SLURM_PROCID: "0", SLURM_NTASKS: "4", SLURM_JOB_ID: "1" }, undefined],
  [
    "Open MPI, with the address given",
    { OMPI_COMM_WORLD_RANK: "1", OMPI_COMM_WORLD_SIZE: "4", OMPI_COMM_WORLD_LOCAL_RANK: "1", PMIX_NAMESPACE: "n" },
    { launcher: "Open MPI", rank: 1, size: 4, localRank: 1, job: "n." },
  ],
  ["MPICH", { PMI_RANK: "2", PMI_SIZE: "3" }, { launcher: "PMI", rank: 2, size: 3, job: "" }],
  [
    "two that agree: the address of either",
    {
      RANK: "1",
      WORLD_SIZE: "2",
      MASTER_ADDR: "h",
      MASTER_PORT: "4000",
      OMPI_COMM_WORLD_RANK: "1",
      OMPI_COMM_WORLD_SIZE: "2",
    },
    { launcher: "torchrun", rank: 1, size: 2, host: "h", port: 4000, job: "." },
  ],
];
for (const [name, env, expected] of places) test(name, () => assert.equal(placeFrom(env), expected));

const wrong: [string, Record<string, string>, RegExp][] = [
  [
    "two that disagree",
    { RANK: "0", WORLD_SIZE: "2", SLURM_PROCID: "1", SLURM_NTASKS: "2", SLURM_STEP_ID: "0" },
    /rank 0 of 2 by torchrun, and rank 1 of 2 by SLURM/,
  ],
  ["half a place", { RANK: "0" }, /torchrun: expected RANK and WORLD_SIZE, got no WORLD_SIZE/],
  ["no number", { RANK: "one", WORLD_SIZE: "2" }, /environment variable RANK/],
  ["a rank beyond the size", { PMI_RANK: "2", PMI_SIZE: "2" }, /PMI_RANK: expected a rank below PMI_SIZE, which is 2/],
  ["a size of 0", { RANK: "0", WORLD_SIZE: "0" }, /WORLD_SIZE/],
];
for (const [name, env, message] of wrong)
  test(`${name}: refused`, () => rejects(async () => placeFrom(env), "INVALID_ARGUMENT", message, name));

test("the first host of SLURM's lists", () => {
  const lists = {
    node10: "node10",
    "node[10,20-22]": "node10",
    "node[003-005],other1": "node003",
    "a-b,c": "a-b",
    "": "",
  };
  for (const [list, host] of Object.entries(lists)) assert.is(firstHost(list), host, list);
});

test("machines of Kubernetes", () => {
  assert.equal(machineFrom({ PET_NNODES: "2", PET_NODE_RANK: "1", PET_MASTER_ADDR: "m", PET_MASTER_PORT: "29500" }), {
    ...{ launcher: "Kubeflow", index: 1, count: 2, host: "m", port: 29_500 },
  });
  assert.equal(machineFrom({ JOB_COMPLETION_INDEX: "3", ISR_DPO_NODES: "4", MASTER_ADDR: "job-0.ranks" }), {
    ...{ launcher: "Kubernetes", index: 3, count: 4, host: "job-0.ranks" },
  });
  assert.is(machineFrom({ JOB_COMPLETION_INDEX: "3" }), undefined);
});

test.run();
