// Jobs of a model: load, inspect, outputs, log-probs, generation, parameters, saving.
#include <algorithm>
#include <cstring>

#include "binding/jobs.h"
#include "models/score.h"

namespace isr::binding {
namespace {

constexpr int kProgress = 1;   // event kind: only the newest is kept

Napi::Object describe_tower(Napi::Env env, const Family& family, const VisionConfig& v, bool image) {
  const TowerConfig& t = image ? *v.image : *v.video;
  Napi::Object o = Napi::Object::New(env);
  o.Set("imageSize", static_cast<double>(t.frame.h));   // and so wide: config.json knows no other frames
  o.Set("rowsAFrame", static_cast<double>(v.rows(image, family.grid(t, 1))));
  o.Set("frames", static_cast<double>(image ? 1 : t.frames));   // of a clip; 0: any number
  o.Set("width", static_cast<double>(t.features()));
  o.Set("withText", image ? v.image_text : v.video_text);
  if (t.grids) o.Set("patch", static_cast<double>(t.patch)), o.Set("merge", static_cast<double>(t.merge));   // takes any grid
  return o;
}

struct GivenGrid { Grid grid; double seconds; };
std::optional<GivenGrid> grid_at(const Napi::Object& args) {
  if (!has(args, "gridThw")) return {};
  const std::vector<int32_t> g = ints_at(args, "gridThw");
  ISR_ASSERT(g.size() == 3, "a grid of three numbers");
  return GivenGrid{{g[0], g[1], g[2]}, number_at(args, "secondsPerGrid")};
}

struct AdapterFacts { int64_t rank; double alpha; bool rslora; int64_t modules, parameters; };
std::optional<AdapterFacts> facts_of(const Adapter* a) {
  if (!a) return {};
  return AdapterFacts{a->rank(), a->alpha(), a->rslora(), static_cast<int64_t>(a->parts().size()), a->parameters()};
}

Napi::Object describe_adapter(Napi::Env env, const AdapterFacts& a) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("rank", static_cast<double>(a.rank));
  o.Set("alpha", a.alpha);
  o.Set("rslora", a.rslora);
  o.Set("modules", static_cast<double>(a.modules));
  o.Set("parameters", static_cast<double>(a.parameters));
  return o;
}

Napi::Object describe_vision(Napi::Env env, const Family& family, const VisionConfig& v) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("original", v.original);
  o.Set("imageToken", v.image_token);
  o.Set("videoToken", v.video_token);
  o.Set("perVideo", static_cast<double>(v.per_video));
  o.Set("frames", static_cast<double>(v.frames));
  if (v.image) o.Set("image", describe_tower(env, family, v, true));
  if (v.video) o.Set("video", describe_tower(env, family, v, false));
  return o;
}

Napi::Object describe(Napi::Env env, const ModelConfig& model, const Family& family, int64_t parameters) {
  const DecoderConfig& config = model.decoder;
  Napi::Object o = Napi::Object::New(env);
  if (model.vision) o.Set("vision", describe_vision(env, family, *model.vision));
  o.Set("family", family.name);
  o.Set("modelType", config.model_type);
  o.Set("parameters", static_cast<double>(parameters));
  o.Set("contextLength", static_cast<double>(config.context));
  o.Set("vocabSize", static_cast<double>(config.vocab));
  o.Set("width", static_cast<double>(config.width));
  o.Set("positionAxes", config.rope.axis.empty() ? 1 : *std::max_element(config.rope.axis.begin(), config.rope.axis.end()) + 1);
  o.Set("levels", static_cast<double>(model.vision ? model.vision->levels() : 0));
  o.Set("endTokenIds", to_js(env, config.end_tokens));
  o.Set("notes", to_js(env, config.notes));
  return o;
}

Napi::Value inspect(const Napi::CallbackInfo& info) {
  return submit_beside(info, [dir = string_at(info[1].As<Napi::Object>(), "dir")](JobContext&) -> ToJs {
    return [r = Model::inspect(dir)](Napi::Env env) -> Napi::Value {
      Napi::Object o = describe(env, r.config, *r.family, r.parameters);
      Napi::Array parts = Napi::Array::New(env, r.parts.size());
      for (size_t i = 0; i < r.parts.size(); ++i) {
        Napi::Object part = Napi::Object::New(env);
        part.Set("name", r.parts[i].name);
        part.Set("parameters", static_cast<double>(r.parts[i].parameters));
        part.Set("dtypes", to_js(env, r.parts[i].dtypes));
        parts.Set(static_cast<uint32_t>(i), part);
      }
      o.Set("parts", parts);
      o.Set("files", to_js(env, r.files));
      o.Set("missing", to_js(env, r.missing));
      o.Set("unused", to_js(env, r.unused));
      return o;
    };
  });
}

Napi::Value load(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  LoadOptions options;
  options.dtype = string_at(args, "dtype");
  options.device = string_at(args, "device");
  options.threads = static_cast<int>(integer_at(args, "threads"));
  if (has(args, "visionTower")) options.vision_tower = string_at(args, "visionTower");
  if (has(args, "adapter")) options.adapter = string_at(args, "adapter");
  return submit(info, [options, dir = string_at(args, "dir")](JobContext& job) mutable -> ToJs {
    options.cancel = job.cancel;
    options.progress = [&](uint64_t bytes, uint64_t total) {
      job.emit(kProgress, [bytes, total](Napi::Env env) -> Napi::Value {
        Napi::Object o = Napi::Object::New(env);
        o.Set("bytes", static_cast<double>(bytes));
        o.Set("totalBytes", static_cast<double>(total));
        return o;
      });
    };
    job.engine.model = Model::load(dir, options);
    const Model& m = job.engine.loaded();
    return [config = ModelConfig{m.config, m.vision ? std::optional(m.vision->config) : std::nullopt}, family = &m.declaration(), parameters = m.parameters, dtype = m.dtype,
            isa = std::string(m.backend->level()), adapter = facts_of(m.adapter.get())](Napi::Env env) -> Napi::Value {
      Napi::Object o = describe(env, config, *family, parameters);
      if (adapter) o.Set("adapter", describe_adapter(env, *adapter));
      o.Set("dtype", name_of(dtype));
      o.Set("isa", isa);
      return o;
    };
  });
}

// Outputs are written into arrays that the caller made, so that nothing large is copied on the JS thread.
Napi::Value forward_job(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  std::vector<Napi::Object> keep;
  ForwardRequest request;
  request.ids = ints_at(args, "ids");
  request.begin = integer_at(args, "begin");
  request.end = integer_at(args, "end");
  const Bytes logits = bytes_at(args, "logits", keep), hidden = bytes_at(args, "hidden", keep), positions = bytes_at(args, "positions", keep);
  request.logits = has(args, "logits");
  request.hidden = has(args, "hidden");
  return submit_beside(info, [=](JobContext& job) -> ToJs {
    const ForwardResult r = forward(job.engine.loaded(), request, job.cancel);
    job.counters.prefill += request.ids.size();
    const auto copy = [](const Bytes& to, const void* from, size_t bytes) {
      if (!to.data || bytes == 0) return;
      ISR_ASSERT(to.bytes == bytes, "an output of ", bytes, " bytes for an array of ", to.bytes);
      std::memcpy(to.data, from, bytes);
    };
    copy(logits, r.logits.data(), r.logits.size() * sizeof(float));
    copy(hidden, r.hidden.data(), r.hidden.size() * sizeof(float));
    copy(positions, r.positions.data(), r.positions.size() * sizeof(int32_t));
    return nothing();
  }, std::move(keep));
}

// ---- media: pixels or features in, a range of ids out. They stay until released.
Napi::Value add_media(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  const bool image = bool_at(args, "image"), features = has(args, "stage");
  const MediaStore::Stage stage = features && string_at(args, "stage") == "tower" ? MediaStore::Stage::Tower : MediaStore::Stage::Projected;
  return submit_beside(info, [values = floats_at(args, "values"), count = integer_at(args, "count"), image, features, stage, given = grid_at(args)](JobContext& job) mutable -> ToJs {
    Model& m = job.engine.loaded();
    const Medium& medium = features ? m.media.add_features(m, image, stage, count, values, given ? &given->grid : nullptr, given ? given->seconds : 0)
                           : given  ? m.media.add_patches(m, image, given->grid, given->seconds, std::move(values))
                                    : m.media.add_pixels(m, image, count, std::move(values));
    return [first = medium.first_id, rows = medium.rows](Napi::Env env) -> Napi::Value {
      Napi::Object o = Napi::Object::New(env);
      o.Set("firstId", first);
      o.Set("rows", static_cast<double>(rows));
      return o;
    };
  });
}

Napi::Value media_features(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  const MediaStore::Stage stage = string_at(args, "stage") == "tower" ? MediaStore::Stage::Tower : MediaStore::Stage::Projected;
  return submit_beside(info, [first = static_cast<int32_t>(integer_at(args, "firstId")), stage](JobContext& job) -> ToJs {
    Model& m = job.engine.loaded();
    std::vector<float> values = m.media.features(m, first, stage, job.cancel);
    const int64_t rows = m.media.get(first).rows, cols = static_cast<int64_t>(values.size()) / rows;
    return [shape = std::vector<int64_t>{rows, cols}, values = std::move(values)](Napi::Env env) -> Napi::Value {
      return array_to_js(env, shape, values);
    };
  });
}

Napi::Value release_media(const Napi::CallbackInfo& info) {
  return submit_beside(info, [ids = ints_at(info[1].As<Napi::Object>(), "firstIds")](JobContext& job) -> ToJs {
    for (int32_t id : ids) job.engine.loaded().media.release(id);
    return nothing();
  });
}

Napi::Value log_probs(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  return submit_beside(info, [sequences = sequences_at(args, "sequences"), tokens = integer_at(args, "microBatchTokens")](JobContext& job) -> ToJs {
    uint64_t computed = 0;
    auto all = sequence_log_probs(job.engine.loaded(), sequences, true, tokens, job.cancel, &computed);
    job.counters.prefill += computed;
    return [all = std::move(all)](Napi::Env env) { return to_js(env, all); };
  });
}

ToJs token_event(const GeneratedToken& t) {
  return [t](Napi::Env env) -> Napi::Value {
    Napi::Object o = Napi::Object::New(env);
    o.Set("request", t.request);
    o.Set("copy", t.copy);
    o.Set("id", t.id);
    return o;
  };
}

ToJs completion_event(const GeneratedSequence& s) {
  return [s](Napi::Env env) -> Napi::Value {
    Napi::Object o = Napi::Object::New(env);
    o.Set("request", s.request);
    o.Set("copy", s.copy);
    o.Set("ids", to_js(env, s.ids));
    o.Set("logProbs", to_js(env, s.logp));
    o.Set("stopped", s.stopped);
    return o;
  };
}

// The batch that a call joins: its session's, or that of all calls with this budget.
Generator& generator_of(Engine& engine, uint32_t session, uint64_t max_bytes) {
  const auto in = [&](auto& all, auto key) -> Generator& {
    const auto found = all.find(key);
    if (found != all.end()) return *found->second;
    return *all.emplace(key, std::make_unique<Generator>(engine.loaded(), max_bytes, session != 0)).first->second;
  };
  return session == 0 ? in(engine.shared, max_bytes) : in(engine.sessions, session);
}

// Completions come as events, in the order in which they end; the result says what a session holds.
Napi::Value generate(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  std::vector<GenerateRequest> requests;
  for (const Napi::Object& o : objects_at(args, "requests")) requests.push_back(request_of(o));
  const uint32_t session = static_cast<uint32_t>(integer_at(args, "session"));
  const uint64_t max_bytes = static_cast<uint64_t>(integer_at(args, "maxBytes"));
  const bool stream = bool_at(args, "stream");   // tokens as they are drawn, beside the completions
  return submit_beside(info, [requests = std::move(requests), session, max_bytes, stream](JobContext& job) mutable -> ToJs {
    Generator& generator = generator_of(job.engine, session, max_bytes);
    GenerateCallbacks callbacks;
    if (stream) callbacks.token = [emit = job.emit](const GeneratedToken& t) { emit(0, token_event(t)); };
    callbacks.completion = [emit = job.emit](const GeneratedSequence& s) { emit(0, completion_event(s)); };
    if (stream) callbacks.ended = job.ended;
    callbacks.end = [end = job.end, &generator](std::exception_ptr failure) {
      end(std::move(failure), [&generator]() -> ToJs {
        return [tokens = generator.cached_tokens(), bytes = generator.bytes()](Napi::Env env) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("cachedTokens", static_cast<double>(tokens));
          o.Set("bytes", static_cast<double>(bytes));
          return o;
        };
      });
    };
    try {
      generator.join(std::move(requests), std::move(callbacks), job.cancel);
    } catch (...) {
      if (session == 0 && generator.idle()) job.engine.shared.erase(max_bytes);
      throw;
    }
    return {};
  });
}

// Its calls have been cancelled by then: a step lets them go.
Napi::Value close_session(const Napi::CallbackInfo& info) {
  return submit_beside(info, [session = static_cast<uint32_t>(integer_at(info[1].As<Napi::Object>(), "session"))](JobContext& job) -> ToJs {
    const auto found = job.engine.sessions.find(session);
    if (found == job.engine.sessions.end()) return nothing();
    while (!found->second->idle()) found->second->step(nullptr);
    job.engine.sessions.erase(found);
    return nothing();
  });
}

Napi::Value hash(const Napi::CallbackInfo& info) {
  return submit_beside(info, [](JobContext& job) -> ToJs {
    return [hash = job.engine.loaded().hash()](Napi::Env env) -> Napi::Value { return Napi::String::New(env, hash); };
  });
}

Napi::Value tower_hash(const Napi::CallbackInfo& info) {
  return submit_beside(info, [](JobContext& job) -> ToJs {
    return [hash = job.engine.loaded().tower_hash()](Napi::Env env) -> Napi::Value { return Napi::String::New(env, hash); };
  });
}

Napi::Value parameter(const Napi::CallbackInfo& info) {
  return submit_beside(info, [name = string_at(info[1].As<Napi::Object>(), "name")](JobContext& job) -> ToJs {
    Model& m = job.engine.loaded();
    const std::vector<float> values = m.parameter(name);   // NOT_FOUND
    return [shape = m.shape_of(name), values](Napi::Env env) -> Napi::Value {
      return array_to_js(env, shape, values);
    };
  });
}

Napi::Value save(const Napi::CallbackInfo& info) {
  return submit_beside(info, [dir = string_at(info[1].As<Napi::Object>(), "dir")](JobContext& job) -> ToJs {
    return [saved = job.engine.loaded().save(dir, job.cancel)](Napi::Env env) -> Napi::Value { return to_js(env, saved); };
  });
}

Napi::Value save_adapter(const Napi::CallbackInfo& info) {
  return submit_beside(info, [dir = string_at(info[1].As<Napi::Object>(), "dir")](JobContext& job) -> ToJs {
    return [bytes = adapter_of(job.engine.loaded()).save(dir)](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, static_cast<double>(bytes)); };
  });
}

}  // namespace

Adapter& adapter_of(Model& model) {
  if (!model.adapter) throw Error("INVALID_ARGUMENT", "this model has no adapter", "load one (the option adapter), or train one (lora)");
  return *model.adapter;
}

void export_model_jobs(Napi::Env env, Napi::Object exports) {
  export_as<inspect>(env, exports, "inspect");
  export_as<load>(env, exports, "load");
  export_as<forward_job>(env, exports, "forward");
  export_as<add_media>(env, exports, "addMedia");
  export_as<media_features>(env, exports, "mediaFeatures");
  export_as<release_media>(env, exports, "releaseMedia");
  export_as<log_probs>(env, exports, "logProbs");
  export_as<generate>(env, exports, "generate");
  export_as<close_session>(env, exports, "closeSession");
  export_as<hash>(env, exports, "hash");
  export_as<tower_hash>(env, exports, "towerHash");
  export_as<parameter>(env, exports, "parameter");
  export_as<save>(env, exports, "save");
  export_as<save_adapter>(env, exports, "saveAdapter");
}

}  // namespace isr::binding
