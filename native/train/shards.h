// Which rank keeps what of a group's masters and moments. A function of the model and the number of ranks alone.
#pragma once
#include <vector>

#include "models/model.h"

namespace isr {

// Rank r of `ranks` has elements [cuts[r], cuts[r + 1]) of the group's arrays: about equal parts, cut between rows of parameters.
// A group with fewer rows than ranks leaves some without.
std::vector<int64_t> shard_cuts(const Group& group, int ranks);

// What a trainer updates of a part: its parameters, or those of the decoder's adapter.
std::vector<std::vector<Param*>> trained_groups(const Model& model, Part part);
// Of a block's trained parameters; null: it has none.
Group* group_of(const Layer& layer);

// Whether a group's gradients are shared out where any are: those of the decoder's blocks. What embeddings and head, or towers and
// projector, get is complete only at the end of a backward pass, and is whole until then.
bool takes_turns(const Network& network, const std::vector<Param*>& group);

// The rows of a parameter that lie in elements [begin, end) of its group's arrays, which were cut between rows.
struct Rows { int64_t first = 0, count = 0; };
Rows rows_within(const Param& p, int64_t begin, int64_t end);

}  // namespace isr
