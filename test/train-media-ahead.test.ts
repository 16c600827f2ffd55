// Media of the next step are opened while this one is computed, held until their step has ended, and never fail another one's.
import { test } from "uvu";
import * as assert from "uvu/assert";
import { MediaAhead, type OpenMedia } from "../src/train/media-ahead.js";
import type { TrainItem } from "../src/base/types.js";

const itemOf = (path: string): TrainItem => ({ prompt: "p", answer: "a", media: [path] }) as TrainItem;
const never = new AbortController().signal;
const later = () => new Promise<void>((done) => setImmediate(done));

/** An opener that keeps a record: `begun` resolves once it was asked for the first time. */
function recorded() {
  const log: string[] = [];
  let ask = (): void => {};
  const begun = new Promise<void>((done) => {
    ask = done;
  });
  const open: OpenMedia = async (files) => {
    log.push(`open ${files.join()}`);
    ask();
    return () => void log.push(`back ${files.join()}`);
  };
  return { log, begun, open };
}

test("the next items' media are opened before the work at hand has ended", async () => {
  const { log, begun, open } = recorded();
  const ahead = new MediaAhead(open, never);
  const late = new Promise<never>((_, fail) => setTimeout(() => fail(new Error("nothing was opened")), 20_000).unref());
  assert.is(
    await Promise.race([
      ahead.during(
        begun.then(() => 5),
        async () => [itemOf("b.mp4")],
      ),
      late,
    ]),
    5,
  );
  assert.equal(log, ["open b.mp4"]);
});

test("media are held until the work they were opened for has ended", async () => {
  const { log, open } = recorded();
  const ahead = new MediaAhead(open, never);
  const step = (next: string) => ahead.during(later(), async () => [itemOf(next)]);
  await step("b");
  await step("c");
  await later();
  assert.equal(log, ["open b", "open c", "back b"]);
  ahead.end();
  await later();
  assert.equal(log, ["open b", "open c", "back b", "back c"]);
});

test("work that fails gives its media back, and its error is its own", async () => {
  const { log, open } = recorded();
  const ahead = new MediaAhead(open, never);
  await ahead.during(later(), async () => [itemOf("b")]);
  const failing = ahead.during(Promise.reject(new Error("step")), async () => [itemOf("c")]);
  assert.is(await failing.catch((e: Error) => e.message), "step");
  await later();
  assert.equal(log, ["open b", "open c", "back b"]);
});

const broken: [what: string, open: OpenMedia, next: () => Promise<TrainItem[]>][] = [
  ["an opener that fails", () => Promise.reject(new Error("open")), async () => [itemOf("b")]],
  ["items that cannot be read", recorded().open, () => Promise.reject(new Error("items"))],
];
for (const [what, open, next] of broken)
  test(`${what}: left to the step that needs them`, async () => {
    const ahead = new MediaAhead(open, never);
    assert.is(await ahead.during(Promise.resolve(1), next), 1);
    assert.is(await ahead.during(Promise.resolve(2), async () => []), 2);
  });

test("the end stops what is being opened", async () => {
  const log: string[] = [];
  const open: OpenMedia = (_, signal) =>
    new Promise((_, fail) =>
      signal.addEventListener("abort", () => {
        log.push("stopped");
        fail(signal.reason);
      }),
    );
  const ahead = new MediaAhead(open, never);
  await ahead.during(later(), async () => [itemOf("b")]);
  ahead.end();
  await later();
  assert.equal(log, ["stopped"]);
});

test.run();
