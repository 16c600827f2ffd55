// Where tokens stand, for rotary embeddings. A family's rule (Family::positions) is a function of what stands up to a token
// and of the grids of its media, so that sequences with a common prefix have the same positions there.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "models/config.h"

namespace isr {

// Rows of one medium that follow each other in a sequence.
struct PlacedMedium {
  int64_t begin = 0, rows = 0;       // in the sequence
  int64_t from = 0;                  // the first one's number among the medium's rows
  Grid grid;
  double seconds = 0;                // per step of the grid along time
};

struct SequencePositions {
  int64_t axes = 1;                  // P
  std::vector<int32_t> values;       // (P, S), axis by axis; empty: a token's index, on every axis
  int32_t shift = 0;                 // the k-th token behind the sequence stands at S + k + shift, on every axis
  int32_t at(int64_t axis, int64_t token) const {
    const auto length = static_cast<int64_t>(values.size()) / axes;
    return length == 0 ? static_cast<int32_t>(token) : values[static_cast<size_t>(axis * length + token)];
  }
};

using Positioner = std::function<SequencePositions(std::span<const int32_t> ids)>;
inline SequencePositions by_index(std::span<const int32_t>) { return {}; }

// Which axis of its position each rotary pair reads (RopeConfig::axis), where axis a has pairs[a] of them. In sections: first
// those of axis 0, then those of axis 1, ... Interleaved: pair i is axis i % P's while that has pairs left, else axis 0's.
std::vector<int32_t> rope_sections(std::span<const int64_t> pairs);
std::vector<int32_t> rope_interleaved(std::span<const int64_t> pairs);

using PositionRows = std::vector<std::vector<int32_t>>;   // (P, T) of a batch: one vector an axis

}  // namespace isr
