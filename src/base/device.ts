// Which device a call computes on. A card's driver is asked in a process of its own: a broken one may hang, or end the process.
import { execFile } from "node:child_process";
import { binaryPath, machine } from "./addon.js";
import { show } from "./check.js";
import { IsrDpoError } from "./errors.js";

/** A card, as its driver describes it. */
export interface CudaCard {
  /** Name of the card. */
  name: string;
  /** Its memory in bytes. */
  memoryBytes: number;
  /** Its compute capability, such as "9.0". */
  capability: string;
  /** Its place on the machine's bus, the same for all processes, such as "0000:1b:00.0". */
  address: string;
}

/** What is known of the cards of this machine. */
export interface Cards {
  cards: readonly CudaCard[];
  /** Name, version and file of the library of products. */
  library?: string;
  /** The same of what ranks with cards speak through, or why there is none. */
  ranksLibrary?: string;
  /** Why no card can be computed on. */
  problem?: string;
  hint?: string;
}

const patience = 30_000; // ms: a first start of a driver takes some seconds

const question = `const addon = require(process.argv[1]), found = { cards: [] };
try {
  found.cards = addon.cards("cuda");
  found.library = addon.library("cuda");
  const { library, missing } = addon.transports(true).find((t) => t.name === "nccl");
  found.ranksLibrary = library || missing;
} catch (e) {
  found.problem = e.message;
  found.hint = e.hint;
}
console.log(JSON.stringify(found));`;

/** The driver's answer, or what became of the process that asked. */
function askDriver(): Promise<Cards> {
  const { NODE_OPTIONS: _, ...env } = process.env; // a loader or an inspector would start again
  const options = { env: { ...env, ELECTRON_RUN_AS_NODE: "1" }, timeout: patience, killSignal: "SIGKILL" as const };
  return new Promise((resolve) => {
    execFile(process.execPath, ["-e", question, binaryPath()], options, (error, stdout) => {
      try {
        resolve(JSON.parse(stdout) as Cards);
      } catch {
        const end = error?.killed
          ? `gave no answer in ${patience / 1000} s`
          : `ended by ${error?.signal ?? `status ${error?.code}`}`;
        resolve({
          cards: [],
          problem: `the NVIDIA driver cannot be used: the process that asked it ${end}`,
          hint: "nvidia-smi should answer at once; if it does not, the driver has to be mended or the machine restarted",
        });
      }
    });
  });
}

let asked: Promise<Cards> | undefined;

/** The cards of this machine; asked once in a process's life. */
export function findCards(): Promise<Cards> {
  const { cuda } = machine().devices;
  if (cuda === undefined)
    return Promise.resolve({
      cards: [],
      problem: "this binary has no CUDA",
      hint: "the packaged binary for Linux x64 has it; docs/gpu.md says how it is built",
    });
  if (!cuda)
    return Promise.resolve({
      cards: [],
      problem: "no NVIDIA driver is loaded (/dev/nvidiactl is not there)",
      hint: "install the driver; start a container with `--gpus all`",
    });
  asked ??= askDriver();
  return asked;
}

let told = false;

/**
 * The device behind an option: "cpu" or "cuda:N". auto: the first card, if there is one that can be used.
 * @throws IsrDpoError DEVICE_UNAVAILABLE
 */
export async function chooseDevice(field: string, wanted: string): Promise<string> {
  if (wanted === "cpu" || (wanted === "auto" && !machine().devices.cuda)) return "cpu";
  const { cards, problem, hint } = await findCards();
  const index = wanted.includes(":") ? Number(wanted.slice(wanted.indexOf(":") + 1)) : 0;
  if (problem === undefined && cards[index]) return `cuda:${index}`;
  const seen = cards.map((card, i) => `cuda:${i} (${card.name})`).join(", ") || "none";
  const reason = problem ?? `the driver sees ${seen}`;
  if (wanted === "auto") {
    // Said once: a card that stands idle is dear, and somebody may wait for an hour what takes a minute.
    if (!told) process.emitWarning(`device auto: ${reason}: computing on the CPU`, { code: "ISR_DPO_DEVICE" });
    told = true;
    return "cpu";
  }
  throw new IsrDpoError("DEVICE_UNAVAILABLE", `${field}: ${show(wanted)} is not available: ${reason}`, {
    hint: `${hint ?? "CUDA_VISIBLE_DEVICES chooses and orders the cards that this process sees"}; device 'cpu' needs no card`,
  });
}

/** The kind of a device: runs go on with another card of it. */
export const deviceKind = (device: string): string => device.split(":")[0]!;
