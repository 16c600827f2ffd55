#include "models/loader.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <unordered_set>

#include "core/bf16.h"
#include "models/config_keys.h"

namespace isr {

Config read_config(const std::string& dir) {
  const std::string path = dir + "/config.json";
  if (!file_exists(dir))
    throw Error("NOT_FOUND", concat(dir, ": no such folder"), "give the folder of a checkpoint (config.json and *.safetensors)", dir);
  if (!file_exists(path)) {
    Checkpoint::open(dir);   // says what the folder is, where it can (an adapter, GGUF, nothing)
    throw Error("NOT_FOUND", concat(path, ": no such file"), "a checkpoint folder has a config.json beside its weights", path);
  }
  Config out;
  out.text = read_file(path, JsonLimits{}.max_bytes, "INVALID_CONFIG");
  const Json json = parse_json(out.text, "INVALID_CONFIG", path, kConfigJson);
  out.family = &find_family(json, path);
  out.model = out.family->read(json, path);
  DecoderConfig& decoder = out.model.decoder;
  decoder.model_type = out.family->model_type;
  decoder.architecture = out.family->architecture;
  const std::string generation = dir + "/generation_config.json";
  if (file_exists(generation)) {
    const Json g = read_json(generation, "INVALID_CONFIG", kConfigJson);
    if (!g.object()) throw Error("INVALID_CONFIG", concat(generation, ": expected an object, got ", g.kind()), "", generation);
    const ConfigReader reader(g, generation);
    const std::vector<int32_t> ends = reader.ids("eos_token_id", decoder.vocab, decoder.notes);
    const auto only_here = [&](int32_t id) { return std::find(ends.begin(), ends.end(), id) == ends.end(); };
    if (!ends.empty() && std::any_of(decoder.end_tokens.begin(), decoder.end_tokens.end(), only_here))
      decoder.notes.push_back("config.json and generation_config.json have different eos_token_id: generation ends at those of both (transformers: at the second's)");
    decoder.end_tokens.insert(decoder.end_tokens.end(), ends.begin(), ends.end());
    check_keys(reader, Keys::Generation, nullptr, decoder.notes);
  }
  std::vector<int32_t>& ends = decoder.end_tokens;
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  return out;
}

FileDType stored_dtype(const Config& config) {
  const Json json = parse_json(config.text, "INVALID_CONFIG", "config.json", kConfigJson);
  for (const Json* at : {&json, json.find("text_config")})
    for (const char* key : {"dtype", "torch_dtype"})
      if (const Json* v = at && at->object() ? at->find(key) : nullptr; v && v->string())
        return *v->string() == "bfloat16" ? FileDType::BF16 : *v->string() == "float16" ? FileDType::F16 : FileDType::F32;
  return FileDType::F32;
}

namespace {

std::string listed(const std::vector<std::string>& names) {
  std::string s;
  for (size_t i = 0; i < names.size() && i < 4; ++i) s += (i ? ", " : "") + names[i];
  return names.size() > 4 ? concat(s, " and ", names.size() - 4, " more") : s;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) s += concat(i ? ", " : "", shape[i]);
  return s + "]";
}

void check_tensors(const Sources& sources, const std::vector<TensorSpec>& specs) {
  std::vector<std::string> missing;
  const std::string& dir = sources.files[0].dir();
  for (const TensorSpec& s : specs) {
    const TensorInfo* t = sources.find(s);
    if (!t) {
      missing.push_back(s.name);
      continue;
    }
    if (t->shape != s.shape)
      throw Error("CHECKPOINT_CORRUPT", concat(dir, ": tensor ", s.name, ": config.json asks for shape ", shape_text(s.shape), ", the file has ", t->shape_text()),
                  "config.json and the weights are not of the same model", dir);
    if (!is_float(t->dtype))
      throw Error("CHECKPOINT_UNSUPPORTED", concat(dir, ": tensor ", s.name, " has dtype ", name_of(t->dtype)),
                  "weights must be F32, BF16 or F16; use the full-precision checkpoint that it was made from", dir);
  }
  if (!missing.empty())
    throw Error("CHECKPOINT_CORRUPT", concat(dir, ": ", missing.size(), " tensors that config.json asks for are missing: ", listed(missing)),
                "fetch the checkpoint again; every shard must be there", dir);
}

// Tensors of the places where the towers were found, under the names that the checkpoint gives them.
std::vector<TensorSpec> placed_tensors(const Names& names, const ModelConfig& config, const TowerPlaces& places) {
  std::vector<TensorSpec> all = expected_tensors(names, config);
  for (TensorSpec& s : all)
    for (const auto& [prefix, place] : {std::pair{names.image_tower, places.image}, std::pair{names.video_tower, places.video}}) {
      if (!place || place->source == 0 || prefix.empty() || s.name.compare(0, prefix.size(), prefix) != 0) continue;
      s.source = place->source;
      s.source_name = place->prefix + s.name.substr(prefix.size());
    }
  return all;
}

// What the file's tensors are for: read, second names of such, and those that loading refuses.
struct Settled {
  std::vector<TensorSpec> specs;
  Aliases aliases;
  std::vector<std::string> foreign;
};

Settled settle_tensors(Config& config, const Names& names, const Sources& sources, const TowerPlaces& places) {
  const Checkpoint& file = sources.files[0];
  Settled out;
  out.aliases = tie_tensors(config, names, file, nullptr);   // may untie them, which asks for one tensor more
  out.specs = placed_tensors(names, config.model, places);
  tie_tensors(config, names, file, &out.specs);
  find_second_names(*config.family, names, file, out.specs, out.aliases);
  out.foreign = foreign_tensors(config, names, sources, places, out.specs);
  const auto second = [&](const std::string& name) { return std::any_of(out.aliases.begin(), out.aliases.end(), [&](const auto& a) { return a.first == name; }); };
  std::erase_if(out.foreign, second);
  return out;
}

const char* const kForeign = "they stand in layers that are computed, and config.json does not ask for them (a bias, a norm, a scale)";

[[noreturn]] void refuse_foreign(const std::string& dir, const std::vector<std::string>& names) {
  throw Error("CHECKPOINT_UNSUPPORTED", concat(dir, ": ", names.size(), " tensors would be left out: ", listed(names), "; ", kForeign),
              "config.json is of another model (attention_bias, mlp_bias, add_time_attn, ...), or the architecture is not supported", dir);
}

}  // namespace

class Loader {
 public:
  Loader(Model& m, Config config, Sources sources, const std::string& dir, const LoadOptions& options)
      : m_(m), family_(*config.family), sources_(std::move(sources)), options_(options) {
    names_ = names_in(sources_.files[0], family_);
    const TowerPlaces places = find_towers(config, names_, sources_, dir, options.vision_tower);
    Settled settled = settle_tensors(config, names_, sources_, places);
    if (!settled.foreign.empty()) refuse_foreign(dir, settled.foreign);
    specs_ = std::move(settled.specs);
    aliases_ = std::move(settled.aliases);
    m.config = config.model.decoder;
    m.family = family_.name;
    m.config_json_ = config.text;
    if (config.model.vision) m.vision.emplace().config = *config.model.vision;
    m.outside_towers_ = sources_.files.size() > 1;
    for (const TensorInfo& t : sources_.files[0].tensors())
      if (is_float(t.dtype) && ignored_tensor(t.name, names_, config) && !buffer_tensor(t.name) && !(m.config.tied && t.name == names_.head)) unread_.insert(t.name);
  }

  Loader(Model& m, Config config, const LoadOptions& options) : m_(m), family_(*config.family), options_(options) {
    names_ = default_names(family_);
    specs_ = expected_tensors(names_, config.model);
    m.config = config.model.decoder;
    m.family = family_.name;
    if (config.model.vision) m.vision.emplace().config = *config.model.vision;
    m.dtype = options_.dtype == "auto" ? computed_in(stored_dtype(config)) : choose_dtype();
  }

  void outline() {
    m_.backend = make_cpu_backend(chosen_isa(), options_.threads > 0 ? options_.threads : machine_threads());
    m_.backend->scratch = Arena(true);
    m_.arena = Arena(true);
    make_params();
    make_decoder();
    if (m_.vision) make_vision();
    Arena space(true);   // gone with this call: the addresses are never looked at
    const auto place = [&] { return space.allocate(64); };
    for (Weight* w : m_.weights()) {
      w->packed.panels = place();
      if (!w->bias.empty()) w->bias_value = Buffer(static_cast<size_t>(w->packed.n) * sizeof(float));
      for (Param* p : w->bias) p->value = place();
    }
    for (Param& p : m_.params) {
      if (!p.value && (!p.weight || p.embedding)) p.value = place();
      m_.parameters += p.size();
    }
  }

  void run() {
    check_tensors(sources_, specs_);
    m_.dtype = choose_dtype();
    const int threads = options_.threads > 0 ? options_.threads : machine_threads();
    m_.backend = make_cpu_backend(chosen_isa(), threads);
    make_params();
    make_decoder();
    if (m_.vision) make_vision();
    check_memory();
    allocate();
    read();
    count();
    for (const auto& [name, of] : aliases_) m_.second_names_[name] = named(of);
    m_.checkpoint_ = std::move(sources_.files[0]);
  }

 private:
  struct Job { Param* param; const Checkpoint* file; const TensorInfo* tensor; int64_t row, rows; };   // rows of a matrix, or a whole vector

  static DType computed_in(FileDType t) { return t == FileDType::BF16 ? DType::BF16 : DType::F32; }   // F16 is read, never computed in

  DType choose_dtype() const {
    if (options_.dtype == "f32") return DType::F32;
    if (options_.dtype == "bf16") return DType::BF16;
    if (options_.dtype != "auto")
      throw Error("INVALID_ARGUMENT", concat("dtype: expected \"auto\", \"f32\" or \"bf16\", got \"", options_.dtype, "\""));
    const TensorInfo& t = sources_.files[0].get(names_.decoder + "layers.0.mlp.down_proj.weight");
    return computed_in(t.dtype);
  }

  void make_params() {
    for (const TensorSpec& s : specs_) {
      Param& p = m_.params.emplace_back();
      p.name = s.name;
      p.shape = s.shape;
      p.dtype = m_.dtype;
      m_.by_name[s.name] = &p;
    }
  }
  Param* named(const std::string& name) const { return m_.by_name.at(name); }

  void stack(Weight& w, const std::string& prefix, const std::vector<std::string>& names, bool bias, bool swiglu = false) {
    int64_t n = 0;
    for (const std::string& name : names) {
      Param* p = named(prefix + name + ".weight");
      p->weight = &w;
      p->weight_row = n;
      n += p->rows();
      w.parts.push_back(p);
      if (bias) w.bias.push_back(named(prefix + name + ".bias"));
    }
    w.packed = {nullptr, m_.dtype, n, w.parts[0]->cols(), swiglu};
  }

  void make_decoder() {
    const std::string& prefix = names_.decoder;
    m_.token_embedding = named(prefix + "embed_tokens.weight");
    m_.token_embedding->embedding = true;
    m_.final_norm = named(prefix + "norm.weight");
    for (int64_t i = 0; i < m_.config.layers; ++i) {
      Layer& l = m_.layers.emplace_back();
      const std::string at = concat(prefix, "layers.", i, ".");
      l.attention_norm = named(at + "input_layernorm.weight");
      l.mlp_norm = named(at + "post_attention_layernorm.weight");
      stack(l.qkv, at, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, m_.config.qkv_bias);
      stack(l.out, at, {"self_attn.o_proj"}, m_.config.out_bias);
      stack(l.gate_up, at, {"mlp.gate_proj", "mlp.up_proj"}, m_.config.mlp_bias, true);
      stack(l.down, at, {"mlp.down_proj"}, m_.config.mlp_bias);
    }
    Param* head = m_.config.tied ? m_.token_embedding : named(names_.head);
    m_.head.parts = {head};
    head->weight = &m_.head;
    m_.head.packed = {nullptr, m_.dtype, head->rows(), head->cols(), false};
  }

  void make_vision() {
    Vision& v = *m_.vision;
    if (v.config.image) v.image = make_tower(names_.image_tower, *v.config.image);
    if (v.config.video) v.video = make_tower(names_.video_tower, *v.config.video);
    if (!v.image && !v.video) return;
    const bool bare = v.config.original && v.config.projector_layers == 1;
    const std::string prefix = bare ? names_.projector.substr(0, names_.projector.size() - 1) : names_.projector;
    for (int64_t i = 0; i < v.config.projector_layers; ++i)
      stack(v.projector.emplace_back(), prefix, {bare ? "" : projector_layer(i, v.config.original)}, v.config.projector_bias);
  }

  LayerNorm norm(const std::string& name) const { return {named(name + ".weight"), named(name + ".bias")}; }

  std::unique_ptr<Tower> make_tower(const std::string& prefix, const TowerConfig& config) {
    auto t = std::make_unique<Tower>();
    t->config = config;
    t->class_embedding = named(prefix + "embeddings.class_embedding");
    t->position_embedding = named(prefix + "embeddings.position_embedding.weight");
    t->pre_norm = norm(prefix + "pre_layrnorm");
    stack(t->patch, prefix, {"embeddings.patch_embedding"}, false);
    const auto attention = [&](Weight& qkv, Weight& out, const std::string& at) {
      stack(qkv, at, {".q_proj", ".k_proj", ".v_proj"}, true);
      stack(out, at, {".out_proj"}, true);
    };
    for (int64_t i = 0; i < config.run; ++i) {
      TowerLayer& l = t->layers.emplace_back();
      const std::string at = concat(prefix, "encoder.layers.", i, ".");
      l.norm1 = norm(at + "layer_norm1");
      l.norm2 = norm(at + "layer_norm2");
      attention(l.qkv, l.out, at + "self_attn");
      stack(l.fc1, at, {"mlp.fc1"}, true);
      stack(l.fc2, at, {"mlp.fc2"}, true);
      if (config.frames == 0) continue;
      l.temporal_embedding = named(at + "temporal_embedding");
      l.temporal_norm = norm(at + "temporal_layer_norm1");
      attention(l.temporal_qkv, l.temporal_out, at + "temporal_attn");
    }
    return t;
  }

  void check_memory() const {
    uint64_t bytes = 0;
    for (const Param& p : m_.params) bytes += static_cast<uint64_t>(p.size()) * size_of(p.dtype);
    if (bytes > machine_memory())
      throw Error("OUT_OF_MEMORY", concat("the weights need ", bytes, " bytes as ", name_of(m_.dtype), ", the machine has ", machine_memory()),
                  "use dtype bf16, or a machine with more memory");
  }

  // Panels of all weights in one block; embeddings and vectors beside it.
  void allocate() {
    const auto aligned = [](size_t n) { return (n + 63) / 64 * 64; };
    size_t total = 0;
    for (Weight* w : m_.weights()) total += aligned(m_.backend->packed_bytes(w->packed.n, w->packed.k, w->packed.dtype, w->packed.swiglu));
    m_.panels_ = Buffer(total);
    char* at = m_.panels_.data<char>();
    for (Weight* w : m_.weights()) {
      w->packed.panels = at;
      at += aligned(m_.backend->packed_bytes(w->packed.n, w->packed.k, w->packed.dtype, w->packed.swiglu));
      if (w->bias.empty()) continue;
      w->bias_value = Buffer(static_cast<size_t>(w->packed.n) * sizeof(float));
      float* b = w->bias_value.data<float>();
      for (Param* p : w->bias) {
        p->value = b;
        b += p->size();
      }
    }
    for (Param& p : m_.params) {
      if (p.value || (p.weight && !p.embedding)) continue;
      p.value = m_.storage_.emplace_back(static_cast<size_t>(p.size()) * (p.vector() ? sizeof(float) : size_of(p.dtype))).data();
    }
  }

  void read() {
    constexpr int64_t kJobElements = 1 << 19;   // 1 to 2 MB: long enough for the disk, short enough to share out and to cancel
    std::vector<Job> jobs;
    uint64_t total = 0;
    for (size_t i = 0; i < specs_.size(); ++i) {
      Param& p = *m_.by_name.at(specs_[i].name);
      const Checkpoint& file = sources_.files[static_cast<size_t>(specs_[i].source)];
      const TensorInfo* tensor = sources_.find(specs_[i]);
      total += tensor->bytes;
      const int64_t rows = p.vector() ? 1 : std::max<int64_t>(64, kJobElements / std::max<int64_t>(1, p.cols()) / 64 * 64);
      for (int64_t r = 0; r < p.rows(); r += rows) jobs.push_back({&p, &file, tensor, r, std::min(rows, p.rows() - r)});
    }
    const int threads = m_.backend->threads;
    std::vector<std::vector<uint8_t>> staging(static_cast<size_t>(threads)), values(static_cast<size_t>(threads));
    std::atomic<uint64_t> done{0};
    parallel(threads, static_cast<int64_t>(jobs.size()), 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) {
        if (options_.cancel && options_.cancel->load()) throw Cancelled();
        const Job& job = jobs[static_cast<size_t>(i)];
        done += read_job(job, staging[static_cast<size_t>(worker)], values[static_cast<size_t>(worker)]);
        if (worker == 0 && options_.progress) options_.progress(done.load(), total);
      }
    });
    if (options_.progress) options_.progress(total, total);
  }

  uint64_t read_job(const Job& job, std::vector<uint8_t>& staging, std::vector<uint8_t>& values) {
    Param& p = *job.param;
    const TensorInfo& t = *job.tensor;
    const uint64_t bytes = t.bytes / static_cast<uint64_t>(p.rows()) * static_cast<uint64_t>(job.rows);
    if (p.vector()) {
      job.file->read_rows(t, 0, t.rows(), DType::F32, p.value, staging);
      if (p.dtype == DType::BF16)
        for (int64_t i = 0; i < p.size(); ++i) p.f32()[i] = round_bf16(p.f32()[i]);
      return bytes;
    }
    const size_t row_bytes = static_cast<size_t>(p.cols()) * size_of(p.dtype);
    if (!p.value && values.size() < row_bytes * static_cast<size_t>(job.rows)) values.resize(row_bytes * static_cast<size_t>(job.rows));
    void* dst = p.value ? static_cast<char*>(p.value) + row_bytes * static_cast<size_t>(job.row) : static_cast<void*>(values.data());
    job.file->read_rows(t, job.row, job.rows, p.dtype, dst, staging);
    if (p.weight) m_.backend->pack(p.weight->packed, p.weight_row + job.row, {dst, p.dtype, job.rows, p.cols()});
    return bytes;
  }

  // Parameters of the model, computed with or not (layers behind the feature layer).
  void count() {
    for (const Param& p : m_.params) m_.parameters += p.size();
    for (const TensorInfo& t : sources_.files[0].tensors())
      if (unread_.count(t.name) && !m_.by_name.count(t.name)) m_.parameters += t.elements();
  }

  Model& m_;
  const Family& family_;
  Sources sources_;
  const LoadOptions& options_;
  Names names_;
  std::vector<TensorSpec> specs_;
  Aliases aliases_;
  std::unordered_set<std::string> unread_;
};

std::unique_ptr<Model> Model::outline(const std::string& dir, const LoadOptions& options) {
  Config config = read_config(dir);
  describe_towers(config, dir, options.vision_tower);
  if (config.model.decoder.tied && has_weights(dir)) {   // a head of its own unties them
    const Checkpoint file = Checkpoint::open(dir);
    tie_tensors(config, names_in(file, *config.family), file, nullptr);
  }
  auto model = std::make_unique<Model>();
  Loader(*model, std::move(config), options).outline();
  return model;
}

std::unique_ptr<Model> Model::load(const std::string& dir, const LoadOptions& options) {
  Config config = read_config(dir);
  Sources sources;
  sources.files.push_back(Checkpoint::open(dir));
  auto model = std::make_unique<Model>();
  Loader(*model, std::move(config), std::move(sources), dir, options).run();
  return model;
}

CheckpointReport Model::inspect(const std::string& dir) {
  Config config = read_config(dir);
  Sources sources;
  sources.files.push_back(Checkpoint::open(dir));
  const Names names = names_in(sources.files[0], *config.family);
  const TowerPlaces places = find_towers(config, names, sources, dir, "");
  const Settled settled = settle_tensors(config, names, sources, places);
  const Checkpoint& file = sources.files[0];
  CheckpointReport out;
  out.family = config.family->name;
  if (!settled.foreign.empty())
    config.model.decoder.notes.push_back(concat("loading refuses ", settled.foreign.size(), " tensors: ", listed(settled.foreign), "; ", kForeign));
  std::unordered_set<std::string> expected, second;
  for (const auto& [name, of] : settled.aliases) second.insert(name);
  for (const TensorSpec& s : settled.specs) {
    expected.insert(s.name);
    const TensorInfo* t = sources.find(s);
    if (!t) out.missing.push_back(s.name);
    else if (t->shape != s.shape)
      config.model.decoder.notes.push_back(concat(s.name, ": config.json asks for shape ", shape_text(s.shape), ", the file has ", t->shape_text()));
  }
  out.parts = {{"decoder", 0, {}}};
  const auto part = [&](const std::string& name) -> CheckpointReport::Part& {
    const auto begins = [&](const std::string& prefix) { return !prefix.empty() && name.compare(0, prefix.size(), prefix) == 0; };
    const char* which = begins(names.image_tower) ? "image tower" : begins(names.video_tower) ? "video tower" : begins(names.projector) ? "projector" : "decoder";
    for (CheckpointReport::Part& p : out.parts)
      if (p.name == which) return p;
    return out.parts.emplace_back(CheckpointReport::Part{which, 0, {}});
  };
  for (const TensorInfo& t : file.tensors()) {
    if (second.count(t.name)) continue;
    const bool ignored = ignored_tensor(t.name, names, config) && std::find(settled.foreign.begin(), settled.foreign.end(), t.name) == settled.foreign.end();
    if (!expected.count(t.name) && !ignored) {
      out.unused.push_back(t.name);
      continue;
    }
    if (!is_float(t.dtype) || buffer_tensor(t.name) || (config.model.decoder.tied && t.name == names.head)) continue;
    CheckpointReport::Part& p = part(t.name);
    p.parameters += t.elements();
    out.parameters += t.elements();
    if (const std::string dtype = name_of(t.dtype); std::find(p.dtypes.begin(), p.dtypes.end(), dtype) == p.dtypes.end()) p.dtypes.push_back(dtype);
  }
  std::vector<std::string> kept;
  std::copy_if(out.unused.begin(), out.unused.end(), std::back_inserter(kept),
               [&](const std::string& n) { return std::find(settled.foreign.begin(), settled.foreign.end(), n) == settled.foreign.end(); });
  if (!kept.empty()) config.model.decoder.notes.push_back(concat(kept.size(), " tensors of the files are not used, and are kept when saving: ", listed(kept)));
  for (const Shard& s : file.shards()) out.files.push_back(s.name);
  out.config = config.model;
  return out;
}

}  // namespace isr
