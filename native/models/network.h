// What the forward passes compute with: parameters and matrices by their role. A family's parts fill it (models/parts.h).
#pragma once
#include <deque>
#include <optional>

#include "models/vision.h"

namespace isr {

struct Layer {
  Param* attention_norm = nullptr;
  Param* mlp_norm = nullptr;
  Param *q_norm = nullptr, *k_norm = nullptr;   // of each head (D); null: none
  Weight qkv, out, gate_up, down;
  Group* group = nullptr;                     // set by a trainer
};

struct Network {
  Param* token_embedding = nullptr;
  Param* final_norm = nullptr;
  std::deque<Layer> layers;
  Weight head;                                 // parts[0] == token_embedding when tied
  Group* shared_group = nullptr;               // embeddings, head, final norm; set by a trainer
  Arrivals* arrivals = nullptr;                // of values; set by a trainer among ranks
  void settle() { if (arrivals) arrivals->need_all(); }   // before values are read by anything but a recorded pass
  std::optional<Vision> vision;                // absent: a text model
};

}  // namespace isr
