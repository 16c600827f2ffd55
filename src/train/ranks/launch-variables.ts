// Who started this process, and as which of how many: the environment of torchrun, SLURM, Open MPI, MPICH (PMI), Kubeflow and of our own
// launcher (docs/ranks.md has the table).
import { refuse } from "../../base/check.js";
import { IsrDpoError } from "../../base/errors.js";

/** A process among others, as its launcher says. */
export interface Place {
  /** The launcher. */
  launcher: string;
  rank: number;
  size: number;
  /** Among the processes of this machine, which share its cards; default: the rank. */
  localRank?: number;
  /** Where rank 0 listens, if the launcher says so. */
  host?: string;
  port?: number;
  /** Names the job among others of the same launcher; empty where it has no name. */
  job: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

function count(env: Environment, name: string, min = 0): number | undefined {
  const value = env[name];
  if (value === undefined || value === "") return undefined;
  if (!/^\d{1,9}$/.test(value) || Number(value) < min)
    refuse(`environment variable ${name}`, `a whole number of at least ${min}`, value);
  return Number(value);
}

/** Names of hosts in SLURM's short form, `node[10,20-22]`: the first. */
export function firstHost(list: string): string {
  const found = /^([^,[\]]+)(?:\[(\d+)[^\]]*\])?/.exec(list.trim());
  return found ? found[1]! + (found[2] ?? "") : "";
}

/** A launcher: its variables of rank and size, and what else it says. */
interface Launcher {
  name: string;
  rank: string;
  size: readonly string[];
  localRank: string;
  job: readonly string[];
  place?(env: Environment): { host?: string; port?: number };
}

const master = (env: Environment, host: string, port: string, offset = 0): { host?: string; port?: number } => {
  const number = count(env, port, 1);
  return {
    ...(env[host] ? { host: env[host] } : {}),
    ...(number === undefined ? {} : { port: number + offset }),
  };
};

const launchers: readonly Launcher[] = [
  {
    name: "torchrun",
    ...{ rank: "RANK", size: ["WORLD_SIZE"], localRank: "LOCAL_RANK" },
    job: ["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"],
    // torchrun's agent listens on MASTER_PORT itself when it keeps the store: the next one is free on all machines
    place: (env) => master(env, "MASTER_ADDR", "MASTER_PORT", env.TORCHELASTIC_USE_AGENT_STORE === "True" ? 1 : 0),
  },
  {
    name: "Open MPI",
    ...{ rank: "OMPI_COMM_WORLD_RANK", size: ["OMPI_COMM_WORLD_SIZE"], localRank: "OMPI_COMM_WORLD_LOCAL_RANK" },
    job: ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"],
  },
  {
    name: "PMI",
    ...{ rank: "PMI_RANK", size: ["PMI_SIZE"], localRank: "MPI_LOCALRANKID" },
    job: ["PMI_JOBID"],
  },
  {
    name: "SLURM",
    ...{ rank: "SLURM_PROCID", size: ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"], localRank: "SLURM_LOCALID" },
    job: ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"],
    place(env) {
      const host = firstHost(env.SLURM_STEP_NODELIST ?? env.SLURM_JOB_NODELIST ?? "");
      const job = count(env, "SLURM_JOB_ID");
      return { ...(host ? { host } : {}), ...(job === undefined ? {} : { port: 20_000 + (job % 20_000) }) };
    },
  },
];

function placeOf(env: Environment, { name, rank, size, localRank, job, place }: Launcher): Place | undefined {
  const mine = count(env, rank);
  const all = size.map((variable) => count(env, variable, 1)).find((n) => n !== undefined);
  if (mine === undefined && all === undefined) return undefined;
  if (name === "SLURM" && env.SLURM_STEP_ID === undefined) return undefined; // a batch script's own process, without srun
  if (mine === undefined || all === undefined)
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `${name}: expected ${rank} and ${size[0]}, got ${mine === undefined ? `no ${rank}` : `no ${size[0]}`}`,
      { hint: "set both, or neither" },
    );
  if (mine >= all) refuse(`environment variable ${rank}`, `a rank below ${size[0]}, which is ${all}`, mine);
  const local = count(env, localRank);
  return {
    ...{ launcher: name, rank: mine, size: all },
    ...(local === undefined ? {} : { localRank: local }),
    ...place?.(env),
    job: job.map((variable) => env[variable] ?? "").join("."),
  };
}

/**
 * The place that the environment gives this process; undefined: it was started alone.
 * @throws IsrDpoError INVALID_ARGUMENT: half a place, or two launchers that disagree, with the variables of both
 */
export function placeFrom(env: Environment): Place | undefined {
  const found = launchers.map((l) => placeOf(env, l)).filter((p) => p !== undefined);
  const [first, ...others] = found;
  const other = others.find((p) => p.rank !== first!.rank || p.size !== first!.size);
  if (other)
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `this process is rank ${first!.rank} of ${first!.size} by ${first!.launcher}, and rank ${other.rank} of ${other.size} by ${other.launcher}`,
      { hint: "unset the variables of the launcher that did not start it" },
    );
  const hosted = found.find((p) => p.host !== undefined);
  return (
    first && { ...first, ...(hosted ? { host: hosted.host!, ...(hosted.port ? { port: hosted.port } : {}) } : {}) }
  );
}

/** A process on a machine of a job that starts one process a machine (Kubernetes): which machine of how many, and where the first is. */
export interface Machine {
  launcher: string;
  index: number;
  count: number;
  host?: string;
  port?: number;
}

/** The machine that Kubeflow or an indexed job of Kubernetes gives this process; `--ranks` counts processes on each. */
export function machineFrom(env: Environment): Machine | undefined {
  const nodes = count(env, "PET_NNODES", 1);
  const index = count(env, "PET_NODE_RANK");
  if (nodes !== undefined && index !== undefined)
    return { launcher: "Kubeflow", index, count: nodes, ...master(env, "PET_MASTER_ADDR", "PET_MASTER_PORT") };
  const completion = count(env, "JOB_COMPLETION_INDEX");
  const completions = env.ISR_DPO_NODES === undefined ? undefined : count(env, "ISR_DPO_NODES", 1);
  if (completion === undefined || completions === undefined) return undefined;
  return {
    ...{ launcher: "Kubernetes", index: completion, count: completions },
    ...master(env, "MASTER_ADDR", "MASTER_PORT"),
  };
}
