// Models of several ranks that train together, and their pairs.
#pragma once
#include "far.h"
#include "pairs.h"
#include "ranks.h"
#include "seeded_model.h"
#include "train/trainer.h"

namespace isr::test {

struct Setting {
  std::string name;
  ModelSpec spec = {};
  std::string dtype = "f32";
  std::string loss = "sigmoid";
  double gamma = 0;
  std::string device = "cpu";
  std::string checkpoint = "";   // a folder in place of `spec`
};

inline TrainerOptions options_of(const Setting& s, bool shard) {
  TrainerOptions o;
  o.loss.loss = s.loss;
  o.loss.gamma = s.gamma;
  o.learning_rate = 1e-3;
  o.weight_decay = 0.01;
  o.clip_norm = 1;
  o.micro_batch_tokens = 1;   // an item at a time: what a micro-batch holds then does not hang on the number of ranks
  o.shard = shard;
  return o;
}

template <class T>
std::vector<T> part_of(const std::vector<T>& all, int rank, int ranks) {
  const auto at = [&](int r) { return all.begin() + static_cast<std::ptrdiff_t>(all.size()) * r / ranks; };
  return {at(rank), at(rank + 1)};
}

inline std::vector<SequenceInput> chosen_of(const std::vector<TrainPair>& pairs) {
  std::vector<SequenceInput> all;
  for (const TrainPair& p : pairs) all.push_back(p.chosen);
  return all;
}

inline std::unique_ptr<Model> model_of(const Setting& s) {
  LoadOptions load;
  load.dtype = s.dtype;
  load.threads = 1;
  load.device = s.device;
  return s.checkpoint.empty() ? seeded_model(s.spec, load) : Model::load(s.checkpoint, load);
}

// Ranks with a model each, on its device.
inline Outcomes with_models(const Setting& s, int ranks, const std::function<void(Comm&, Model&)>& work) {
  std::vector<std::unique_ptr<Model>> models;
  std::vector<Device*> devices;
  for (int r = 0; r < ranks; ++r) devices.push_back(&models.emplace_back(model_of(s))->backend->device());
  return run_ranks(devices, [&](Comm& comm) { work(comm, *models[static_cast<size_t>(comm.rank())]); });
}

// This rank's pairs, with their references.
inline std::vector<TrainPair> scored_part(Trainer& trainer, int64_t vocab, int rank, int ranks) {
  std::vector<TrainPair> pairs = part_of(make_pairs(vocab), rank, ranks);
  const auto refs = trainer.score(pairs, nullptr);
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i].ref_chosen = refs[i].chosen, pairs[i].ref_rejected = refs[i].rejected;
  return pairs;
}

}  // namespace isr::test
