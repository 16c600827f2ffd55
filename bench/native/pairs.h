// Preference pairs of random tokens for benches, and how much work there is in them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "../../test/native/seeded_model.h"
#include "train/trainer.h"

namespace isr::bench {

inline TrainPair make_pair(int64_t vocab, int64_t prompt, int64_t chosen, int64_t rejected, uint64_t seed) {
  const std::vector<int32_t> shared = test::random_ids(prompt, vocab, seed);
  const auto sequence = [&](int64_t answer, uint64_t s) {
    SequenceInput x;
    x.ids = shared;
    for (int32_t id : test::random_ids(answer, vocab, s)) x.ids.push_back(id);
    std::vector<uint8_t> scored(x.ids.size(), 0);
    std::fill(scored.begin() + prompt, scored.end(), uint8_t{1});
    x.targets = targets_of(x.ids, scored);
    return x;
  };
  return {"", sequence(chosen, seed * 2 + 1), sequence(rejected, seed * 2 + 2), {}, {}};
}

struct Work { int64_t tokens; double visible; };   // rows, and pairs of rows that see each other

inline Work shared_work(int64_t prompt, int64_t answer) {
  const auto p = static_cast<double>(prompt - 1), a = static_cast<double>(answer + 1);   // each branch has its own last prompt row
  return {prompt - 1 + 2 * (answer + 1), p * (p + 1) / 2 + 2 * (a * p + a * (a + 1) / 2)};
}
inline Work separate_work(int64_t prompt, int64_t answer) {
  const auto n = static_cast<double>(prompt + answer);
  return {2 * (prompt + answer), n * (n + 1)};
}

}  // namespace isr::bench
