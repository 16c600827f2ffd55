// A child that plays one run after another while file operations fail (test/faults/shim.c), so that a fault costs no start of Node.
import { openSync } from "node:fs";
import { createInterface } from "node:readline";

interface Play {
  /** The folder of the run, whose operations count. */
  dir: string;
  /** FAULT:K:READS */
  plan: string;
  /** A file that gets the number of operations. */
  report?: string;
}

function tellShim(what: string): void {
  try {
    openSync(`/isr-faults/${what}`, "r");
  } catch {} // there is no such file: the shim hears the name alone
}

/** Plays what lines of standard input ask for; prints a line when each has ended. */
export async function playFaults(play: (dir: string) => Promise<void>): Promise<void> {
  for await (const line of createInterface({ input: process.stdin })) {
    const { dir, plan, report } = JSON.parse(line) as Play;
    tellShim(`plan:${plan}:${dir}`);
    await play(dir);
    if (report !== undefined) tellShim(`report:${report}`);
    tellShim("plan:NONE:0:0:");
    console.log(JSON.stringify({ ended: true }));
  }
}
