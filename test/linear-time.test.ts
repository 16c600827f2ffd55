// No reader of text takes time that grows faster than the text: a row of a megabyte must not stop a program for minutes.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { commandOf } from "../src/cli/conversation-loop.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("growth");

test("long texts go through every reader before the process is killed", () => {
  const child = fileURLToPath(new URL("children/growth.ts", import.meta.url));
  // What is quadratic takes minutes for one of these hundreds of texts; all of them together take seconds.
  const run = spawnSync(process.execPath, ["--import", "tsx", child, temporaryFolder()], {
    timeout: 300_000,
    encoding: "utf8",
  });
  assert.is(
    run.status,
    0,
    `ended by ${run.signal ?? run.status} behind ${run.stdout.trim().split("\n").at(-1)}: ${run.stderr}`,
  );
  assert.match(run.stdout, /rows\n$/);
});

const lines: readonly [line: string, command: string | undefined, rest: string | undefined][] = [
  ["/video a b.mp4  ", "video", "a b.mp4"],
  ["/reset", "reset", undefined],
  ["/reset \t", "reset", undefined],
  ["hello /reset", undefined, undefined],
  ["/ reset", undefined, undefined],
];
for (const [line, command, rest] of lines)
  test(`a line of a conversation: ${JSON.stringify(line)}`, () => {
    const [, found, behind] = commandOf(line);
    assert.equal([found, behind], [command, rest]);
  });

test.run();
