// Rotary embeddings as transformers 5.24 reads them. It writes rope_parameters; before it was rope_theta beside rope_scaling
// (type or rope_type). Where a file has both and they say different things, releases of transformers disagree: refused.
#include <cmath>

#include "models/config_reader.h"
#include "models/positions.h"

namespace isr {
namespace {

constexpr int64_t kMaxOriginal = 1 << 27;

double read_theta(const ConfigReader& c, double fallback) { return c.number("rope_theta", 1, 1e12, fallback); }

// The length before scaling. A value beside the rope's own object wins, as in transformers; without any it is the context.
int64_t original_context(const ConfigReader& config, const ConfigReader& r, int64_t context) {
  const char* key = "original_max_position_embeddings";
  return config.integer(key, 1, kMaxOriginal, r.integer(key, 1, kMaxOriginal, context));
}

void read_llama3(RopeConfig& rope, const ConfigReader& r) {
  rope.low_freq_factor = r.number("low_freq_factor", 1e-3, 1e6);
  rope.high_freq_factor = r.number("high_freq_factor", 1e-3, 1e6);
  if (rope.high_freq_factor <= rope.low_freq_factor) r.invalid("high_freq_factor", "more than low_freq_factor");
}

// Null and 0 mean the default, except for truncate, where null means false.
void read_yarn(RopeConfig& rope, const ConfigReader& r, int64_t context) {
  if (rope.theta <= 1) r.invalid("rope_theta", "more than 1 for yarn");
  const auto or_default = [&](const char* key, double fallback) {
    const double v = r.number(key, 0, 1e6, 0);
    return v > 0 ? v : fallback;
  };
  if (!r.has("factor")) rope.factor = static_cast<double>(context) / static_cast<double>(rope.original_context);
  rope.beta_fast = or_default("beta_fast", 32);
  rope.beta_slow = or_default("beta_slow", 1);
  rope.truncate = r.listed("truncate") ? r.boolean("truncate", false) : true;
  const auto scaled = [&](double by) { return rope.factor <= 1 ? 1.0 : 0.1 * by * std::log(rope.factor) + 1; };
  const double mscale = r.number("mscale", 0, 1e6, 0), all = r.number("mscale_all_dim", 0, 1e6, 0);
  rope.attention_factor = r.has("attention_factor") ? r.number("attention_factor", 0, 1e6) : mscale > 0 && all > 0 ? scaled(mscale) / scaled(all) : scaled(1);
}

// Keys of the object that this type of rope does not know: a nested object is another scheme, the rest is told.
void check_keys(const ConfigReader& r, std::vector<std::string>& notes) {
  if (r.number("partial_rotary_factor", 0, 1, 1) != 1)
    r.unsupported(concat(r.name("partial_rotary_factor"), " ", shown(*r.find("partial_rotary_factor")), " (part of a head is rotated)"), "supported is 1");
  for (const auto& [key, value] : r.members()) {
    if (value.object()) r.unsupported(concat(r.name(key), ": rotary embeddings of their own for some layers"), "supported is one setting for all layers");
    if (!r.asked(key) && !value.is_null() && key != "type") notes.push_back(concat(r.name(key), " ", shown(value), ": not a key of this type of rotary embeddings; not used"));
  }
}

// mrope_section: pairs of each axis. Qwen3-VL's default is that of all its sizes.
std::vector<int32_t> read_axes(const ConfigReader& r, RopeAxes axes) {
  const std::vector<int64_t> known{24, 20, 20};
  std::vector<int64_t> pairs;
  const Json* list = r.find("mrope_section");
  r.find("mrope_interleaved");   // what the family does, whatever it says
  if (!list && axes == RopeAxes::Interleaved) pairs = known;
  for (size_t i = 0; list && list->array() && i < list->array()->size(); ++i) pairs.push_back((*list->array())[i].integer().value_or(-1));
  for (const int64_t n : pairs)
    if (n < 0 || n > 128) r.invalid("mrope_section", "three numbers from 0 to 128");
  if (pairs.size() != 3) r.invalid("mrope_section", "three numbers: pairs of a head that turn by time, row and column");
  return axes == RopeAxes::Interleaved ? rope_interleaved(pairs) : rope_sections(pairs);
}

RopeConfig read_object(const ConfigReader& config, const char* key, int64_t context, std::vector<std::string>& notes, RopeAxes axes) {
  RopeConfig rope;
  const ConfigReader r = config.object(key);
  rope.theta = read_theta(r, read_theta(config, 10000));
  const std::string type = r.text("rope_type", r.text("type", "default"));
  if (type == "linear") rope.type = RopeType::Linear;
  else if (type == "llama3") rope.type = RopeType::Llama3;
  else if (type == "yarn") rope.type = RopeType::Yarn;
  else if (type != "default" && type != "dynamic" && !(type == "mrope" && axes != RopeAxes::One))
    r.unsupported(concat(r.name("rope_type"), ": rotary embeddings of type \"", type, "\""), "supported are default, linear, dynamic (within the context), llama3 and yarn");
  if (type == "dynamic") {   // transformers scales from the context on, and nothing here is longer
    r.number("factor", 1e-6, 1e6);
    notes.push_back(concat(r.name("rope_type"), " dynamic: nothing is scaled within the context of ", context, " tokens, and longer sequences are refused"));
  }
  const bool scaled = rope.type != RopeType::Default, implied = rope.type == RopeType::Yarn && !r.has("factor");
  if (scaled && !implied) rope.factor = r.number("factor", 1e-6, 1e6);
  if (rope.type == RopeType::Llama3 || rope.type == RopeType::Yarn) rope.original_context = original_context(config, r, context);
  if (rope.type == RopeType::Llama3) read_llama3(rope, r);
  if (rope.type == RopeType::Yarn) read_yarn(rope, r, context);
  if (axes != RopeAxes::One) rope.axis = read_axes(r, axes);
  check_keys(r, notes);
  return rope;
}

bool filled(const ConfigReader& config, const char* key) {
  const Json* v = config.find(key);
  return v && !(v->object() && v->object()->empty());
}

}  // namespace

RopeConfig read_rope(const ConfigReader& config, int64_t context, std::vector<std::string>& notes, RopeAxes axes) {
  const bool joined = filled(config, "rope_parameters"), older = filled(config, "rope_scaling");
  if (!joined && !older && axes != RopeAxes::One) config.invalid("rope_scaling", "an object with mrope_section (or rope_parameters, which newer files have)");
  if (!joined && !older) {
    RopeConfig plain;
    plain.theta = read_theta(config, 10000);
    return plain;
  }
  const RopeConfig rope = read_object(config, older ? "rope_scaling" : "rope_parameters", context, notes, axes);
  if (joined && older) {
    std::vector<std::string> twice;
    if (read_object(config, "rope_parameters", context, twice, axes) != rope)
      config.unsupported(concat(config.name("rope_scaling"), " and ", config.name("rope_parameters"), " say different things: ", shown(*config.find("rope_scaling")), " and ",
                                shown(*config.find("rope_parameters"))),
                         "releases of transformers choose differently: remove the one that the checkpoint was not trained with");
  } else if (joined && config.has("rope_theta") && read_theta(config, 0) != rope.theta) {
    config.unsupported(concat(config.name("rope_theta"), " ", shown(*config.find("rope_theta")), " and ", config.name("rope_parameters"), " ", shown(*config.find("rope_parameters")),
                              " say different things"),
                       "releases of transformers choose differently: remove the one that the checkpoint was not trained with");
  }
  return rope;
}

}  // namespace isr
