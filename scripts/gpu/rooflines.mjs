// node scripts/gpu/rooflines.mjs: what the CUDA kernels can reach at best on an A100 and an H100, as the tables of docs/gpu.md: from the
// instructions that nvcc made (bench/cuda/sass.jsonl), and from the bytes that a kernel has to move. Upper bounds; nothing is measured.
import { blocksOf, read } from "./sass.mjs";

// SXM parts with 80 GB. Dense bfloat16 and bandwidth by the data sheets. An m16n8k16 product takes a multiprocessor `product` cycles of its
// tensor cores; reading a fragment of four 8 x 8 matrices takes 4 cycles of its shared memory on both.
const cards = {
  A100: { architecture: "sm_80", tflops: 312, terabytes: 2.04, product: 2 },
  H100: { architecture: "sm_90", tflops: 989, terabytes: 3.35, product: 1 },
};
const names = Object.keys(cards);

/** Of the tensor cores' peak, by instructions: the products' cycles over those of whichever unit has more to do. */
const ceilingOf = ({ HMMA, LDSM }, { product }) => (HMMA * product) / Math.max(HMMA * product, LDSM * 4);

function attention() {
  const rows = read().slice(1);
  console.log("| Kernel | registers, blocks an SM: A100, H100 | HMMA : LDSM | tensor cores at most, A100 | H100 |");
  console.log("|---|---|---|---|---|");
  for (const columns of [64, 80, 128])
    for (const which of ["forward", "key", "query"]) {
      const kernel = `${which}_tiles<${columns}>`;
      const of = (name) => rows.find((row) => row.kernel === kernel && row.architecture === cards[name].architecture);
      const use = names.map(
        (name) => `${of(name).registers}, ${blocksOf(kernel, cards[name].architecture, of(name).registers)}`,
      );
      const share = names.map((name) => `${Math.round(100 * ceilingOf(of(name), cards[name]))} %`);
      const { HMMA, LDSM } = of("A100");
      console.log(`| ${kernel} | ${use.join("; ")} | ${HMMA} : ${LDSM} | ${share.join(" | ")} |`);
    }
}

// A decoder of 6.7 B parameters on one packed pair: 2,048 shared tokens and 2 x 128 of answers.
const decoder = { width: 4096, layers: 32, heads: 32, size: 128, mlp: 11008, vocab: 32000, tokens: 2304, scored: 256 };
const parameters =
  decoder.layers * (4 * decoder.width ** 2 + 3 * decoder.width * decoder.mlp) + 2 * decoder.vocab * decoder.width;

/** [what, bytes]: activations are bfloat16, what the optimizer keeps is float32. */
function moved() {
  const { width, layers, heads, size, mlp, tokens } = decoder;
  const wide = tokens * width * 2;
  return [
    ["RMSNorm forward, all layers: x, y", 2 * layers * 2 * wide],
    ["RMSNorm backward: dy, x, dx twice", 2 * layers * 4 * wide],
    ["rotary positions, forward and backward: q and k there and back", 2 * layers * 4 * tokens * heads * size * 2],
    ["SwiGLU backward: pre, dy, dpre", layers * 5 * tokens * mlp * 2],
    ["keys and values into pages", layers * 4 * tokens * heads * size * 2],
    ["AdamW: master, two moments there and back, gradient, value", 30 * parameters],
    ["norm of the gradients", 4 * parameters],
    [`decoding one token: keys and values of ${tokens} tokens`, 2 * layers * tokens * heads * size * 2],
    ["decoding one token: every weight once", 2 * (parameters - decoder.vocab * width)],
  ];
}

function memory() {
  const reach = 0.9; // of the data sheet's bandwidth: what plain copies reach
  console.log(`\n| Kernel | GB | ${names.map((name) => `ms, ${name}`).join(" | ")} |\n|---|---|---|---|`);
  for (const [what, bytes] of moved()) {
    const times = names.map((name) => (bytes / (cards[name].terabytes * 1e12 * reach)) * 1e3);
    console.log(`| ${what} | ${(bytes * 1e-9).toFixed(2)} | ${times.map((ms) => ms.toFixed(2)).join(" | ")} |`);
  }
}

function room() {
  const values = 2 * parameters;
  const state = 4 * 4 * parameters; // gradient, master, two moments
  const { width, layers, tokens } = decoder;
  const kept = layers * tokens * width * 2; // inputs of blocks; the rest is computed again
  console.log(
    "\n| Cards | weights | gradients and optimizer | inputs of blocks | in all, a card |\n|---|---|---|---|---|",
  );
  for (const count of [1, 2, 4, 8]) {
    const parts = [values, state / count, kept].map((bytes) => bytes * 1e-9);
    const sum = parts.reduce((a, b) => a + b);
    console.log(`| ${count} | ${[...parts, sum].map((gb) => `${gb.toFixed(1)} GB`).join(" | ")} |`);
  }
}

attention();
memory();
room();
