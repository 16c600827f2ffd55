#include "models/model.h"

#include <algorithm>

#include "core/bf16.h"
#include "io/sha256.h"

namespace isr {

namespace {

constexpr int64_t kPiece = int64_t{1} << 20;   // elements that are copied before a job asks whether to stop

}  // namespace

void Model::fill_value(Param& p, void* dst) {
  p.weight->matrix->read_rows(view(dst, p.dtype, p.rows(), p.cols()), p.weight_row);
}

void Model::keep_row_major(Param& p) {
  if (p.value) return;
  Buffer value(backend->device(), static_cast<size_t>(p.size()) * size_of(p.dtype));
  fill_value(p, value.data());
  p.value = storage_.emplace_back(std::move(value)).data();
}

void Model::source_values(const Param& p, int64_t begin, int64_t count, float* dst) {
  if (!adapter || !adapter->changes(p)) return base_values(p, begin, count, dst);
  const TensorInfo* const t = p.version == 0 ? checkpoint_.find(p.name) : nullptr;   // which may be of a wider type than the model
  if (t) checkpoint_.read_values(*t, begin, count, dst);
  else base_values(p, begin, count, dst);
  adapter->add_to(p, begin, count, dst);
}

// Rows of the master, the value or the matrix, whichever holds the parameter, as float32 on the host.
void Model::base_values(const Param& p, int64_t begin, int64_t count, float* dst) {
  if (adapter && !p.group && adapter->read_exact(p, begin, count, dst)) return;
  Device& device = backend->device();
  settle();
  if (p.master()) return device.download(dst, p.master() + begin, static_cast<size_t>(count) * sizeof(float));
  if (p.group && sharded_masters) return sharded_masters(p, begin, count, dst);
  const int64_t row = begin / p.cols(), rows = (begin + count + p.cols() - 1) / p.cols() - row, skip = begin - row * p.cols();
  ArenaScope scope(backend->workspace());
  Tensor whole;   // whole rows that hold [begin, begin + count)
  if (p.value) {
    whole = p.tensor().row_range(row, rows);
  } else {
    whole = view(backend->workspace().allocate(static_cast<size_t>(rows * p.cols()) * size_of(p.dtype)), p.dtype, rows, p.cols());
    p.weight->matrix->read_rows(whole, p.weight_row + row);
  }
  const size_t element = size_of(whole.dtype), bytes = static_cast<size_t>(count) * element;
  const char* from = whole.as<char>() + static_cast<size_t>(skip) * element;
  if (whole.dtype == DType::F32) return device.download(dst, from, bytes);
  std::vector<uint16_t> narrow(static_cast<size_t>(count));
  device.download(narrow.data(), from, bytes);
  std::transform(narrow.begin(), narrow.end(), dst, bf16_to_f32);
}

void Model::check_whole(const Param& p) const {
  if (p.group && p.group->sharded && p.dtype == DType::BF16 && !sharded_masters)
    throw Error("INVALID_ARGUMENT", concat(p.name, ": its float32 values are shared out among ranks"), "save and hash through the trainer, on every rank");
}

SequencePositions Model::positions(std::span<const int32_t> ids) const {
  if (!family_->positions) return {};
  return family_->positions(ids, media.placed(ids, config.vocab), vision ? &vision->config : nullptr);
}

Param* Model::param_of(const std::string& name) const {
  if (const auto it = by_name.find(name); it != by_name.end()) return it->second;
  const auto it = second_names_.find(name);
  return it != second_names_.end() ? it->second : nullptr;
}

std::vector<int64_t> Model::shape_of(const std::string& name) const {
  const Param* p = param_of(name);
  return p ? p->shape : checkpoint_.get(name).shape;
}

std::vector<float> Model::parameter(const std::string& name) {
  const Param* p = param_of(name);
  if (const TensorInfo* t = p ? nullptr : checkpoint_.find(name)) {   // in the file, not computed with
    std::vector<float> out(static_cast<size_t>(t->elements()));
    std::vector<uint8_t> staging;
    if (out.empty()) return out;
    const int64_t cols = t->elements() / t->rows(), piece = std::max<int64_t>(1, kPiece / cols);
    for (int64_t row = 0; row < t->rows(); row += piece) {
      check_cancelled();
      checkpoint_.read_rows(*t, row, std::min(piece, t->rows() - row), DType::F32, out.data() + row * cols, staging);
    }
    return out;
  }
  if (!p) throw Error("NOT_FOUND", concat("no parameter \"", name, "\" in this model"), "names are those of the checkpoint's files");
  std::vector<float> out(static_cast<size_t>(p->size()));
  const int64_t piece = std::max<int64_t>(1, kPiece / p->cols()) * p->cols();   // whole rows
  for (int64_t at = 0; at < p->size(); at += piece) {
    check_cancelled();
    source_values(*p, at, std::min(piece, p->size() - at), out.data() + at);
  }
  return out;
}

void Model::encoded_values(const Param& p, FileDType dtype, uint64_t begin, uint64_t count, void* dst) {
  const auto first = static_cast<int64_t>(begin / size_of(dtype)), n = static_cast<int64_t>(count / size_of(dtype));
  if (dtype == FileDType::F32) check_whole(p);
  std::vector<float> tmp(static_cast<size_t>(n));
  source_values(p, first, n, tmp.data());
  encode(dtype, tmp.data(), n, dst);
}

std::string Model::tower_hash() {
  if (hashed_vision_ == vision_version) return tower_hash_;
  Sha256 sha;
  std::vector<float> chunk;
  for (const std::vector<Param*>& group : groups(Part::Vision))
    for (const Param* p : group) {
      sha.update(p->name + "\n");
      const int64_t rows = std::max<int64_t>(1, static_cast<int64_t>(kSaveChunk / sizeof(float)) / p->cols());
      for (int64_t row = 0; row < p->rows(); row += rows) {
        check_cancelled();
        const int64_t n = std::min(rows, p->rows() - row) * p->cols();
        chunk.resize(static_cast<size_t>(n));
        source_values(*p, row * p->cols(), n, chunk.data());
        sha.update(chunk.data(), chunk.size() * sizeof(float));
      }
    }
  hashed_vision_ = vision_version;
  tower_hash_ = sha.hex();
  return tower_hash_;
}

std::string Model::hash() {
  if (hashed_generation_ == generation && !hash_.empty()) return hash_;
  std::vector<const TensorInfo*> all;
  for (const TensorInfo& t : checkpoint_.tensors()) all.push_back(&t);
  std::sort(all.begin(), all.end(), [](const TensorInfo* a, const TensorInfo* b) { return a->name < b->name; });
  Sha256 sha;
  std::vector<uint8_t> chunk;
  for (const TensorInfo* t : all) {
    sha.update(t->name + "\n" + name_of(t->dtype) + "\n" + t->shape_text() + "\n");
    const Param* p = param_of(t->name);
    const bool trained = p && changed(*p);
    for (uint64_t at = 0; at < t->bytes; at += kSaveChunk) {
      check_cancelled();
      const uint64_t count = std::min(kSaveChunk, t->bytes - at);
      chunk.resize(count);
      if (trained) {
        encoded_values(*p, t->dtype, at, count, chunk.data());
      } else {
        checkpoint_.read(*t, at, count, chunk.data());
      }
      sha.update(chunk.data(), chunk.size());
    }
  }
  sha.update(config_json_);
  hash_ = sha.hex();
  hashed_generation_ = generation;
  return hash_;
}

Model::Saved Model::save(const std::string& dir, const std::atomic<bool>* cancel) {
  const auto trained = [this](const TensorInfo& t) {
    const Param* p = param_of(t.name);
    return p && changed(*p);
  };
  const auto fill = [this](const TensorInfo& t, uint64_t begin, uint64_t count, void* dst) {
    encoded_values(*param_of(t.name), t.dtype, begin, count, dst);
  };
  const auto poll = [cancel] {
    if (cancel && cancel->load()) throw Cancelled();
  };
  const uint64_t bytes = save_checkpoint(checkpoint_, dir, trained, fill, poll);
  return {hash(), bytes};
}

}  // namespace isr
