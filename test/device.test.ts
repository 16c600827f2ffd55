// Which device a model is loaded on: the CPU, a card, or what auto finds; and what is said where there is no card to use. Rows about
// cards need an addon that has them: that of the emulation (npm run test:cuda), or one built with CUDA.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { createTrainer, loadModel } from "../src/index.js";
import {
  dpoLoss,
  flashAttention,
  flashAttentionBackward,
  preferenceLoss,
  sequenceLogProbs,
  type Tensor,
} from "../src/native.js";
import { machine } from "../src/base/addon.js";
import { near, rejects } from "./helpers/assert.js";
import { cliCommand, node } from "./helpers/child.js";
import { cases, dpo, folder, pairs } from "./helpers/golden.js";
import { needing } from "./helpers/optional.js";

const test = suite("device");
const has = machine().devices.cuda !== undefined;
const emulated = has && process.env.ISR_DPO_PREBUILD?.includes("emulated"); // rows choose what its driver says
const onCards = needing(test, emulated ? undefined : "the binary of the emulation");
const onCpu = needing(test, has ? "a binary without CUDA" : undefined);

interface Said {
  info?: { device: string; isa: string };
  error?: { code: string; message: string; hint: string };
  warnings: string[];
  inspected: {
    cuda: { name: string; memoryBytes: number; capability: string; address: string }[];
    cudaLibrary: string;
    cudaRanksLibrary: string;
    cudaProblem: string;
  };
}

function ask(device: string, env: Record<string, string> = {}): Said {
  const ended = node(["--import", "tsx", "test/children/device.ts", device], env);
  assert.is(ended.code, 0, ended.err);
  return JSON.parse(ended.out);
}

test("cpu: no card is asked for", () => {
  const { info, warnings } = ask("cpu", { ISR_CUDA_CRASH: "1" });
  assert.is(info!.device, "cpu");
  assert.equal(warnings, []);
});

onCpu("a binary without CUDA: auto is the CPU, cuda is refused with what to do, inspect says why", () => {
  const { info, warnings, inspected } = ask("auto");
  assert.is(info!.device, "cpu");
  assert.equal([warnings, inspected.cuda], [[], []]);
  assert.match(inspected.cudaProblem, /this binary has no CUDA; .*docs\/gpu\.md/);
  const { error } = ask("cuda:1");
  assert.is(error!.code, "DEVICE_UNAVAILABLE");
  assert.match(error!.message, /options\.device: "cuda:1" is not available: this binary has no CUDA/);
  assert.match(error!.hint, /device 'cpu' needs no card/);
});

onCards("auto and cuda are the first card; inspect tells of every card and of the library", () => {
  for (const device of ["auto", "cuda", "cuda:0"]) {
    const { info, warnings, error } = ask(device, { ISR_CUDA_CARDS: "2" });
    assert.equal([info?.device, info?.isa, warnings, error], ["cuda:0", "cuda", [], undefined]);
  }
  const { info, inspected } = ask("cuda:1", { ISR_CUDA_CARDS: "2" });
  assert.is(info!.device, "cuda:1");
  assert.is(inspected.cuda.length, 2);
  assert.match(inspected.cuda[0]!.capability, /^\d+\.\d$/);
  assert.match(inspected.cudaLibrary, /^cuBLASLt \d+\.\d+\.\d+, /);
  assert.match(inspected.cudaRanksLibrary, /^NCCL 2\.\d+\.\d+, /);
  assert.equal(
    inspected.cuda.map((card) => card.address),
    ["0000:00:00.0", "0000:01:00.0"],
  );
  assert.is(inspected.cudaProblem, null);
  const printed = node([...cliCommand, "inspect"], { ISR_CUDA_CARDS: "2" });
  assert.match(printed.out, /cuda:1 +.*GiB, compute capability \d+\.\d\n/);
});

const troubles: [string, Record<string, string>, RegExp, RegExp][] = [
  ["no card", { ISR_CUDA_CARDS: "0" }, /sees no card/, /nvidia-smi/],
  [
    "a driver that ends the process",
    { ISR_CUDA_CRASH: "1" },
    /the process that asked it ended by SIGABRT/,
    /nvidia-smi/,
  ],
];
for (const [name, env, reason, hint] of troubles)
  onCards(`${name}: auto says so once and takes the CPU, cuda is refused, and this process lives`, () => {
    const { info, warnings, inspected } = ask("auto", env);
    assert.is(info!.device, "cpu");
    assert.is(warnings.length, 1);
    assert.match(warnings[0]!, reason);
    assert.match(warnings[0]!, /computing on the CPU/);
    assert.match(inspected.cudaProblem, reason);
    assert.match(inspected.cudaProblem, hint);
    const { error } = ask("cuda", env);
    assert.is(error!.code, "DEVICE_UNAVAILABLE");
    assert.match(error!.message, reason);
    assert.match(error!.hint, hint);
  });

onCards("a number behind the last card: refused with the cards that there are", () => {
  const { error } = ask("cuda:1", { ISR_CUDA_CARDS: "1" });
  assert.is(error!.code, "DEVICE_UNAVAILABLE");
  assert.match(error!.message, /"cuda:1" is not available: the driver sees cuda:0 \(/);
});

onCards("on a card: golden tokens and loss, beside a model on the CPU in one process", async () => {
  const [c] = cases("text_llama").cases;
  const { suppress } = cases("text_llama");
  await using card = await loadModel(folder("text_llama"), { device: "cuda" });
  await using cpu = await loadModel(folder("text_llama"), { device: "cpu" });
  const request = { prompt: { ids: c!.prompt }, maxTokens: 16, suppress };
  const [[a], [b]] = await Promise.all([card.generate(request), cpu.generate(request)]);
  assert.equal([...a!.ids], [...c!.generated]);
  assert.equal([...a!.ids], [...b!.ids]);
  await using trainer = await createTrainer(card, { beta: 0.1 });
  const { metrics } = await trainer.gradients(pairs(dpo("text_llama"), true), { names: [] });
  near([metrics.loss], [dpo("text_llama").facts.loss_beta_0_1], 1e-5, "loss");
});

onCards("isr-dpo/native on a card: attention, log-probs and losses as on the CPU", async () => {
  const values = (n: number, k: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(i * k + 1));
  const tensor = (shape: number[], k: number): Tensor => ({
    ...{ dtype: "f32", shape },
    data: values(
      shape.reduce((a, b) => a * b, 1),
      k,
    ),
  });
  const [q, k, v] = [tensor([20, 4, 16], 0.7), tensor([20, 2, 16], 1.3), tensor([20, 2, 16], 2.1)];
  const spec = { spans: Int32Array.of(0, 12, -1, 12, 20, 0), causal: true };
  const run = async (backend: "cpu" | "cuda") => {
    const { out, lse } = await flashAttention(q, k, v, { ...spec, backend });
    const { dq, dk, dv } = await flashAttentionBackward(q, q, k, v, out, lse, { ...spec, backend });
    const targets = Int32Array.from({ length: 20 }, (_, i) => (i % 5 === 0 ? -1 : i));
    const scored = await sequenceLogProbs(tensor([20, 8], 0.3), tensor([30, 8], 0.9), targets, {
      ...{ backend, backward: values(20, 0.2) },
    });
    const all = [out, lse, dq, dk, dv, scored.dHidden!, scored.dHead!].map((t) => t.data as Float32Array);
    return [...all, scored.logProbs];
  };
  const [cpu, card] = [await run("cpu"), await run("cuda")];
  for (const [i, values] of cpu.entries()) near(card[i]!, values, 1e-5, `result ${i}`);
  const logps = (seed: number) => [values(5, seed), values(3, seed + 1)].map((row) => row.map((x) => x - 2));
  const given = [logps(0.3), logps(0.5), logps(0.7), logps(0.9)] as const;
  const [host, device] = [dpoLoss(...given), await preferenceLoss(...given, { backend: "cuda" })];
  near([device.loss], [host.loss], 1e-6, "loss");
  for (const side of ["dChosen", "dRejected"] as const)
    for (const [i, row] of device[side].entries()) near(row, host[side][i]!, 1e-6, `${side}[${i}]`);
  await rejects(
    () => flashAttention(q, k, v, { ...spec, backend: "gpu" as "cuda" }),
    "INVALID_ARGUMENT",
    /spec\.backend: expected one of cpu, cuda, reference/,
    "an unknown backend",
  );
});

test.run();
