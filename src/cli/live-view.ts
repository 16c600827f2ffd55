// --live: the page of a run on loopback, from its first event to its end.
import { basename, resolve } from "node:path";
import { Option } from "commander";
import type { IterationEvent } from "../index.js";
import { isIsrDpoError } from "../base/errors.js";
import { wholeNumber } from "./flags.js";
import { Interrupted } from "./interrupt.js";
import { say } from "./terminal.js";
import { jsonLine } from "../base/line-files.js";

export interface LiveFlags {
  /** true: a port that is free. */
  live?: number | true;
  json?: boolean;
}

export interface Live {
  event(e: IterationEvent): void;
  /** Without an error: done. */
  end(e?: unknown): Promise<void>;
}

export const liveOption = (): Option =>
  new Option("--live [port]", "a page about the run on 127.0.0.1 (default port: a free one)").argParser(
    wholeNumber(0, 65_535),
  );

const none: Live = { event: () => {}, end: async () => {} };

/** Opens the page and tells its address, where --live was given. */
export async function openLive(flags: LiveFlags, kind: "sft" | "dpo", runDir: string): Promise<Live> {
  if (flags.live === undefined) return none;
  const { cut } = await import("../report/live-state.js");
  const { LiveServer } = await import("../report/live-server.js");
  const port = flags.live === true ? 0 : flags.live;
  const server = await LiveServer.open({ port, kind, title: basename(resolve(runDir)) });
  if (flags.json) process.stdout.write(jsonLine({ type: "live", url: server.url }));
  else say(`live page: ${server.url}`);
  return {
    event: (e) => server.event(e),
    end(e) {
      if (e === undefined) return server.end({ state: "done" });
      if (e instanceof Interrupted) return server.end({ state: "stopped" });
      const code = isIsrDpoError(e) ? e.code : "BUG";
      return server.end({ state: "failed", code, message: cut(e instanceof Error ? e.message : String(e)) });
    },
  };
}
