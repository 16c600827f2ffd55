// isr-dpo/synthetic: clips of coloured shapes about which everything is known, and small models with random weights
// (docs/world.md).
export { worldModel } from "../base/addon.js";
export { type DecoderSpec, type InitSpec, initCheckpoint, type TowerSpec } from "./init-checkpoint.js";
export { worldSpec } from "./vocabulary.js";
export { type WorldSet, type WrittenWorld, writeWorld, writeWorldExamples } from "./world-samples.js";
