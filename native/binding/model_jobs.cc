// Jobs of a model: load, inspect, outputs, log-probs, generation, parameters, saving.
#include <cstring>

#include "binding/jobs.h"
#include "models/score.h"

namespace isr::binding {
namespace {

constexpr int kProgress = 1;   // event kind: only the newest is kept

Napi::Object describe(Napi::Env env, const DecoderConfig& config, const std::string& family, int64_t parameters) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("family", family);
  o.Set("modelType", config.model_type);
  o.Set("parameters", static_cast<double>(parameters));
  o.Set("contextLength", static_cast<double>(config.context));
  o.Set("vocabSize", static_cast<double>(config.vocab));
  o.Set("width", static_cast<double>(config.width));
  o.Set("endTokenIds", to_js(env, config.end_tokens));
  o.Set("notes", to_js(env, config.notes));
  return o;
}

Napi::Value inspect(const Napi::CallbackInfo& info) {
  return submit(info, [dir = string_at(info[1].As<Napi::Object>(), "dir")](JobContext&) -> ToJs {
    return [r = Model::inspect(dir)](Napi::Env env) -> Napi::Value {
      Napi::Object o = describe(env, r.config, r.family, r.parameters);
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
  options.threads = static_cast<int>(integer_at(args, "threads"));
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
    return [config = m.config, family = m.family, parameters = m.parameters, dtype = m.dtype,
            isa = std::string(m.backend->level())](Napi::Env env) -> Napi::Value {
      Napi::Object o = describe(env, config, family, parameters);
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
  return submit(info, [=](JobContext& job) -> ToJs {
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

Napi::Value log_probs(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  return submit(info, [sequences = sequences_at(args, "sequences"), tokens = integer_at(args, "microBatchTokens")](JobContext& job) -> ToJs {
    uint64_t computed = 0;
    auto all = sequence_log_probs(job.engine.loaded(), sequences, true, tokens, job.cancel, &computed);
    job.counters.prefill += computed;
    return [all = std::move(all)](Napi::Env env) { return to_js(env, all); };
  });
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

struct CountedWork {  // adds what a generator did to the model's counters, also when it throws
  CountedWork(Generator& g, WorkCounters& c) : generator(g), before(g.counters), counters(c) {}
  ~CountedWork() {
    counters.prefill += generator.counters.prefill_tokens - before.prefill_tokens;
    counters.decode += generator.counters.decode_tokens - before.decode_tokens;
  }
  Generator& generator;
  const Counters before;
  WorkCounters& counters;
};

// Completions come as events, in the order in which they end; the result says what a session holds.
Napi::Value generate(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  std::vector<GenerateRequest> requests;
  for (const Napi::Object& o : objects_at(args, "requests")) requests.push_back(request_of(o));
  const uint32_t session = static_cast<uint32_t>(integer_at(args, "session"));
  const uint64_t max_bytes = static_cast<uint64_t>(integer_at(args, "maxBytes"));
  return submit(info, [requests = std::move(requests), session, max_bytes](JobContext& job) -> ToJs {
    Model& model = job.engine.loaded();
    std::unique_ptr<Generator> once;
    Generator* generator = nullptr;
    if (session == 0) {
      once = std::make_unique<Generator>(model, max_bytes, false);
      generator = once.get();
    } else {
      auto& kept = job.engine.sessions[session];
      if (!kept) kept = std::make_unique<Generator>(model, max_bytes, true);
      generator = kept.get();
    }
    const CountedWork counted(*generator, job.counters);
    GenerateCallbacks callbacks;
    callbacks.token = [](const GeneratedToken&) {};
    callbacks.completion = [&](const GeneratedSequence& s) { job.emit(0, completion_event(s)); };
    callbacks.ended = [](int32_t, int32_t) { return false; };
    generator->generate(requests, callbacks, job.cancel);
    return [tokens = generator->cached_tokens(), bytes = generator->bytes()](Napi::Env env) -> Napi::Value {
      Napi::Object o = Napi::Object::New(env);
      o.Set("cachedTokens", static_cast<double>(tokens));
      o.Set("bytes", static_cast<double>(bytes));
      return o;
    };
  });
}

Napi::Value close_session(const Napi::CallbackInfo& info) {
  return submit(info, [session = static_cast<uint32_t>(integer_at(info[1].As<Napi::Object>(), "session"))](JobContext& job) -> ToJs {
    job.engine.sessions.erase(session);
    return nothing();
  });
}

Napi::Value hash(const Napi::CallbackInfo& info) {
  return submit(info, [](JobContext& job) -> ToJs {
    return [hash = job.engine.loaded().hash()](Napi::Env env) -> Napi::Value { return Napi::String::New(env, hash); };
  });
}

Napi::Value parameter(const Napi::CallbackInfo& info) {
  return submit(info, [name = string_at(info[1].As<Napi::Object>(), "name")](JobContext& job) -> ToJs {
    Model& m = job.engine.loaded();
    const std::vector<float> values = m.parameter(name);   // NOT_FOUND
    return [shape = m.by_name.at(name)->shape, values](Napi::Env env) -> Napi::Value {
      Napi::Object o = Napi::Object::New(env);
      o.Set("shape", shape_to_js(env, shape));
      o.Set("data", to_js(env, values));
      return o;
    };
  });
}

Napi::Value save(const Napi::CallbackInfo& info) {
  return submit(info, [dir = string_at(info[1].As<Napi::Object>(), "dir")](JobContext& job) -> ToJs {
    return [saved = job.engine.loaded().save(dir, job.cancel)](Napi::Env env) -> Napi::Value {
      Napi::Object o = Napi::Object::New(env);
      o.Set("hash", saved.hash);
      o.Set("bytes", static_cast<double>(saved.bytes));
      return o;
    };
  });
}

}  // namespace

void export_model_jobs(Napi::Env env, Napi::Object exports) {
  export_as<inspect>(env, exports, "inspect");
  export_as<load>(env, exports, "load");
  export_as<forward_job>(env, exports, "forward");
  export_as<log_probs>(env, exports, "logProbs");
  export_as<generate>(env, exports, "generate");
  export_as<close_session>(env, exports, "closeSession");
  export_as<hash>(env, exports, "hash");
  export_as<parameter>(env, exports, "parameter");
  export_as<save>(env, exports, "save");
}

}  // namespace isr::binding
