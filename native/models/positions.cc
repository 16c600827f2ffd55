#include "models/positions.h"

#include <numeric>

namespace isr {

std::vector<int32_t> rope_sections(std::span<const int64_t> pairs) {
  std::vector<int32_t> axis;
  for (size_t a = 0; a < pairs.size(); ++a) axis.insert(axis.end(), static_cast<size_t>(pairs[a]), static_cast<int32_t>(a));
  return axis;
}

std::vector<int32_t> rope_interleaved(std::span<const int64_t> pairs) {
  std::vector<int32_t> axis(static_cast<size_t>(std::accumulate(pairs.begin(), pairs.end(), int64_t{0})));
  for (size_t i = 0; i < axis.size(); ++i) {
    const size_t a = i % pairs.size(), round = i / pairs.size();
    if (static_cast<int64_t>(round) < pairs[a]) axis[i] = static_cast<int32_t>(a);
  }
  return axis;
}

}  // namespace isr
