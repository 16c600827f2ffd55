// Named values for keys that a configuration file leaves out.
const paperDpo = {
  loss: "sigmoid",
  beta: 0.1,
  learningRate: 5e-7,
  schedule: "linear",
  warmupRatio: 0.1,
  betas: [0.9, 0.999],
  eps: 1e-8,
  weightDecay: 0,
  clipNorm: null,
  train: { vision: false, projector: false, decoder: true },
} as const;

/** LLaVA-Hound-DPO's values; the paper and its code leave most of them out. */
export const presets = {
  paper: {
    train: {
      trainer: paperDpo,
      epochs: 3,
      itemsPerStep: 128,
      load: { dtype: "bf16" },
    },
    run: {
      from: 1,
      to: 9,
      context: { maxTokens: 512, temperature: 0.7, topP: 0.9 },
      response: { maxTokens: 512, temperature: 0.7, topP: 0.9 },
      judge: { kind: "self", method: "text", orders: "one" },
      train: {
        ...paperDpo,
        epochs: 3,
        pairsPerStep: 128,
      },
      video: { frames: 8, looks: "same" },
      load: { dtype: "bf16" },
    },
  },
} as const;
