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
  bool decoder = true, projector = false, vision = false;   // what is trained
  int checkpointing = -1;
};

inline TrainerOptions options_of(const Setting& s, bool shard, bool gradients = false) {
  TrainerOptions o;
  o.loss.loss = s.loss;
  o.loss.gamma = s.gamma;
  o.learning_rate = 1e-3;
  o.weight_decay = 0.01;
  o.clip_norm = 1;
  o.micro_batch_tokens = 1;   // an item at a time: what a micro-batch holds then does not hang on the number of ranks
  o.shard = shard;
  o.shard_gradients = gradients;
  o.train_decoder = s.decoder, o.train_projector = s.projector, o.train_vision = s.vision;
  o.checkpointing = s.checkpointing;
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

// All pairs of a step with their references. A model that sees has an image in every second one.
inline std::vector<TrainPair> all_pairs(Trainer& trainer, Model& m) {
  std::vector<TrainPair> pairs = make_pairs(m.config.vocab);
  if (m.vision) {
    const Medium& image = m.media.add_pixels(m, true, 1, random_values(m.vision->image->config.frame.values(), 3));
    for (size_t i = 0; i < pairs.size(); i += 2)
      for (SequenceInput* s : {&pairs[i].chosen, &pairs[i].rejected})
        for (int32_t k = 0; k < image.rows; ++k) s->ids[static_cast<size_t>(k)] = image.first_id + k;
  }
  const auto refs = trainer.score(pairs, nullptr);
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i].ref_chosen = refs[i].chosen, pairs[i].ref_rejected = refs[i].rejected;
  return pairs;
}

inline std::vector<TrainPair> scored_part(Trainer& trainer, Model& m, int rank, int ranks) { return part_of(all_pairs(trainer, m), rank, ranks); }

}  // namespace isr::test
