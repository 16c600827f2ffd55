// Options of sampling: one row each, for calls, rows of files, configuration files and flags.
import { listOf, oneOf, randomSeed, real, tokenIds, whole, words, wordsOrEmpty } from "../base/option-rows.js";

/** How tokens are sampled. */
export const samplingRows = {
  temperature: real(
    "Temperature of sampling, which divides the logits; at 0 the most probable token is taken each time.",
    { min: 0 },
  ).or(0),
  topP: real("Samples from the fewest tokens whose probabilities sum to this share; at 1 from all.", {
    above: 0,
    max: 1,
  }).or(1),
  topK: whole("Samples from this number of most probable tokens; at 0 from all.", 0, 2 ** 31 - 1).or(0),
  maxTokens: whole("Longest answer in tokens; default: 256, or less where the context has less room.", 1, 2 ** 31 - 1),
  stop: listOf("Texts that end an answer; they are not part of its text. Default: none.", words("")),
  suppress: tokenIds("Ids that are never sampled; default: none."),
  minTokens: whole(
    "Shortest answer in tokens. End tokens and `stopIds` are not sampled among the first `minTokens` tokens, and a stop string counts only if a later token completes it.",
    0,
    2 ** 31 - 1,
  ).or(0),
  stopIds: tokenIds("Ids that end an answer, in addition to the model's end tokens; default: none."),
  seed: randomSeed(
    "Seed of the draws. A draw depends on the seed, the random stream, the copy and the position alone.",
  ),
  randomStream: wordsOrEmpty("Name of the random stream: with the same seed, other names give other draws.")
    .or("")
    .formerly("stream"),
  specialTokens: oneOf(
    'How special tokens in a prompt\'s text are read; default: "parse", in chat() "text".',
    "parse",
    "text",
  ),
};

/** How one prompt is answered. */
export const requestRows = {
  ...samplingRows,
  n: whole("Number of answers.", 1, 65_536).or(1).formerly("copies"),
};

/** Rows of a file that are answered at the same time. */
export const batchRow = whole("Rows that are answered at the same time.", 1, 4096).or(64);

/** Names of the options of sampling. */
export const samplingKeys: readonly string[] = Object.keys(samplingRows);
