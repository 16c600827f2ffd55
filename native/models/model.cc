#include "models/model.h"

#include <algorithm>

#include "core/bf16.h"
#include "io/sha256.h"

namespace isr {

namespace {

using Params = std::vector<Param*>;

constexpr int64_t kPiece = int64_t{1} << 20;   // elements that are copied before a job asks whether to stop

std::vector<Weight*> weights_of(TowerLayer& l) {
  std::vector<Weight*> all{&l.qkv, &l.out, &l.fc1, &l.fc2};
  if (l.temporal_embedding) all.insert(all.begin(), {&l.temporal_qkv, &l.temporal_out});
  return all;
}

void append(Params& all, const Weight& w) {
  all.insert(all.end(), w.parts.begin(), w.parts.end());
  all.insert(all.end(), w.bias.begin(), w.bias.end());
}

void append(Params& all, const LayerNorm& n) { all.insert(all.end(), {n.w, n.b}); }

void append_tower(std::vector<Params>& all, Tower& t) {
  Params& first = all.emplace_back(Params{t.class_embedding, t.position_embedding});
  append(first, t.patch);
  append(first, t.pre_norm);
  for (TowerLayer& l : t.layers) {
    Params& g = all.emplace_back();
    if (l.temporal_embedding) {
      g.push_back(l.temporal_embedding);
      append(g, l.temporal_norm);
    }
    append(g, l.norm1);
    append(g, l.norm2);
    for (const Weight* w : weights_of(l)) append(g, *w);
  }
}

}  // namespace

std::vector<Weight*> Model::weights() {
  std::vector<Weight*> all;
  for (Layer& l : layers)
    for (Weight* w : {&l.qkv, &l.out, &l.gate_up, &l.down}) all.push_back(w);
  all.push_back(&head);
  if (!vision) return all;
  for (Weight& w : vision->projector) all.push_back(&w);
  for (Tower* t : {vision->image.get(), vision->video.get()}) {
    if (!t) continue;
    all.push_back(&t->patch);
    for (TowerLayer& l : t->layers)
      for (Weight* w : weights_of(l)) all.push_back(w);
  }
  return all;
}

std::vector<Params> Model::groups(Part part) {
  std::vector<Params> all;
  if (part == Part::Decoder) {
    for (Layer& l : layers) {
      Params& g = all.emplace_back(Params{l.attention_norm, l.mlp_norm});
      for (Weight* w : {&l.qkv, &l.out, &l.gate_up, &l.down}) append(g, *w);
    }
    all.push_back({token_embedding, final_norm});
    if (head.parts[0] != token_embedding) all.back().push_back(head.parts[0]);
  }
  if (!vision) return all;
  if (part == Part::Projector) {
    all.emplace_back();
    for (Weight& w : vision->projector) append(all.back(), w);
  }
  if (part == Part::Vision)
    for (Tower* t : {vision->image.get(), vision->video.get()})
      if (t) append_tower(all, *t);
  return all;
}

void Model::fill_value(Param& p, void* dst) {
  const int64_t rows_at_once = 64, row_bytes = p.cols() * static_cast<int64_t>(size_of(p.dtype));
  parallel(backend->threads, (p.rows() + rows_at_once - 1) / rows_at_once, 1, [&](int64_t begin, int64_t end, int) {
    const int64_t row = begin * rows_at_once, rows = std::min(end * rows_at_once, p.rows()) - row;
    backend->unpack(static_cast<char*>(dst) + row * row_bytes, p.weight->packed, p.weight_row + row, rows);
  });
}

void Model::keep_row_major(Param& p) {
  if (p.value) return;
  Buffer value(static_cast<size_t>(p.size()) * size_of(p.dtype));
  fill_value(p, value.data());
  p.value = storage_.emplace_back(std::move(value)).data();
}

void Model::source_values(const Param& p, int64_t begin, int64_t count, float* dst) {
  if (p.master()) {
    std::copy_n(p.master() + begin, count, dst);
  } else if (p.value && (p.vector() || p.dtype == DType::F32)) {
    std::copy_n(static_cast<const float*>(p.value) + begin, count, dst);
  } else if (p.value) {
    const auto* v = static_cast<const uint16_t*>(p.value) + begin;
    for (int64_t i = 0; i < count; ++i) dst[i] = bf16_to_f32(v[i]);
  } else {   // whole rows that hold [begin, begin + count)
    const int64_t row = begin / p.cols(), rows = (begin + count + p.cols() - 1) / p.cols() - row, skip = begin - row * p.cols();
    std::vector<uint8_t> tmp(static_cast<size_t>(rows * p.cols()) * size_of(p.dtype));
    backend->unpack(tmp.data(), p.weight->packed, p.weight_row + row, rows);
    for (int64_t i = 0; i < count; ++i) {
      const size_t at = static_cast<size_t>(skip + i);
      dst[i] = p.dtype == DType::F32 ? reinterpret_cast<const float*>(tmp.data())[at] : bf16_to_f32(reinterpret_cast<const uint16_t*>(tmp.data())[at]);
    }
  }
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
    const bool trained = p && p->version > 0;
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
    return p && p->version > 0;
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
