#include "models/model.h"

#include <algorithm>

#include "core/bf16.h"
#include "io/sha256.h"

namespace isr {

std::vector<Weight*> Model::weights() {
  std::vector<Weight*> all;
  for (Layer& l : layers)
    for (Weight* w : {&l.qkv, &l.out, &l.gate_up, &l.down}) all.push_back(w);
  all.push_back(&head);
  return all;
}

std::vector<std::vector<Param*>> Model::groups() {
  std::vector<std::vector<Param*>> all;
  for (Layer& l : layers) {
    std::vector<Param*>& g = all.emplace_back();
    g = {l.attention_norm, l.mlp_norm};
    for (Weight* w : {&l.qkv, &l.out, &l.gate_up, &l.down}) {
      g.insert(g.end(), w->parts.begin(), w->parts.end());
      g.insert(g.end(), w->bias.begin(), w->bias.end());
    }
  }
  all.push_back({token_embedding, final_norm});
  if (head.parts[0] != token_embedding) all.back().push_back(head.parts[0]);
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
  void* dst = storage_.emplace_back(static_cast<size_t>(p.size()) * size_of(p.dtype)).data();
  fill_value(p, dst);
  p.value = dst;
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

std::vector<float> Model::parameter(const std::string& name) {
  const auto it = by_name.find(name);
  if (it == by_name.end()) throw Error("NOT_FOUND", concat("no parameter \"", name, "\" in this model"), "names are those of the checkpoint's files");
  std::vector<float> out(static_cast<size_t>(it->second->size()));
  source_values(*it->second, 0, it->second->size(), out.data());
  return out;
}

void Model::encoded_values(const Param& p, FileDType dtype, uint64_t begin, uint64_t count, void* dst) {
  const auto first = static_cast<int64_t>(begin / size_of(dtype)), n = static_cast<int64_t>(count / size_of(dtype));
  std::vector<float> tmp(static_cast<size_t>(n));
  source_values(p, first, n, tmp.data());
  encode(dtype, tmp.data(), n, dst);
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
    const auto it = by_name.find(t->name);
    const bool trained = it != by_name.end() && it->second->version > 0;
    for (uint64_t at = 0; at < t->bytes; at += kSaveChunk) {
      const uint64_t count = std::min(kSaveChunk, t->bytes - at);
      chunk.resize(count);
      if (trained) {
        encoded_values(*it->second, t->dtype, at, count, chunk.data());
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
    const auto it = by_name.find(t.name);
    return it != by_name.end() && it->second->version > 0;
  };
  const auto fill = [this](const TensorInfo& t, uint64_t begin, uint64_t count, void* dst) {
    encoded_values(*by_name.at(t.name), t.dtype, begin, count, dst);
  };
  const auto poll = [cancel] {
    if (cancel && cancel->load()) throw Cancelled();
  };
  const uint64_t bytes = save_checkpoint(checkpoint_, dir, trained, fill, poll);
  return {hash(), bytes};
}

}  // namespace isr
