// Tensors of a file that config.json does not ask for: second names of one that it does, parts that are not computed with,
// and such that would change results. Every one is settled before weights are read.
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "models/loader.h"

namespace isr {
namespace {

bool starts_with(const std::string& s, const std::string& prefix) { return s.compare(0, prefix.size(), prefix) == 0; }
bool ends_with(const std::string& s, const std::string& end) { return s.size() >= end.size() && s.compare(s.size() - end.size(), end.size(), end) == 0; }

// Calls with pieces of both tensors as f32 until one call says false.
template <class Same>
bool all_pieces(const Checkpoint& file, const TensorInfo& a, const TensorInfo& b, Same&& same) {
  constexpr int64_t kPiece = 1 << 18;
  std::vector<float> x, y;
  std::vector<uint8_t> staging;
  const int64_t at_once = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, a.cols()));
  for (int64_t row = 0; row < a.rows(); row += at_once) {
    const int64_t rows = std::min(at_once, a.rows() - row), n = rows * a.cols();
    x.resize(static_cast<size_t>(n));
    y.resize(static_cast<size_t>(n));
    if (n == 0) continue;
    file.read_rows(a, row, rows, DType::F32, x.data(), staging);
    file.read_rows(b, row, rows, DType::F32, y.data(), staging);
    if (!same(x, y)) return false;
  }
  return true;
}

bool equal_tensors(const Checkpoint& file, const TensorInfo& a, const TensorInfo& b) {
  if (a.shape != b.shape || !is_float(a.dtype) || !is_float(b.dtype)) return false;
  return all_pieces(file, a, b, [](const std::vector<float>& x, const std::vector<float>& y) { return std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0; });
}

bool all_zero(const Checkpoint& file, const TensorInfo& t) {
  if (!is_float(t.dtype)) return false;
  return all_pieces(file, t, t, [](const std::vector<float>& x, const std::vector<float>&) { return std::all_of(x.begin(), x.end(), [](float v) { return v == 0; }); });
}

bool is_buffer(const std::string& name) {   // computed from the config, whatever the file says
  for (const char* end : {"rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "embeddings.position_ids", "self_attn.masked_bias"})
    if (ends_with(name, end)) return true;
  return false;
}

}  // namespace

bool buffer_tensor(const std::string& name) { return is_buffer(name); }

Aliases tie_tensors(Config& config, const Names& names, const Checkpoint& file, std::vector<TensorSpec>* specs) {
  Aliases aliases;
  DecoderConfig& c = config.model.decoder;
  if (!c.tied) return aliases;
  const std::string embedding = declared(*config.family, names, config.model).tied, head = names.head();
  const TensorInfo *own = file.find(head), *embed = file.find(embedding);
  if (!own) return aliases;
  if (embed && !equal_tensors(file, *embed, *own)) {
    c.tied = false;
    c.notes.push_back(concat("config.json: tie_word_embeddings is true, but ", head, " differs from ", embedding, ": it is used as the head, as transformers 5 does (4 used the embeddings)"));
    return aliases;
  }
  aliases.emplace_back(head, embedding);
  if (!embed && specs)
    for (TensorSpec& s : *specs)
      if (s.name == embedding) s.source_name = head;
  return aliases;
}

// Only prefixes differ between spellings, so a second spelling of a tensor has the same end.
void find_second_names(const Family& family, const Names& names, const Checkpoint& file, const std::vector<TensorSpec>& specs, Aliases& aliases) {
  std::unordered_map<std::string, bool> wanted;
  for (const TensorSpec& s : specs) wanted[s.name] = true;
  const auto part = [&](const std::string& chosen, const std::vector<std::string>& spellings) {
    for (const std::string& other : spellings) {
      if (other == chosen) continue;
      for (const TensorSpec& s : specs) {
        if (s.source != 0 || !starts_with(s.name, chosen)) continue;
        const std::string second = other + s.name.substr(chosen.size());
        const TensorInfo *a = file.find(s.name), *b = file.find(second);
        if (!a || !b || wanted.count(second)) continue;
        if (!equal_tensors(file, *a, *b))
          throw Error("CHECKPOINT_UNSUPPORTED", concat(file.dir(), ": ", s.name, " and ", second, " are two names of one parameter, with different values"),
                      "remove the one that the model was not trained with", file.dir());
        aliases.emplace_back(second, s.name);
      }
    }
  };
  for (size_t i = 0; i < kRoots; ++i) part(names.prefixes[i], family.roots[i].prefixes);
}

std::vector<std::string> foreign_tensors(const Config& config, const Names& names, const Sources& sources, const Declared& wanted) {
  std::vector<std::string> foreign;
  for (size_t i = 0; i < sources.files.size(); ++i) {
    const Checkpoint& file = sources.files[i];
    std::unordered_map<std::string, bool> read;
    for (const TensorSpec& s : wanted.tensors)
      if (s.source == static_cast<int>(i)) read[s.in_file()] = true;
    for (const TensorInfo& t : file.tensors()) {
      if (read.count(t.name) || is_buffer(t.name)) continue;
      if (i == 0 && config.model.decoder.tied && t.name == names.head()) continue;
      const bool inside = std::any_of(wanted.claims.begin(), wanted.claims.end(), [&](const TensorSpec& c) { return c.source == static_cast<int>(i) && starts_with(t.name, c.in_file()); });
      if (inside && !(ends_with(t.name, ".bias") && all_zero(file, t))) foreign.push_back(t.name);
    }
  }
  return foreign;
}

}  // namespace isr
