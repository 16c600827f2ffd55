// node bench/scale.mjs [--KEY VALUE ...]: what many cards would gain, simulated from the seconds that a pair takes on one card and the rates
// of the links. Prints its assumptions, each of which is an option, and a table. Nothing in the defaults is measured on a card; with
// figures that were measured (docs/ranks.md has those of one machine) it is checked against the bench `ranks`.
//
// A step as the engine makes it: every rank computes its pairs; it waits for the slowest; gradients go to whoever sums them, in float32;
// AdamW updates a shard; the new values go to all. Links take their whole time here: the engine sends gradients beside the last backward,
// and values beside the next forward, and what of it a card hides has not been measured.
import { parseArgs } from "node:util";

const tera = 1e12;
const giga = 1e9;

/** [default, what it is] by option. */
const assumptions = {
  cards: ["8,64,512", "numbers of cards"],
  node: [8, "cards of a node"],
  parameters: [6.74e9, "parameters, all of them trained"],
  pairs: ["128,16x", "pairs of a step in all; with an x: of each card"],
  seconds: [0.31, "seconds of a pair on a card (2,304 tokens, 8 FLOPs each and parameter, 40 % of 989 TFLOP/s)"],
  spread: [0.03, "standard deviation of a rank's seconds, as a share of them"],
  inside: [300, "GB/s of a card to the others of its node, each way"],
  between: [40, "GB/s of a card to other nodes, each way (400 Gb/s a card, 80 % of it)"],
  latency: [15, "microseconds of a message"],
  memory: [3.0, "TB/s of a card's memory"],
  bytes: [2, "bytes of a parameter's value that go to all"],
  steps: [200, "steps that are simulated"],
};

const { values: given } = parseArgs({
  options: Object.fromEntries(Object.keys(assumptions).map((key) => [key, { type: "string" }])),
});
const option = (key) => given[key] ?? assumptions[key][0];
const number = (key) => {
  const value = Number(option(key));
  if (!(value >= 0)) throw new Error(`--${key}: expected a number of at least 0, got ${option(key)}`);
  return value;
};

const piece = 1 << 22; // elements of a shard that ranks exchange at once (native/train/reduction.cc)

/** Numbers in [0, 1) from a seed (Lehmer's generator), so that the table is the same each time. */
function uniform(seed) {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}

/** A draw from the standard normal distribution (Box and Muller). */
const normal = (next) => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());

/** Seconds in which each of `cards` sends its part of all values to every other one, `bytes` a value. */
function exchange(cards, bytes) {
  if (cards === 1) return 0;
  const near = Math.min(number("node"), cards) - 1;
  const far = cards - 1 - near;
  const each = (number("parameters") / cards) * bytes; // to one other card
  const busy = Math.max((near * each) / (number("inside") * giga), (far * each) / (number("between") * giga));
  const messages = Math.ceil(number("parameters") / cards / piece) * (cards - 1);
  return busy + messages * number("latency") * 1e-6;
}

function simulate(cards, pairs) {
  const next = uniform(20260101);
  const most = Math.ceil(pairs / cards);
  const fuller = pairs % cards || cards; // ranks that have `most` pairs, the others one less
  let computed = 0;
  for (let step = 0; step < number("steps"); step++) {
    let slowest = 0;
    for (let rank = 0; rank < cards; rank++) {
      const mine = rank < fuller ? most : most - 1;
      slowest = Math.max(slowest, mine * number("seconds") * Math.max(0, 1 + number("spread") * normal(next)));
    }
    computed += slowest / number("steps");
  }
  const update = (30 * number("parameters")) / cards / (number("memory") * tera);
  const sent = exchange(cards, 4) + exchange(cards, number("bytes"));
  const step = computed + sent + update;
  const alone = pairs * number("seconds") + (30 * number("parameters")) / (number("memory") * tera);
  const ideal = (pairs * number("seconds")) / cards;
  return { step, gain: alone / step, sent, waited: Math.max(0, computed - ideal) };
}

console.log("| Assumption | |\n|---|---|");
for (const [key, [, about]] of Object.entries(assumptions)) console.log(`| \`--${key} ${option(key)}\` | ${about} |`);
console.log(
  "\n| Cards | pairs a step | seconds a step | against one card | of the step: links | waiting for the slowest |",
);
console.log("|---|---|---|---|---|---|");
for (const asked of String(option("pairs")).split(","))
  for (const cards of String(option("cards")).split(",").map(Number)) {
    const pairs = asked.endsWith("x") ? cards * Number(asked.slice(0, -1)) : Number(asked);
    const { step, gain, sent, waited } = simulate(cards, pairs);
    const percent = (x) => `${((100 * x) / step).toFixed(1)} %`;
    const ratio = `${gain.toFixed(gain < 10 ? 2 : 1)} x (${Math.round((100 * gain) / cards)} %)`;
    console.log(`| ${cards} | ${pairs} | ${step.toFixed(2)} | ${ratio} | ${percent(sent)} | ${percent(waited)} |`);
  }
