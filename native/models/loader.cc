#include "models/loader.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "core/bf16.h"
#include "kernels/devices.h"
#include "models/config_keys.h"

namespace isr {

Config read_config(const std::string& dir, const Families& families) {
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
  out.family = &find_family(families, json, path);
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

// What the config asks for, where the towers were found: under the names that the checkpoint gives them, or another file's.
Declared placed(const Config& config, const Names& names, const TowerPlaces& places) {
  Declared all = declared(*config.family, names, config.model);
  for (std::vector<TensorSpec>* list : {&all.tensors, &all.claims})
    for (TensorSpec& s : *list) {
      const TowerPlace* place = places.at(s.root);
      if (!place || place->source == 0) continue;
      s.source = place->source;
      s.source_name = place->prefix + s.name.substr(names[s.root].size());
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
  Declared wanted = placed(config, names, places);
  tie_tensors(config, names, file, &wanted.tensors);
  find_second_names(*config.family, names, file, wanted.tensors, out.aliases);
  out.foreign = foreign_tensors(config, names, sources, wanted);
  out.specs = std::move(wanted.tensors);
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
    take_config(config);
    m.config_json_ = config.text;
    m.outside_towers_ = sources_.files.size() > 1;
    for (const TensorInfo& t : sources_.files[0].tensors())
      if (is_float(t.dtype) && ignored_tensor(t.name, names_, config) && !buffer_tensor(t.name) && !(m.config.tied && t.name == names_.head())) unread_.insert(t.name);
  }

  Loader(Model& m, Config config, const LoadOptions& options) : m_(m), family_(*config.family), options_(options) {
    names_ = default_names(family_);
    take_config(config);
    m.dtype = options_.dtype == "auto" ? computed_in(stored_dtype(config)) : choose_dtype();
  }

  void outline() {
    m_.threads = options_.threads > 0 ? options_.threads : machine_threads();
    m_.counting = make_measuring_device();
    const DeviceKind* const kind = find_kind(options_.device);
    m_.backend = (kind && kind->outline ? kind : find_kind("cpu"))->outline(m_.threads, *m_.counting);
    m_.activations.emplace(*m_.counting);
    make_params();
    allocate();
    for (const Param& p : m_.params) m_.parameters += p.size();
  }

  void run() {
    check_tensors(sources_, specs_);
    m_.dtype = choose_dtype();
    m_.threads = options_.threads > 0 ? options_.threads : machine_threads();
    m_.backend = make_backend(options_.device, m_.threads);
    m_.activations.emplace(m_.backend->device());
    make_params();
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
    const TensorInfo& t = sources_.files[0].get(names_[Root::Decoder] + family_.typical);
    return computed_in(t.dtype);
  }

  void take_config(const Config& config) {
    config_ = config.model;
    m_.config = config_.decoder;
    m_.family = family_.name;
    m_.family_ = &family_;
  }

  void make_params() {
    m_.parts_.emplace(names_, m_.dtype);
    family_.parts(*m_.parts_, m_, config_);
    ISR_ASSERT(family_.forward.decoder && (!m_.vision || (family_.forward.tower && family_.forward.projector)), family_.name, " declares no forward");
    m_.parts_->bind(m_.params);
    for (Param& p : m_.params) m_.by_name[p.name] = &p;
  }
  Param* named(const std::string& name) const { return m_.by_name.at(name); }

  void check_memory() const {
    uint64_t bytes = 0;
    for (const Param& p : m_.params) bytes += static_cast<uint64_t>(p.size()) * size_of(p.dtype);
    const size_t memory = m_.backend->device().memory();
    if (bytes > memory)
      throw Error("OUT_OF_MEMORY", concat("the weights need ", bytes, " bytes as ", name_of(m_.dtype), ", the machine has ", memory),
                  "use dtype bf16, or a machine with more memory");
  }

  // Matrices in one block; embeddings and vectors beside it.
  void allocate() {
    const auto aligned = [](size_t n) { return (n + 63) / 64 * 64; };
    Device& device = m_.backend->device();
    size_t total = 0;
    for (Weight* w : m_.weights()) total += aligned(m_.backend->matrix_bytes(w->shape));
    m_.panels_ = Buffer(device, total);
    char* at = m_.panels_.data<char>();
    for (Weight* w : m_.weights()) {
      w->matrix = m_.backend->matrix(w->shape, at);
      at += aligned(m_.backend->matrix_bytes(w->shape));
      if (const Tensor rows = w->matrix->in_place())
        for (Param* p : w->parts) p->value = rows.at(p->weight_row);
      if (w->bias.empty()) continue;
      w->bias_value = Buffer(device, static_cast<size_t>(w->n()) * sizeof(float));
      float* b = w->bias_value.data<float>();
      for (Param* p : w->bias) {
        p->value = b;
        b += p->size();
      }
    }
    for (Param& p : m_.params) {
      if (p.value || (p.weight && !p.embedding)) continue;
      p.value = m_.storage_.emplace_back(device, static_cast<size_t>(p.size()) * size_of(p.stored())).data();
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
    std::vector<Staging> staging(static_cast<size_t>(m_.threads));
    std::atomic<uint64_t> done{0};
    parallel(m_.threads, static_cast<int64_t>(jobs.size()), 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) {
        if (options_.cancel && options_.cancel->load()) throw Cancelled();
        done += read_job(jobs[static_cast<size_t>(i)], staging[static_cast<size_t>(worker)]);
        if (worker == 0 && options_.progress) options_.progress(done.load(), total);
      }
    });
    if (options_.progress) options_.progress(total, total);
  }

  // A worker's memory: bytes of the file, rows as the model holds them, and the same on a device that is not the host.
  struct Staging {
    std::vector<uint8_t> file, rows;
    Buffer there;
  };

  uint64_t read_job(const Job& job, Staging& staging) {
    const Param& p = *job.param;
    const TensorInfo& t = *job.tensor;
    if (p.vector()) read_vector(p, job, staging);
    else read_rows(p, job, staging);
    return t.bytes / static_cast<uint64_t>(p.rows()) * static_cast<uint64_t>(job.rows);
  }

  void read_vector(const Param& p, const Job& job, Staging& staging) {
    std::vector<float> values(static_cast<size_t>(p.size()));
    job.file->read_rows(*job.tensor, 0, job.tensor->rows(), DType::F32, values.data(), staging.file);
    if (p.dtype == DType::BF16) std::transform(values.begin(), values.end(), values.begin(), round_bf16);
    m_.backend->device().upload(p.value, values.data(), values.size() * sizeof(float));
  }

  // On the host rows are read where they belong; other devices get them through memory of both sides.
  void read_rows(const Param& p, const Job& job, Staging& staging) {
    Device& device = m_.backend->device();
    const bool host = &device == &host_device();
    const size_t row_bytes = static_cast<size_t>(p.cols()) * size_of(p.dtype), bytes = row_bytes * static_cast<size_t>(job.rows);
    char* place = p.value ? static_cast<char*>(p.value) + row_bytes * static_cast<size_t>(job.row) : nullptr;
    if (!(host && place) && staging.rows.size() < bytes) staging.rows.resize(bytes);
    void* to = host && place ? static_cast<void*>(place) : staging.rows.data();
    job.file->read_rows(*job.tensor, job.row, job.rows, p.dtype, to, staging.file);
    if (!host) {
      if (!place && staging.there.bytes() < bytes) staging.there = Buffer(device, bytes);
      device.upload(place ? place : staging.there.data(), to, bytes);
      to = place ? place : staging.there.data();
    }
    if (p.weight && !p.in_matrix()) p.weight->matrix->write_rows(p.weight_row + job.row, view(to, p.dtype, job.rows, p.cols()));
  }

  // Parameters of the model, computed with or not (layers behind the feature layer).
  void count() {
    for (const Param& p : m_.params) m_.parameters += p.size();
    for (const TensorInfo& t : sources_.files[0].tensors())
      if (unread_.count(t.name) && !m_.by_name.count(t.name)) m_.parameters += t.elements();
  }

  Model& m_;
  const Family& family_;
  ModelConfig config_;
  Sources sources_;
  const LoadOptions& options_;
  Names names_;
  std::vector<TensorSpec> specs_;
  Aliases aliases_;
  std::unordered_set<std::string> unread_;
};

namespace {

const Families& families_of(const LoadOptions& options) { return options.families ? *options.families : all_families(); }

}  // namespace

std::unique_ptr<Model> Model::outline(const std::string& dir, const LoadOptions& options) {
  Config config = read_config(dir, families_of(options));
  describe_towers(config, dir, options.vision_tower);
  if (config.model.decoder.tied && has_weights(dir)) {   // a head of its own unties them
    const Checkpoint file = Checkpoint::open(dir);
    tie_tensors(config, names_in(file, *config.family), file, nullptr);
  }
  auto model = std::make_unique<Model>();
  Loader(*model, std::move(config), options).outline();
  if (!options.adapter.empty()) model->adapter = Adapter::load(*model, options.adapter);
  return model;
}

std::unique_ptr<Model> Model::load(const std::string& dir, const LoadOptions& options) {
  Config config = read_config(dir, families_of(options));
  Sources sources;
  sources.files.push_back(Checkpoint::open(dir));
  auto model = std::make_unique<Model>();
  Loader(*model, std::move(config), std::move(sources), dir, options).run();
  if (!options.adapter.empty()) model->adapter = Adapter::load(*model, options.adapter);
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
  out.family = config.family;
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
  std::unordered_map<std::string, Root> roots;
  for (const TensorSpec& s : settled.specs) roots.emplace(s.name, s.root);
  out.parts = {{"decoder", 0, {}}};
  const auto part = [&](const std::string& name) -> CheckpointReport::Part& {
    const auto begins = [&](const std::string& prefix) { return !prefix.empty() && name.compare(0, prefix.size(), prefix) == 0; };
    const auto declared_at = roots.find(name);
    const auto is = [&](Root root) { return declared_at != roots.end() ? declared_at->second == root : begins(names[root]); };
    const char* which = is(Root::ImageTower) ? "image tower" : is(Root::VideoTower) ? "video tower" : is(Root::Projector) ? "projector" : "decoder";
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
    if (!is_float(t.dtype) || buffer_tensor(t.name) || (config.model.decoder.tied && t.name == names.head())) continue;
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
