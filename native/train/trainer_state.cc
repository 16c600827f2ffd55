// A trainer's state on disk: one safetensors file with masters and moments by parameter name, and its step, schedule and
// options as metadata. Written atomically; loaded only into a trainer of the same model and options.
#include <algorithm>
#include <limits>
#include <sstream>

#include "io/json.h"
#include "train/trainer_impl.h"

namespace isr {
namespace {

constexpr const char* kFile = "/trainer.safetensors";
constexpr const char* kFormat = "isr-dpo trainer 1";

// Options that change what later steps compute, as text: equal text, equal steps.
Metadata options_of(const TrainerOptions& o) {
  const auto number = [](double v) {
    std::ostringstream s;
    s.exceptions(std::ios::badbit);   // no memory: an error, not a shorter text
    s.precision(std::numeric_limits<double>::max_digits10);
    s << v;
    return s.str();
  };
  return {{"loss", o.loss.loss},
          {"beta", number(o.loss.beta)},
          {"labelSmoothing", number(o.loss.label_smoothing)},
          {"ldAlpha", number(o.loss.ld_alpha)},
          {"gamma", number(o.loss.gamma)},
          {"divergence", o.loss.divergence},
          {"learningRate", number(o.learning_rate)},
          {"schedule", o.schedule},
          {"warmupSteps", concat(o.warmup_steps)},
          {"warmupRatio", number(o.warmup_ratio)},
          {"totalSteps", concat(o.total_steps)},
          {"betas", number(o.beta1) + ", " + number(o.beta2)},
          {"eps", number(o.eps)},
          {"weightDecay", number(o.weight_decay)},
          {"decayNorms", o.decay_norms ? "true" : "false"},
          {"clipNorm", number(o.clip_norm)},
          {"microBatchTokens", concat(o.micro_batch_tokens)},
          {"sharePrefix", o.share_prefix ? "true" : "false"}};
}

Metadata state_of(const Trainer::Impl& t) {
  Metadata meta{{"format", kFormat}, {"architecture", t.m.config.architecture}, {"dtype", name_of(t.m.dtype)}, {"step", concat(t.step)}};
  std::string steps;
  for (const Optimizer::State& s : t.optimizer.states) steps += concat(steps.empty() ? "" : " ", s.steps);
  meta.emplace_back("updates", steps);
  for (auto& [key, value] : options_of(t.o)) meta.emplace_back("option." + key, value);
  return meta;
}

[[noreturn]] void mismatch(const std::string& path, const std::string& what) {
  throw Error("RUN_MISMATCH", concat(path, ": ", what), "create the trainer with the model and the options that it was saved with", path);
}

std::string value_of(const Metadata& meta, const std::string& key) {
  for (const auto& [k, v] : meta)
    if (k == key) return v;
  return "";
}

void check_metadata(const Trainer::Impl& t, const Metadata& meta, const std::string& path) {
  if (value_of(meta, "format") != kFormat) mismatch(path, concat("expected a file of format \"", kFormat, "\", got \"", value_of(meta, "format"), "\""));
  std::string differing;
  for (const auto& [key, value] : state_of(t)) {
    if (key == "step" || key == "updates" || value_of(meta, key) == value) continue;
    differing += concat(differing.empty() ? "" : "; ", key, ": saved ", value_of(meta, key), ", now ", value);
  }
  if (!differing.empty()) mismatch(path, differing);
}

std::vector<int64_t> numbers(const std::string& text) {
  std::istringstream s(text);
  s.exceptions(std::ios::badbit);
  std::vector<int64_t> out;
  for (int64_t n; s >> n && n >= 0;) out.push_back(n);
  return out;
}

// In pieces, so that it can be stopped between them.
void read_tensor(const Checkpoint& file, const TensorInfo& info, Device& device, char* dst) {
  constexpr uint64_t kPiece = uint64_t{4} << 20;
  std::vector<char> piece(std::min(kPiece, info.bytes));
  for (uint64_t at = 0; at < info.bytes; at += kPiece) {
    check_cancelled();
    const uint64_t bytes = std::min(kPiece, info.bytes - at);
    file.read(info, at, bytes, piece.data());
    device.upload(dst + at, piece.data(), bytes);
  }
}

struct Kind { const char* prefix; Buffer Group::*array; };
constexpr Kind kKinds[] = {{"master.", &Group::master}, {"m.", &Group::m}, {"v.", &Group::v}};

}  // namespace

void Trainer::save(const std::string& dir) {
  Impl& t = *impl_;
  std::vector<NewTensor> tensors;
  for (const Kind& kind : kKinds)
    for (const Optimizer::State& s : t.optimizer.states) {
      NewTensor& n = tensors.emplace_back();
      n.name = kind.prefix + s.param->name;
      n.dtype = FileDType::F32;
      n.shape = s.param->shape;
      n.fill = [&device = t.m.backend->device(), from = (s.param->group->*kind.array).data<char>() + s.param->offset * sizeof(float)](
                   uint64_t begin, uint64_t count, void* dst) { device.download(dst, from + begin, count); };
    }
  make_folders(dir);
  write_safetensors(dir + kFile, tensors, state_of(t));
}

void Trainer::load(const std::string& dir) {
  Impl& t = *impl_;
  const std::string path = dir + kFile;
  const Checkpoint file = Checkpoint::open_file(path);
  const Metadata& meta = file.shards()[0].metadata;
  check_metadata(t, meta, path);
  const std::vector<int64_t> step = numbers(value_of(meta, "step")), updates = numbers(value_of(meta, "updates"));
  if (step.size() != 1 || updates.size() != t.optimizer.states.size()) mismatch(path, "step or updates are not what this trainer would have saved");
  for (const Kind& kind : kKinds)
    for (const Optimizer::State& s : t.optimizer.states) {
      const TensorInfo* info = file.find(kind.prefix + s.param->name);
      if (!info) mismatch(path, concat("tensor ", kind.prefix, s.param->name, " is missing"));
      if (info->shape != s.param->shape || info->dtype != FileDType::F32)
        mismatch(path, concat("tensor ", info->name, ": ", name_of(info->dtype), " ", info->shape_text(), " is not this model's"));
    }
  if (file.tensors().size() != 3 * t.optimizer.states.size()) mismatch(path, concat("expected ", 3 * t.optimizer.states.size(), " tensors, got ", file.tensors().size()));
  Optimizer::Staging staging(t.optimizer);
  for (const Kind& kind : kKinds)
    for (const Optimizer::State& s : t.optimizer.states)
      read_tensor(file, file.get(kind.prefix + s.param->name), t.m.backend->device(), reinterpret_cast<char*>(staging.place(*s.param, kind.array)));
  staging.commit(updates);
  t.step = step[0];
}

}  // namespace isr
