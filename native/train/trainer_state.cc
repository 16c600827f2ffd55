// A trainer's state on disk: trainer.safetensors with masters and moments by parameter name, and its step, schedule and options as
// metadata. Ranks that keep shards write a file each, with the rows that they keep; rank 0's is that one, and is written last: with it
// the state appears, and names the others. Loaded only into a trainer of the same model and options, by any number of ranks.
#include <algorithm>
#include <cstdio>
#include <limits>
#include <optional>
#include <sstream>

#include "io/json.h"
#include "train/trainer_impl.h"

namespace isr {
namespace {

constexpr const char* kFile = "/trainer.safetensors";
constexpr int kMostRanks = 1 << 16;
constexpr const char* kFormat = "isr-dpo trainer 1";

std::string number(double v) {
  std::ostringstream s;
  s.exceptions(std::ios::badbit);   // no memory: an error, not a shorter text
  s.precision(std::numeric_limits<double>::max_digits10);
  s << v;
  return s.str();
}

// Options that change what later steps compute, as text: equal text, equal steps.
Metadata options_of(const TrainerOptions& o) {
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

// What an adapter's products count for; ranks and matrices are told by the tensors.
std::string scales_of(const Adapter& adapter) {
  std::vector<std::string> scales;
  for (const Adapter::Part& p : adapter.parts()) scales.push_back(number(adapter.scale_of(p)));
  if (std::all_of(scales.begin(), scales.end(), [&](const std::string& s) { return s == scales.front(); })) return scales.front();
  std::string all;
  for (const std::string& s : scales) all += (all.empty() ? "" : " ") + s;
  return all;
}

Metadata state_of(const Trainer::Impl& t) {
  Metadata meta{{"format", kFormat}, {"architecture", t.m.config.architecture}, {"dtype", name_of(t.m.dtype)}, {"step", concat(t.step)}};
  std::string steps;
  for (const Optimizer::State& s : t.optimizer.states) steps += concat(steps.empty() ? "" : " ", s.steps);
  meta.emplace_back("updates", steps);
  for (auto& [key, value] : options_of(t.o)) meta.emplace_back("option." + key, value);
  if (t.m.adapter) meta.emplace_back("option.lora scale", scales_of(*t.m.adapter));
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

// In pieces, so that it can be stopped between them: elements [begin, begin + count) to resident memory.
void read_elements(const Checkpoint& file, const TensorInfo& info, int64_t begin, int64_t count, Device& device, float* dst) {
  constexpr int64_t kPiece = int64_t{1} << 20;
  std::vector<float> piece(static_cast<size_t>(std::min(kPiece, count)));
  for (int64_t at = 0; at < count; at += kPiece) {
    check_cancelled();
    const auto bytes = static_cast<uint64_t>(std::min(kPiece, count - at)) * sizeof(float);
    file.read(info, static_cast<uint64_t>(begin + at) * sizeof(float), bytes, piece.data());
    device.upload(dst + at, piece.data(), bytes);
  }
}

struct Kind { const char* prefix; Buffer Group::*array; };
constexpr Kind kKinds[] = {{"master.", &Group::master}, {"m.", &Group::m}, {"v.", &Group::v}};

// ---- names of the other ranks' files: trainer-STEP-N-RANK-of-RANKS.safetensors, where N is new in its folder
std::string shard_file(const std::string& mark, int rank, int ranks) { return concat("/trainer-", mark, "-", rank, "-of-", ranks, ".safetensors"); }

// The mark (STEP-N) of a shard file's name; empty: it is none.
std::string mark_of(const std::string& name) {
  int64_t step = -1, n = -1;
  int rank = -1, ranks = -1;
  if (std::sscanf(name.c_str(), "trainer-%ld-%ld-%d-of-%d.safetensors", &step, &n, &rank, &ranks) != 4) return "";
  const std::string mark = concat(step, "-", n);
  return "/" + name == shard_file(mark, rank, ranks) ? mark : "";
}

std::string new_mark(const std::string& dir, int64_t step) {
  const std::vector<FolderEntry> there = list_folder(dir);
  for (int64_t n = 0;; ++n) {
    const std::string mark = concat(step, "-", n);
    if (std::none_of(there.begin(), there.end(), [&](const FolderEntry& e) { return mark_of(e.name) == mark; })) return mark;
  }
}

void remove_other_shards(const std::string& dir, const std::string& mark) {
  for (const FolderEntry& e : list_folder(dir))
    if (const std::string theirs = mark_of(e.name); e.regular && !theirs.empty() && theirs != mark) remove_tree(dir + "/" + e.name);
}

std::vector<int64_t> shape_of_rows(const Param& p, int64_t rows) {
  std::vector<int64_t> shape = p.shape;
  if (!p.vector()) shape[0] = rows;
  return shape;
}

// What this rank keeps.
std::vector<NewTensor> tensors_of(Trainer::Impl& t) {
  std::vector<NewTensor> tensors;
  for (const Kind& kind : kKinds)
    for (const Optimizer::State& s : t.optimizer.states) {
      const Param& p = *s.param;
      const Rows rows = t.optimizer.shard_rows(p);
      if (rows.count == 0) continue;
      NewTensor& n = tensors.emplace_back();
      n.name = kind.prefix + p.name;
      n.dtype = FileDType::F32;
      n.shape = shape_of_rows(p, rows.count);
      const float* const from = (p.group->*kind.array).data<float>() + (static_cast<int64_t>(p.offset) - p.group->begin + rows.first * p.cols());
      n.fill = [&device = t.m.backend->device(), from = reinterpret_cast<const char*>(from)](uint64_t begin, uint64_t count, void* dst) {
        device.download(dst, from + begin, count);
      };
    }
  return tensors;
}

// The files of a state, by rank, once they are known to be of one piece and of this trainer.
struct Saved {
  std::vector<Checkpoint> files;
  std::vector<std::vector<Rows>> rows;   // [rank][place in states]: what its file holds
  std::string path;

  const Metadata& metadata(size_t r = 0) const { return files[r].shards()[0].metadata; }
};

// Which rows each of `ranks` kept: a function of the model alone.
std::vector<std::vector<Rows>> rows_of_ranks(const Trainer::Impl& t, int ranks) {
  std::vector<std::vector<Rows>> all(static_cast<size_t>(ranks));
  for (const Optimizer::State& s : t.optimizer.states) {
    const std::vector<int64_t> cuts = shard_cuts(*s.param->group, ranks);
    for (size_t r = 0; r < all.size(); ++r) all[r].push_back(rows_within(*s.param, cuts[r], cuts[r + 1]));
  }
  return all;
}

void check_tensors(const Trainer::Impl& t, const Checkpoint& file, const std::vector<Rows>& rows, const std::string& path) {
  size_t expected = 0;
  for (const Kind& kind : kKinds)
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].count == 0) continue;
      ++expected;
      const Param& p = *t.optimizer.states[i].param;
      const TensorInfo* info = file.find(kind.prefix + p.name);
      if (!info) mismatch(path, concat("tensor ", kind.prefix, p.name, " is missing"));
      if (info->shape != shape_of_rows(p, rows[i].count) || info->dtype != FileDType::F32)
        mismatch(path, concat("tensor ", info->name, ": ", name_of(info->dtype), " ", info->shape_text(), " is not this model's"));
    }
  if (file.tensors().size() != expected) mismatch(path, concat("expected ", expected, " tensors, got ", file.tensors().size()));
}

Saved open_state(const Trainer::Impl& t, const std::string& dir) {
  Saved saved;
  saved.path = dir + kFile;
  saved.files.push_back(Checkpoint::open_file(saved.path));
  check_metadata(t, saved.metadata(), saved.path);
  const std::string text = value_of(saved.metadata(), "ranks"), mark = value_of(saved.metadata(), "shards");
  const std::vector<int64_t> ranks = numbers(text);
  const bool one = text.empty();
  if (!one && (ranks.size() != 1 || ranks[0] < 2 || ranks[0] > kMostRanks || mark_of(shard_file(mark, 1, 2).substr(1)) != mark))
    mismatch(saved.path, concat("ranks ", text, " and shards ", mark, " are not what a trainer would have saved"));
  const int count = one ? 1 : static_cast<int>(ranks[0]);
  for (int r = 1; r < count; ++r) {
    const std::string path = dir + shard_file(mark, r, count);
    saved.files.push_back(Checkpoint::open_file(path));
    check_metadata(t, saved.metadata(static_cast<size_t>(r)), path);
    for (const char* key : {"step", "updates", "ranks", "shards"})
      if (value_of(saved.metadata(static_cast<size_t>(r)), key) != value_of(saved.metadata(), key)) mismatch(path, concat(key, " is not that of ", saved.path));
    if (value_of(saved.metadata(static_cast<size_t>(r)), "rank") != concat(r)) mismatch(path, "it is another rank's");
  }
  saved.rows = rows_of_ranks(t, count);
  for (int r = 0; r < count; ++r)
    check_tensors(t, saved.files[static_cast<size_t>(r)], saved.rows[static_cast<size_t>(r)], r == 0 ? saved.path : dir + shard_file(mark, r, count));
  return saved;
}

// The rows of one parameter that this rank keeps, from whichever files hold them.
void read_rows(const Trainer::Impl& t, const Saved& saved, size_t state, const Kind& kind, float* dst) {
  const Param& p = *t.optimizer.states[state].param;
  const Rows mine = t.optimizer.shard_rows(p);
  for (size_t r = 0; r < saved.files.size(); ++r) {
    const Rows theirs = saved.rows[r][state];
    const int64_t first = std::max(mine.first, theirs.first), end = std::min(mine.first + mine.count, theirs.first + theirs.count);
    if (first >= end) continue;
    read_elements(saved.files[r], saved.files[r].get(kind.prefix + p.name), (first - theirs.first) * p.cols(), (end - first) * p.cols(), t.m.backend->device(),
                  dst + (first - mine.first) * p.cols());
  }
}

}  // namespace

void Trainer::save(const std::string& dir) {
  Impl& t = *impl_;
  const int rank = t.comm.rank(), ranks = t.comm.size();
  const bool shards = t.o.shard && ranks > 1;
  std::string mark;
  agree(t.comm, [&] {
    if (rank != 0) return;
    make_folders(dir);
    if (shards) mark = new_mark(dir, t.step);
  });
  or_abort(t.comm, [&] { mark = all_gather(t.comm, mark).front(); });
  Metadata meta = state_of(t);
  if (shards) meta.insert(meta.end(), {{"ranks", concat(ranks)}, {"shards", mark}, {"rank", concat(rank)}});
  agree(t.comm, [&] {
    if (shards && rank != 0) write_safetensors(dir + shard_file(mark, rank, ranks), tensors_of(t), meta);
  });
  agree(t.comm, [&] {
    if (rank != 0) return;
    write_safetensors(dir + kFile, tensors_of(t), meta);
    remove_other_shards(dir, shards ? mark : "");
  });
}

void Trainer::load(const std::string& dir) {
  Impl& t = *impl_;
  std::vector<int64_t> step, updates;
  std::optional<Optimizer::Staging> staging;
  agree(t.comm, [&] {
    const Saved saved = open_state(t, dir);
    step = numbers(value_of(saved.metadata(), "step")), updates = numbers(value_of(saved.metadata(), "updates"));
    if (step.size() != 1 || updates.size() != t.optimizer.states.size()) mismatch(saved.path, "step or updates are not what this trainer would have saved");
    staging.emplace(t.optimizer);
    for (const Kind& kind : kKinds)
      for (size_t i = 0; i < t.optimizer.states.size(); ++i)
        read_rows(t, saved, i, kind, staging->place(*t.optimizer.states[i].param, kind.array));
  });
  or_abort(t.comm, [&] { staging->commit(updates); });
  t.step = step[0];
}

}  // namespace isr
