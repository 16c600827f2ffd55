// Pairs for the tests of trainers.
#pragma once
#include <algorithm>
#include <vector>

#include "seeded_model.h"
#include "train/trainer.h"

namespace isr::test {

inline SequenceInput sequence(std::vector<int32_t> prompt, const std::vector<int32_t>& answer) {
  SequenceInput s;
  const size_t first = prompt.size();
  s.ids = std::move(prompt);
  s.ids.insert(s.ids.end(), answer.begin(), answer.end());
  std::vector<uint8_t> scored(s.ids.size(), 0);
  std::fill(scored.begin() + static_cast<std::ptrdiff_t>(first), scored.end(), uint8_t{1});
  s.targets = targets_of(s.ids, scored);
  return s;
}

// Pairs over two prompts that begin alike, so that sharing forms chains of branches.
inline std::vector<TrainPair> make_pairs(int64_t vocab) {
  std::vector<TrainPair> pairs;
  const std::vector<int32_t> system = random_ids(70, vocab, 1);
  for (uint64_t i = 0; i < 4; ++i) {
    std::vector<int32_t> prompt = system;
    for (int32_t id : random_ids(5 + static_cast<int64_t>(i / 2) * 9, vocab, 10 + i / 2)) prompt.push_back(id);
    pairs.push_back({"", sequence(prompt, random_ids(7 + static_cast<int64_t>(i) * 5, vocab, 20 + i)), sequence(prompt, random_ids(11, vocab, 30 + i)), {}, {}});
  }
  return pairs;
}

}  // namespace isr::test
