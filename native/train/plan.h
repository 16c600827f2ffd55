// What a training run will take, before anything is loaded: the model is outlined from its configs, and a micro-batch goes
// forward and backward under measuring arenas, so activations and scratch are what the run itself would allocate.
#pragma once
#include <string>

#include "train/trainer.h"

namespace isr {

struct PlanRequest {
  LoadOptions load;
  TrainerOptions trainer;
  bool supervised = false;
  int64_t items = 1;                 // of one step
  int64_t tokens = 0;                // computed tokens of an item: the prompt once, and its answers; 0: a guess from the model
  int64_t answer_tokens = 0;         // of one answer; 0: a guess from `tokens`
  uint64_t memory = 0;               // of the device the run is for: what "checkpointing: auto" looks at
  bool measure_rates = false;        // also run a product and a stream on this machine, about 0.1 s
};

struct PlanReport {
  ModelConfig config;
  std::string family;
  DType dtype = DType::F32;
  uint64_t checkpoint_bytes = 0;     // of the weights in the type that config.json names
  int64_t parameters = 0, trained = 0;
  int64_t largest_group = 0;         // elements of the largest group that is updated together

  // Bytes. Panels: what products read. Rows: row-major values beside them (embeddings, vectors; of matrices while they train
  // or a gradient flows through them). Vision: towers and projector.
  struct Part { uint64_t panels = 0, rows = 0, row_major = 0; } decoder, vision;   // row_major: one copy of all, in the model's type
  uint64_t trained_elements = 0;     // padded as the flat groups are: 4 bytes each of gradient, master, m and v
  uint64_t block_elements = 0;       // of them, those whose gradients ranks may share out (takes_turns)
  int64_t largest_block = 0;
  uint64_t activations = 0, scratch = 0;
  bool device_measured = false;      // scratch is that of the kernels of load.device; false: this binary has none for it, and it is the CPU's
  uint64_t media = 0;                // of one item: features, and on the host pixels, here and in JavaScript
  uint64_t kv_page = 0;              // 64 tokens, all layers
  bool checkpointing = false;

  int threads = 0;
  int64_t tokens = 0, answer_tokens = 0, micro_batch_items = 0;
  int64_t media_tokens = 0, tower_bytes = 0;     // of one video: rows of the decoder, bytes of cached features
  double flops_item = 0;             // forward + backward of one item, recomputation included
  double flops_score = 0;            // its reference log-probs
  double flops_token = 0;            // forward of one token through blocks and head
  double flops_media = 0;            // tower and projector on one video
  struct Rate { double low = 0, high = 0; };           // over several short measurements
  Rate flops_per_second, bytes_per_second;             // measured; 0 unless asked for
};

PlanReport plan_training(const std::string& dir, const PlanRequest& request);

}  // namespace isr
