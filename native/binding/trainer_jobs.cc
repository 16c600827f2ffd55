// Jobs of a trainer. It lives on its model's job thread, so that steps and generation take turns by themselves.
#include "binding/jobs.h"
#include "kernels/peak.h"
#include "train/plan.h"

namespace isr::binding {
namespace {

Napi::Value create_trainer(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  return submit(info, [options = trainer_options_of(args), link = link_at(args, "ranks")](JobContext& job) -> ToJs {
    Model& model = job.engine.loaded();
    if (link) {
      job.engine.ranks = make_comm(link, model.backend->device());
      job.engine.trainer = std::make_unique<Trainer>(model, options, *job.engine.ranks);
    } else {
      job.engine.trainer = std::make_unique<Trainer>(model, options);
    }
    return nothing();
  });
}

Napi::Value dispose_trainer(const Napi::CallbackInfo& info) {
  return submit(info, [](JobContext& job) -> ToJs {
    job.engine.trainer.reset();
    job.engine.ranks.reset();
    return nothing();
  });
}

Napi::Value score(const Napi::CallbackInfo& info) {
  return submit(info, [pairs = pairs_at(info[1].As<Napi::Object>(), "pairs")](JobContext& job) -> ToJs {
    return [all = job.engine.training().score(pairs, job.cancel)](Napi::Env env) -> Napi::Value {
      Napi::Array array = Napi::Array::New(env, all.size());
      for (size_t i = 0; i < all.size(); ++i) {
        Napi::Object o = Napi::Object::New(env);
        o.Set("chosen", to_js(env, all[i].chosen));
        o.Set("rejected", to_js(env, all[i].rejected));
        array.Set(static_cast<uint32_t>(i), o);
      }
      return array;
    };
  });
}

// Items are pairs, or sequences for supervised training.
struct Items {
  bool supervised;
  std::vector<TrainPair> pairs;
  std::vector<SequenceInput> sequences;
  explicit Items(const Napi::Object& args) : supervised(has(args, "sequences")) {
    if (supervised) sequences = sequences_at(args, "sequences");
    else pairs = pairs_at(args, "pairs");
  }
};

Napi::Value train_step(const Napi::CallbackInfo& info) {
  return submit(info, [items = Items(info[1].As<Napi::Object>())](JobContext& job) mutable -> ToJs {
    Trainer& trainer = job.engine.training();
    const StepMetrics m = items.supervised ? trainer.train_step_sft(items.sequences, job.cancel) : trainer.train_step(std::move(items.pairs), job.cancel);
    job.counters.train += static_cast<uint64_t>(m.tokens_computed);
    return [m, step = trainer.step()](Napi::Env env) -> Napi::Value {
      Napi::Object o = Napi::Object::New(env);
      o.Set("metrics", to_js(env, m));
      o.Set("step", static_cast<double>(step));
      return o;
    };
  });
}

// FLOP/s that this machine's multiply-adds reach, in the model's type, at its level, with its threads.
Napi::Value peak(const Napi::CallbackInfo& info) {
  return submit(info, [](JobContext& job) -> ToJs {
    const Model& m = job.engine.loaded();
    const double rate = peak_flops(chosen_isa(), m.dtype, m.threads, 0.05);
    return [rate](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, rate); };
  });
}

Napi::Value try_step(const Napi::CallbackInfo& info) {
  return submit(info, [items = Items(info[1].As<Napi::Object>())](JobContext& job) mutable -> ToJs {
    Trainer& trainer = job.engine.training();
    const StepMetrics m = items.supervised ? trainer.try_step_sft(items.sequences, job.cancel) : trainer.try_step(std::move(items.pairs), job.cancel);
    job.counters.train += static_cast<uint64_t>(m.tokens_computed);
    return [m](Napi::Env env) -> Napi::Value { return to_js(env, m); };
  });
}

Napi::Value gradients(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  return submit(info, [items = Items(args), names = strings_at(args, "names")](JobContext& job) mutable -> ToJs {
    Trainer& trainer = job.engine.training();
    Trainer::Gradients all;
    const StepMetrics m = items.supervised ? trainer.gradients_sft(items.sequences, names, all, job.cancel)
                                           : trainer.gradients(std::move(items.pairs), names, all, job.cancel);
    job.counters.train += static_cast<uint64_t>(m.tokens_computed);
    return [m, all = std::move(all)](Napi::Env env) -> Napi::Value {
      Napi::Array array = Napi::Array::New(env, all.size());
      uint32_t i = 0;
      for (const auto& [name, gradient] : all) {
        Napi::Object o = array_to_js(env, gradient.first, gradient.second);
        o.Set("name", name);
        array.Set(i++, o);
      }
      Napi::Object result = Napi::Object::New(env);
      result.Set("metrics", to_js(env, m));
      result.Set("gradients", array);
      return result;
    };
  });
}

Napi::Value save_trainer(const Napi::CallbackInfo& info) {
  return submit(info, [dir = string_at(info[1].As<Napi::Object>(), "dir")](JobContext& job) -> ToJs {
    job.engine.training().save(dir);
    return nothing();
  });
}

// model.save() among several ranks: rank 0 saves; the others give what their shards hold, and get what rank 0 says of it.
Napi::Value save_among_ranks(const Napi::CallbackInfo& info) {
  return submit(info, [dir = string_at(info[1].As<Napi::Object>(), "dir")](JobContext& job) -> ToJs {
    Model::Saved saved{};
    job.engine.training().with_masters([&] { saved = job.engine.loaded().save(dir, job.cancel); });
    if (job.engine.ranks) {
      const std::vector<std::string> hashes = all_gather(*job.engine.ranks, saved.hash);
      double bytes = static_cast<double>(saved.bytes);
      all_reduce(*job.engine.ranks, {&bytes, 1});
      saved = {hashes.front(), static_cast<uint64_t>(bytes)};
    }
    return [saved](Napi::Env env) -> Napi::Value { return to_js(env, saved); };
  });
}

// The same of its adapter: bytes.
Napi::Value save_adapter_among_ranks(const Napi::CallbackInfo& info) {
  return submit(info, [dir = string_at(info[1].As<Napi::Object>(), "dir")](JobContext& job) -> ToJs {
    double bytes = 0;
    job.engine.training().with_masters([&] { bytes = static_cast<double>(adapter_of(job.engine.loaded()).save(dir)); });
    if (job.engine.ranks) all_reduce(*job.engine.ranks, {&bytes, 1});
    return [bytes](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, bytes); };
  });
}

Napi::Value load_trainer(const Napi::CallbackInfo& info) {
  return submit(info, [dir = string_at(info[1].As<Napi::Object>(), "dir")](JobContext& job) -> ToJs {
    Trainer& trainer = job.engine.training();
    trainer.load(dir);
    return [step = trainer.step()](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, static_cast<double>(step)); };
  });
}

Napi::Object describe(Napi::Env env, const PlanReport::Part& p) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("panels", static_cast<double>(p.panels));
  o.Set("rows", static_cast<double>(p.rows));
  o.Set("rowMajor", static_cast<double>(p.row_major));
  return o;
}

Napi::Object describe(Napi::Env env, const PlanReport& r) {
  Napi::Object o = Napi::Object::New(env);
  const auto set = [&](const char* key, auto n) { o.Set(key, static_cast<double>(n)); };
  o.Set("family", r.family);
  o.Set("dtype", name_of(r.dtype));
  o.Set("towersUnknown", r.config.vision && !r.config.vision->image && !r.config.vision->video);
  o.Set("sizesGuessed", r.config.vision && r.config.vision->video && r.config.vision->video->grids);
  o.Set("decoder", describe(env, r.decoder));
  o.Set("vision", describe(env, r.vision));
  o.Set("checkpointing", r.checkpointing);
  o.Set("deviceMeasured", r.device_measured);
  set("contextLength", r.config.decoder.context);
  set("checkpointBytes", r.checkpoint_bytes);
  set("parameters", r.parameters);
  set("trained", r.trained);
  set("trainedElements", r.trained_elements);
  set("largestGroup", r.largest_group);
  set("blockElements", r.block_elements);
  set("largestBlock", r.largest_block);
  set("activations", r.activations);
  set("scratch", r.scratch);
  set("media", r.media);
  set("kvPage", r.kv_page);
  set("tokens", r.tokens);
  set("answerTokens", r.answer_tokens);
  set("microBatchItems", r.micro_batch_items);
  set("mediaTokens", r.media_tokens);
  set("featureBytes", r.tower_bytes);
  set("threads", r.threads);
  set("flopsItem", r.flops_item);
  set("flopsScore", r.flops_score);
  set("flopsToken", r.flops_token);
  set("flopsMedia", r.flops_media);
  const auto rate = [&](const char* key, const PlanReport::Rate& found) {
    Napi::Object range = Napi::Object::New(env);
    range.Set("low", found.low);
    range.Set("high", found.high);
    o.Set(key, range);
  };
  rate("flopsPerSecond", r.flops_per_second);
  rate("bytesPerSecond", r.bytes_per_second);
  return o;
}

Napi::Value plan_training_job(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  PlanRequest q;
  q.load.device = string_at(args, "device");
  q.load.dtype = string_at(args, "dtype");
  q.load.threads = static_cast<int>(integer_at(args, "threads"));
  if (has(args, "visionTower")) q.load.vision_tower = string_at(args, "visionTower");
  q.trainer = trainer_options_of(object_at(args, "trainer"));
  q.supervised = bool_at(args, "supervised");
  q.items = integer_at(args, "items");
  q.tokens = integer_at(args, "tokens");
  q.answer_tokens = integer_at(args, "answerTokens");
  q.memory = static_cast<uint64_t>(integer_at(args, "memory"));
  q.measure_rates = bool_at(args, "measureRates");
  return submit(info, [q, dir = string_at(args, "dir")](JobContext&) -> ToJs {
    return [r = plan_training(dir, q)](Napi::Env env) -> Napi::Value { return describe(env, r); };
  });
}

}  // namespace

void export_trainer_jobs(Napi::Env env, Napi::Object exports) {
  export_as<create_trainer>(env, exports, "createTrainer");
  export_as<dispose_trainer>(env, exports, "disposeTrainer");
  export_as<score>(env, exports, "score");
  export_as<train_step>(env, exports, "trainStep");
  export_as<peak>(env, exports, "peak");
  export_as<try_step>(env, exports, "tryStep");
  export_as<gradients>(env, exports, "gradients");
  export_as<save_trainer>(env, exports, "saveTrainer");
  export_as<save_among_ranks>(env, exports, "saveAmongRanks");
  export_as<save_adapter_among_ranks>(env, exports, "saveAdapterAmongRanks");
  export_as<load_trainer>(env, exports, "loadTrainer");
  export_as<plan_training_job>(env, exports, "planTraining");
}

}  // namespace isr::binding
