#include "models/loader.h"

#include <algorithm>
#include <mutex>
#include <unordered_set>

#include "core/bf16.h"
#include "models/config_reader.h"

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
  const Json json = parse_json(out.text, "INVALID_CONFIG", path);
  out.family = &find_family(json, path);
  out.decoder = out.family->read(json, path);
  out.decoder.model_type = out.family->model_type;
  out.decoder.architecture = out.family->architecture;
  const std::string generation = dir + "/generation_config.json";
  if (file_exists(generation)) {
    const Json g = read_json(generation, "INVALID_CONFIG");
    if (!g.object()) throw Error("INVALID_CONFIG", concat(generation, ": expected an object, got ", g.kind()), "", generation);
    const ConfigReader reader(g, generation);
    for (int32_t id : reader.ids("eos_token_id", out.decoder.vocab)) out.decoder.end_tokens.push_back(id);
  }
  std::vector<int32_t>& ends = out.decoder.end_tokens;
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  return out;
}

std::vector<TensorSpec> expected_tensors(const Family& f, const DecoderConfig& c) {
  const int64_t q = c.heads * c.head_size, kv = c.kv_heads * c.head_size;
  std::vector<TensorSpec> all;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) { all.push_back({f.prefix + name, std::move(shape)}); };
  const auto matrix = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
    add(name + ".weight", {out, in});
    if (bias) add(name + ".bias", {out});
  };
  add("embed_tokens.weight", {c.vocab, c.width});
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = concat("layers.", i, ".");
    add(layer + "input_layernorm.weight", {c.width});
    matrix(layer + "self_attn.q_proj", q, c.width, c.qkv_bias);
    matrix(layer + "self_attn.k_proj", kv, c.width, c.qkv_bias);
    matrix(layer + "self_attn.v_proj", kv, c.width, c.qkv_bias);
    matrix(layer + "self_attn.o_proj", c.width, q, c.out_bias);
    add(layer + "post_attention_layernorm.weight", {c.width});
    matrix(layer + "mlp.gate_proj", c.mlp_width, c.width, c.mlp_bias);
    matrix(layer + "mlp.up_proj", c.mlp_width, c.width, c.mlp_bias);
    matrix(layer + "mlp.down_proj", c.width, c.mlp_width, c.mlp_bias);
  }
  add("norm.weight", {c.width});
  if (!c.tied) all.push_back({f.head, {c.vocab, c.width}});
  return all;
}

bool ignored_tensor(const std::string& name, const DecoderConfig& c, const Family& f) {
  const std::string buffer = "rotary_emb.inv_freq";
  if (name.size() >= buffer.size() && name.compare(name.size() - buffer.size(), buffer.size(), buffer) == 0) return true;
  return c.tied && name == f.head;   // a copy of the embeddings
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

void check_tensors(const Checkpoint& file, const std::vector<TensorSpec>& specs) {
  std::vector<std::string> missing;
  for (const TensorSpec& s : specs) {
    const TensorInfo* t = file.find(s.name);
    if (!t) {
      missing.push_back(s.name);
      continue;
    }
    if (t->shape != s.shape)
      throw Error("CHECKPOINT_CORRUPT", concat(file.dir(), ": tensor ", s.name, ": config.json asks for shape ", shape_text(s.shape), ", the file has ", t->shape_text()),
                  "config.json and the weights are not of the same model", file.dir());
    if (!is_float(t->dtype))
      throw Error("CHECKPOINT_UNSUPPORTED", concat(file.dir(), ": tensor ", s.name, " has dtype ", name_of(t->dtype)),
                  "weights must be F32, BF16 or F16; use the full-precision checkpoint that it was made from", file.dir());
  }
  if (!missing.empty())
    throw Error("CHECKPOINT_CORRUPT", concat(file.dir(), ": ", missing.size(), " tensors that config.json asks for are missing: ", listed(missing)),
                "fetch the checkpoint again; every shard must be there", file.dir());
}

}  // namespace

class Loader {
 public:
  Loader(Model& m, const Config& config, Checkpoint file, const LoadOptions& options) : m_(m), family_(*config.family), options_(options) {
    m.config = config.decoder;
    m.family = config.family->model_type;
    m.config_json_ = config.text;
    m.checkpoint_ = std::move(file);
  }

  void run() {
    const std::vector<TensorSpec> specs = expected_tensors(family_, m_.config);
    check_tensors(m_.checkpoint_, specs);
    m_.dtype = choose_dtype();
    const int threads = options_.threads > 0 ? options_.threads : machine_threads();
    m_.backend = make_cpu_backend(chosen_isa(), threads);
    make_params(specs);
    make_weights();
    check_memory();
    allocate();
    read();
    for (const Param& p : m_.params) m_.parameters += p.size();
  }

 private:
  struct Job { Param* param; int64_t row, rows; };   // rows of a matrix, or a whole vector

  DType choose_dtype() const {
    if (options_.dtype == "f32") return DType::F32;
    if (options_.dtype == "bf16") return DType::BF16;
    if (options_.dtype != "auto")
      throw Error("INVALID_ARGUMENT", concat("dtype: expected \"auto\", \"f32\" or \"bf16\", got \"", options_.dtype, "\""));
    const TensorInfo& t = m_.checkpoint_.get(family_.prefix + std::string("layers.0.mlp.down_proj.weight"));
    return t.dtype == FileDType::BF16 ? DType::BF16 : DType::F32;   // F16 is read, never computed in
  }

  void make_params(const std::vector<TensorSpec>& specs) {
    for (const TensorSpec& s : specs) {
      Param& p = m_.params.emplace_back();
      p.name = s.name;
      p.shape = s.shape;
      p.dtype = m_.dtype;
      m_.by_name[s.name] = &p;
    }
  }
  Param* named(const std::string& name) const { return m_.by_name.at(family_.prefix + name); }

  void stack(Weight& w, const std::vector<std::string>& names, bool bias, bool swiglu = false) {
    int64_t n = 0;
    for (const std::string& name : names) {
      Param* p = named(name + ".weight");
      p->weight = &w;
      p->weight_row = n;
      n += p->rows();
      w.parts.push_back(p);
      if (bias) w.bias.push_back(named(name + ".bias"));
    }
    w.packed = {nullptr, m_.dtype, n, w.parts[0]->cols(), swiglu};
  }

  void make_weights() {
    m_.token_embedding = named("embed_tokens.weight");
    m_.token_embedding->embedding = true;
    m_.final_norm = named("norm.weight");
    for (int64_t i = 0; i < m_.config.layers; ++i) {
      Layer& l = m_.layers.emplace_back();
      const std::string at = concat("layers.", i, ".");
      l.attention_norm = named(at + "input_layernorm.weight");
      l.mlp_norm = named(at + "post_attention_layernorm.weight");
      stack(l.qkv, {at + "self_attn.q_proj", at + "self_attn.k_proj", at + "self_attn.v_proj"}, m_.config.qkv_bias);
      stack(l.out, {at + "self_attn.o_proj"}, m_.config.out_bias);
      stack(l.gate_up, {at + "mlp.gate_proj", at + "mlp.up_proj"}, m_.config.mlp_bias, true);
      stack(l.down, {at + "mlp.down_proj"}, m_.config.mlp_bias);
    }
    Param* head = m_.config.tied ? m_.token_embedding : m_.by_name.at(family_.head);
    m_.head.parts = {head};
    head->weight = &m_.head;
    m_.head.packed = {nullptr, m_.dtype, head->rows(), head->cols(), false};
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
    for (Param& p : m_.params) {
      const int64_t rows = p.vector() ? 1 : std::max<int64_t>(64, kJobElements / std::max<int64_t>(1, p.cols()) / 64 * 64);
      for (int64_t r = 0; r < p.rows(); r += rows) jobs.push_back({&p, r, std::min(rows, p.rows() - r)});
    }
    const int threads = m_.backend->threads;
    std::vector<std::vector<uint8_t>> staging(static_cast<size_t>(threads)), values(static_cast<size_t>(threads));
    std::atomic<uint64_t> done{0};
    const uint64_t total = m_.checkpoint_.bytes();
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
    const TensorInfo& t = m_.checkpoint_.get(p.name);
    const uint64_t bytes = t.bytes / static_cast<uint64_t>(p.rows()) * static_cast<uint64_t>(job.rows);
    if (p.vector()) {
      m_.checkpoint_.read_rows(t, 0, t.rows(), DType::F32, p.value, staging);
      if (p.dtype == DType::BF16)
        for (int64_t i = 0; i < p.size(); ++i) p.f32()[i] = round_bf16(p.f32()[i]);
      return bytes;
    }
    const size_t row_bytes = static_cast<size_t>(p.cols()) * size_of(p.dtype);
    if (!p.value && values.size() < row_bytes * static_cast<size_t>(job.rows)) values.resize(row_bytes * static_cast<size_t>(job.rows));
    void* dst = p.value ? static_cast<char*>(p.value) + row_bytes * static_cast<size_t>(job.row) : static_cast<void*>(values.data());
    m_.checkpoint_.read_rows(t, job.row, job.rows, p.dtype, dst, staging);
    if (p.weight) m_.backend->pack(p.weight->packed, p.weight_row + job.row, {dst, p.dtype, job.rows, p.cols()});
    return bytes;
  }

  Model& m_;
  const Family& family_;
  const LoadOptions& options_;
};

std::unique_ptr<Model> Model::load(const std::string& dir, const LoadOptions& options) {
  const Config config = read_config(dir);
  auto model = std::make_unique<Model>();
  Loader(*model, config, Checkpoint::open(dir), options).run();
  return model;
}

CheckpointReport Model::inspect(const std::string& dir) {
  const Config config = read_config(dir);
  const Checkpoint file = Checkpoint::open(dir);
  CheckpointReport out;
  out.config = config.decoder;
  out.family = config.family->model_type;
  std::unordered_set<std::string> expected;
  CheckpointReport::Part decoder{"decoder", 0, {}};
  for (const TensorSpec& s : expected_tensors(*config.family, config.decoder)) {
    expected.insert(s.name);
    const TensorInfo* t = file.find(s.name);
    if (!t) {
      out.missing.push_back(s.name);
      continue;
    }
    decoder.parameters += t->elements();
    const std::string dtype = name_of(t->dtype);
    if (std::find(decoder.dtypes.begin(), decoder.dtypes.end(), dtype) == decoder.dtypes.end()) decoder.dtypes.push_back(dtype);
    if (t->shape != s.shape) out.config.notes.push_back(concat(s.name, ": config.json asks for shape ", shape_text(s.shape), ", the file has ", t->shape_text()));
  }
  for (const TensorInfo& t : file.tensors())
    if (!expected.count(t.name) && !ignored_tensor(t.name, config.decoder, *config.family)) out.unused.push_back(t.name);
  out.parameters = decoder.parameters;
  out.parts.push_back(std::move(decoder));
  for (const Shard& s : file.shards()) out.files.push_back(s.name);
  return out;
}

}  // namespace isr
