// The prompts of the method in the words of the synthetic world, which the tiny model was taught.
import type { Prompts } from "../iterate/method-prompts.js";
import { labels } from "./teaching-examples.js";

export const worldPrompts: Prompts = {
  system: "",
  response: "<q> {question} <ans>",
  context: { first: "<describe>", next: "<ctx> {previous} <refine>" },
  judge: {
    plain: "<judge> <q> {question} <1> {first} <2> {second} <choice>",
    withContext: "<judge> <ctx> {context} <q> {question} <1> {first} <2> {second} <choice>",
    labels,
  },
};
