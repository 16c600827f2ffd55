// Two network namespaces and a cable between them, as two machines, and what can happen to the packets on it.
import { execFileSync, spawnSync } from "node:child_process";
import { constants } from "node:os";

const ip = (...args: string[]) => execFileSync("ip", args, { encoding: "utf8", stdio: "pipe" });
const nft = (namespace: string, ...lines: string[]) => ip("netns", "exec", namespace, "nft", lines.join("; "));
const laid = new Set<Cable>();

function removeAll(): void {
  for (const cable of laid) cable.remove();
}
process.on("exit", removeAll);
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => process.exit(128 + constants.signals[signal])); // by way of "exit"

function lives(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** Namespaces of tests that were killed stay behind. */
function sweep(): void {
  for (const [name, pid] of ip("netns", "list").matchAll(/^isr-[ab]-(\d+)-\d+/gm))
    if (!lives(Number(pid))) ip("netns", "del", name);
}

/** The chains of a table that packets pass, both ways. */
const chains = ["input", "output"] as const;
const chain = (hook: string, policy: string) =>
  `add chain inet isr ${hook} { type filter hook ${hook} priority 0; policy ${policy}; }`;

export class Cable {
  readonly namespaces: readonly [string, string];
  /** Where a process of the first namespace can listen for those of both. */
  readonly address = "10.77.0.1:29700";

  private constructor(index: number) {
    this.namespaces = [`isr-a-${process.pid}-${index}`, `isr-b-${process.pid}-${index}`];
  }

  static lay(index = 0): Cable {
    if (laid.size === 0) sweep();
    const cable = new Cable(index);
    laid.add(cable);
    const [a, b] = cable.namespaces;
    for (const name of cable.namespaces) ip("netns", "add", name);
    ip("link", "add", "isr-v", "netns", a, "type", "veth", "peer", "name", "isr-v", "netns", b);
    for (const [i, name] of cable.namespaces.entries()) {
      ip("-n", name, "addr", "add", `10.77.0.${i + 1}/24`, "dev", "isr-v");
      for (const device of ["isr-v", "lo"]) ip("-n", name, "link", "set", device, "up");
    }
    return cable;
  }

  /** Connections to and from a port, as the first namespace has them. */
  connections(port: number): number {
    const tcp = ip("netns", "exec", this.namespaces[0], "ss", "-Htn", "state", "established");
    return tcp.split("\n").filter((line) => new RegExp(`:${port}( |$)`).test(line)).length;
  }

  /** Nothing goes across, and both ends know. */
  cut(): void {
    ip("-n", this.namespaces[1], "link", "set", "isr-v", "down");
  }

  /** Nothing goes across, and nobody is told. */
  dropAll(): void {
    nft(this.namespaces[1], "add table inet isr", ...chains.map((hook) => chain(hook, "drop")));
  }

  /** Only what goes to or comes from a port of the first namespace does. */
  dropOtherPorts(port: number): void {
    const [a] = this.address.split(":");
    nft(
      this.namespaces[1],
      ...["add table inet isr", ...chains.map((hook) => chain(hook, "drop"))],
      `add rule inet isr input ip saddr ${a} tcp sport ${port} accept`,
      `add rule inet isr output ip daddr ${a} tcp dport ${port} accept`,
    );
  }

  /** So many of a hundred packets are lost at each end. */
  lose(percent: number): void {
    for (const name of this.namespaces)
      nft(
        name,
        ...["add table inet isr", chain("input", "accept")],
        `add rule inet isr input iifname isr-v numgen random mod 100 < ${percent} drop`,
      );
  }

  /** Everything goes across again. */
  mend(): void {
    ip("-n", this.namespaces[1], "link", "set", "isr-v", "up");
    for (const name of this.namespaces) spawnSync("ip", ["netns", "exec", name, "nft", "delete table inet isr"]);
  }

  remove(): void {
    for (const name of this.namespaces) spawnSync("ip", ["netns", "del", name]);
    laid.delete(this);
  }
}

/** Why this machine has no cables; undefined where it has. `filtered`: with the means to drop packets. */
export function cablesMissing(filtered = false): string | undefined {
  if (process.getuid?.() !== 0 || spawnSync("ip", ["-V"]).status !== 0) return "no network namespaces (root, iproute2)";
  try {
    const cable = Cable.lay(9999);
    try {
      if (filtered) cable.lose(1);
    } finally {
      cable.remove();
    }
    return undefined;
  } catch (e) {
    return filtered
      ? `no network namespaces, or no nft in them (nftables): ${(e as Error).message}`
      : `no network namespaces: ${(e as Error).message}`;
  }
}
