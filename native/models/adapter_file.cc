// Folders of adapters as PEFT writes them: adapter_config.json, adapter_model.safetensors with tensors
// base_model.model.<module>.lora_A.weight and lora_B.weight.
#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "io/json.h"
#include "models/adapter.h"
#include "models/config_reader.h"
#include "models/model.h"

namespace isr {
namespace {

constexpr const char *kConfig = "/adapter_config.json", *kWeights = "/adapter_model.safetensors", *kPrefix = "base_model.model.";

// Settings that change what is computed, or add tensors: each has to be off.
constexpr const char* kUnsupported[] = {"use_dora",    "use_qalora",      "use_bdlora",        "lora_bias",       "fan_in_fan_out",   "modules_to_save",
                                        "layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "arrow_config",
                                        "kasa_config", "monteclora_config", "velora_config"};

bool off(const Json* v) {
  if (!v || v->is_null()) return true;
  if (const auto b = v->boolean()) return !*b;
  if (const std::string* s = v->string()) return s->empty();
  if (const Json::Array* a = v->array()) return a->empty();
  return v->object() && v->object()->empty();
}

struct FileConfig {
  int64_t rank = 0;
  double alpha = 0;
  bool rslora = false;
  std::vector<std::pair<std::string, double>> alphas;   // by the end of a module's name, or with ^ before it its whole name
};

FileConfig read_adapter_config(const std::string& path) {
  const Json json = read_json(path, "INVALID_CONFIG", kConfigJson);
  if (!json.object()) throw Error("INVALID_CONFIG", concat(path, ": expected an object, got ", json.kind()), "", path);
  const ConfigReader config(json, path);
  const std::string type = config.text("peft_type", "");
  if (type != "LORA") config.unsupported(concat("peft_type ", json_excerpt(type)), "adapters of type LORA are supported");
  for (const char* key : kUnsupported)
    if (!off(json.find(key))) config.unsupported(concat(key, " ", shown(*json.find(key))), "merge it with PEFT, and load the merged checkpoint");
  if (const std::string bias = config.text("bias", "none"); bias != "none") config.unsupported(concat("bias ", json_excerpt(bias)), "merge it with PEFT, and load the merged checkpoint");
  FileConfig out;
  out.rank = config.integer("r", 1, int64_t{1} << 14);
  out.alpha = config.number("lora_alpha", 1e-12, 1e12);
  out.rslora = config.boolean("use_rslora", false);
  const Json* pattern = config.find("alpha_pattern");
  if (pattern && !pattern->object()) config.invalid("alpha_pattern", "an object");
  for (const auto& [key, value] : pattern ? *pattern->object() : Json::Object{}) {
    std::string plain;
    for (size_t i = 0; i < key.size(); ++i)
      if (!(key[i] == '\\' && i + 1 < key.size() && key[i + 1] == '.')) plain += key[i];
    const bool name = plain.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.", plain.starts_with("^") ? 1 : 0) == std::string::npos;
    if (!name) config.unsupported(concat("alpha_pattern with the expression ", json_excerpt(key)), "names of modules and their ends are understood");
    const auto alpha = value.number();
    if (!alpha || *alpha <= 0) config.invalid("alpha_pattern", "numbers above 0");
    out.alphas.emplace_back(plain, *alpha);
  }
  return out;
}

bool ends_as_name(const std::string& module, const std::string& end) {
  return module == end || (module.size() > end.size() && module.ends_with(end) && module[module.size() - end.size() - 1] == '.');
}

// `spelled`: the module's name as the file has it.
double alpha_of(const FileConfig& config, const std::string& spelled) {
  for (const auto& [pattern, alpha] : config.alphas)
    if (pattern.starts_with("^") ? spelled == pattern.substr(1) : ends_as_name(spelled, pattern)) return alpha;
  return config.alpha;
}

// A tensor's module, and whether it is A or B.
struct Place { std::string module; bool is_a; };
Place place_of(const TensorInfo& t, const std::string& path) {
  for (const auto& [end, is_a] : {std::pair{".lora_A.weight", true}, {".lora_A.default.weight", true}, {".lora_B.weight", false}, {".lora_B.default.weight", false}}) {
    if (!t.name.starts_with(kPrefix) || !t.name.ends_with(end) || t.name.size() < std::strlen(kPrefix) + std::strlen(end)) continue;
    return {t.name.substr(std::strlen(kPrefix), t.name.size() - std::strlen(kPrefix) - std::strlen(end)), is_a};
  }
  throw Error("CHECKPOINT_UNSUPPORTED", concat(path, ": tensor ", json_excerpt(t.name), " would be left out: expected base_model.model.<module>.lora_A.weight or lora_B.weight"),
              "adapters of linear layers are supported; merge others with PEFT", path);
}

struct Found { std::string spelled; const TensorInfo *a = nullptr, *b = nullptr; };

void check_shapes(const Found& f, const Param& base, const std::string& path) {
  const auto corrupt = [&](const std::string& what) { throw Error("CHECKPOINT_CORRUPT", concat(path, ": ", what), "it is an adapter of another model, or was not fetched whole", path); };
  if (!f.a || !f.b) corrupt(concat(f.spelled, " has no ", f.a ? "lora_B" : "lora_A"));
  for (const TensorInfo* t : {f.a, f.b})
    if (!is_float(t->dtype)) throw Error("CHECKPOINT_UNSUPPORTED", concat(path, ": tensor ", t->name, " has dtype ", name_of(t->dtype)), "expected F32, BF16 or F16", path);
  const auto matrix = [](const TensorInfo& t) { return t.shape.size() == 2 && t.shape[0] > 0 && t.shape[1] > 0; };
  if (!matrix(*f.a) || !matrix(*f.b) || f.a->shape[1] != base.cols() || f.b->shape[0] != base.rows() || f.a->shape[0] != f.b->shape[1] || f.a->shape[0] > int64_t{1} << 14)
    corrupt(concat(f.spelled, ": lora_A ", f.a->shape_text(), " and lora_B ", f.b->shape_text(), " do not fit a matrix of ", base.rows(), " by ", base.cols()));
}

}  // namespace

std::unique_ptr<Adapter> Adapter::load(Model& model, const std::string& dir) {
  const std::string path = dir + kWeights;
  if (!file_exists(dir)) throw Error("NOT_FOUND", concat(dir, ": no such folder"), "give the folder of an adapter (adapter_config.json and adapter_model.safetensors)", dir);
  const FileConfig config = read_adapter_config(dir + kConfig);
  if (!file_exists(path) && file_exists(dir + "/adapter_model.bin"))
    throw Error("CHECKPOINT_UNSUPPORTED", concat(dir, ": adapter_model.bin"), "adapters are read from adapter_model.safetensors; load and save it once with PEFT", dir);
  std::unique_ptr<Adapter> adapter(new Adapter(model));
  adapter->file_ = Checkpoint::open_file(path);
  adapter->rank_ = config.rank;
  adapter->alpha_ = config.alpha;
  adapter->rslora_ = config.rslora;
  adapter->from_file_ = true;

  const std::vector<Module> modules = adaptable(model);
  const Spellings& root = model.declaration().root(Root::Decoder);
  const size_t today = root.module_prefix().size();
  std::map<std::string, size_t> known;   // a module under every name that some release gives it
  for (size_t i = 0; i < modules.size(); ++i) {
    known.emplace(modules[i].name, i);
    for (const std::string& prefix : root.prefixes) known.emplace(prefix + modules[i].name.substr(today), i);
  }
  std::vector<Found> found(modules.size());
  std::set<std::string> strangers;
  for (const TensorInfo& t : adapter->file_.tensors()) {
    const Place place = place_of(t, path);
    const auto module = known.find(place.module);
    if (module == known.end()) {
      strangers.insert(place.module);
      continue;
    }
    Found& f = found[module->second];
    const TensorInfo*& to = place.is_a ? f.a : f.b;
    if (to) throw Error("CHECKPOINT_CORRUPT", concat(path, ": ", t.name, " and ", to->name, " are of one matrix"), "", path);
    to = &t;
    f.spelled = place.module;
  }
  if (!strangers.empty())
    throw Error("CHECKPOINT_UNSUPPORTED", concat(path, ": ", strangers.size(), " modules are none of the decoder's blocks: ", json_excerpt(*strangers.begin()), strangers.size() > 1 ? ", ..." : ""),
                "it is an adapter of another model, or adapts more than the decoder: merge it with PEFT, and load the merged checkpoint", path);
  std::vector<const TensorInfo*> tensors;
  for (size_t i = 0; i < modules.size(); ++i) {
    if (found[i].spelled.empty()) continue;
    check_shapes(found[i], *modules[i].base, path);
    adapter->add(modules[i], found[i].a->shape[0], alpha_of(config, found[i].spelled));
    tensors.insert(tensors.end(), {found[i].a, found[i].b});
  }
  if (tensors.empty()) throw Error("CHECKPOINT_CORRUPT", concat(path, ": holds no tensors"), "", path);
  adapter->attach();
  std::vector<float> values;
  for (size_t i = 0; i < tensors.size(); ++i) {
    Param& p = adapter->params_[i];
    adapter->in_file_[&p] = tensors[i];
    if (model.counting) continue;
    values.resize(static_cast<size_t>(p.size()));
    adapter->read_exact(p, 0, p.size(), values.data());
    adapter->fill(p, values.data());
  }
  return adapter;
}

bool Adapter::read_exact(const Param& p, int64_t begin, int64_t count, float* values) const {
  const auto found = in_file_.find(&p);
  if (found == in_file_.end() || p.version > 0) return false;
  file_.read_values(*found->second, begin, count, values);
  return true;
}

std::string Adapter::config_text() const {
  std::set<std::string> ends;
  for (const Part& p : parts_) ends.insert(p.module.name.substr(p.module.name.rfind('.') + 1));
  // Last parts of names, where nothing else of the model ends in them; else whole names.
  const auto ours = [&](const Param& p) { return part_of(p) != nullptr; };
  const bool alone = std::none_of(model_.params.begin(), model_.params.end(), [&](const Param& p) {
    if (p.vector() || !p.name.ends_with(".weight") || ours(p)) return false;
    const std::string module = p.name.substr(0, p.name.size() - std::strlen(".weight"));
    return ends.count(module.substr(module.rfind('.') + 1)) > 0;
  });
  if (!alone) ends.clear();
  Json::Array targets;
  Json::Object ranks, alphas;
  for (const Part& p : parts_) {
    if (!alone) ends.insert(p.module.name);
    if (p.rank != rank_) ranks.emplace_back(p.module.name, p.rank);
    if (p.alpha != alpha_) alphas.emplace_back(p.module.name, p.alpha);
  }
  for (const std::string& end : ends) targets.emplace_back(end);
  const auto whole = static_cast<int64_t>(alpha_);
  return to_json(Json(Json::Object{{"alpha_pattern", std::move(alphas)},
                                   {"base_model_name_or_path", ""},
                                   {"bias", "none"},
                                   {"fan_in_fan_out", false},
                                   {"inference_mode", true},
                                   {"init_lora_weights", true},
                                   {"layers_pattern", Json()},
                                   {"layers_to_transform", Json()},
                                   {"lora_alpha", static_cast<double>(whole) == alpha_ ? Json(whole) : Json(alpha_)},
                                   {"lora_dropout", 0.0},
                                   {"modules_to_save", Json()},
                                   {"peft_type", "LORA"},
                                   {"r", rank_},
                                   {"rank_pattern", std::move(ranks)},
                                   {"revision", Json()},
                                   {"target_modules", std::move(targets)},
                                   {"task_type", "CAUSAL_LM"},
                                   {"use_dora", false},
                                   {"use_rslora", rslora_}}),
                 2) +
         "\n";
}

uint64_t Adapter::save(const std::string& dir) {
  AtomicFolder folder(dir, [](const std::string& name) { return !name.starts_with("adapter_"); });
  std::vector<NewTensor> tensors;
  for (const Part& part : parts_)
    for (const Param* p : {part.a, part.b}) {
      NewTensor& t = tensors.emplace_back(NewTensor{p->name, FileDType::F32, p->shape});
      t.fill = [this, p](uint64_t begin, uint64_t count, void* dst) {
        model_.check_whole(*p);
        model_.source_values(*p, static_cast<int64_t>(begin / sizeof(float)), static_cast<int64_t>(count / sizeof(float)), static_cast<float*>(dst));
      };
    }
  uint64_t written = write_safetensors(folder.file(kWeights + 1), tensors, {{"format", "pt"}});
  const std::string text = config_text();
  OutputFile out(folder.file(kConfig + 1));
  out.write(text.data(), text.size());
  out.finish();
  written += out.written();
  folder.commit();
  return written;
}

}  // namespace isr
