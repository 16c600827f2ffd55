#include "binding/convert.h"

#include <cstring>

namespace isr::binding {
namespace {

[[noreturn]] void wrong(const char* key, const char* expected) { fail("BUG", "binding: ", key, ": expected ", expected); }

template <class T, class Array>
std::vector<T> copy_of(const Napi::Object& o, const char* key, napi_typedarray_type type, const char* expected) {
  const Napi::Value v = o.Get(key);
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != type) wrong(key, expected);
  const Array array = v.As<Array>();
  return std::vector<T>(array.Data(), array.Data() + array.ElementLength());
}

}  // namespace

bool has(const Napi::Object& o, const char* key) {
  const Napi::Value v = o.Get(key);
  return !v.IsUndefined() && !v.IsNull();
}

double number_at(const Napi::Object& o, const char* key) {
  const Napi::Value v = o.Get(key);
  if (!v.IsNumber()) wrong(key, "a number");
  return v.As<Napi::Number>().DoubleValue();
}

int64_t integer_at(const Napi::Object& o, const char* key) {
  const double v = number_at(o, key);
  if (!(v >= -9007199254740991.0 && v <= 9007199254740991.0)) wrong(key, "an integer");
  return static_cast<int64_t>(v);
}

bool bool_at(const Napi::Object& o, const char* key) {
  const Napi::Value v = o.Get(key);
  if (!v.IsBoolean()) wrong(key, "a boolean");
  return v.As<Napi::Boolean>().Value();
}

std::string string_at(const Napi::Object& o, const char* key) {
  const Napi::Value v = o.Get(key);
  if (!v.IsString()) wrong(key, "a string");
  return v.As<Napi::String>().Utf8Value();
}

uint64_t seed_at(const Napi::Object& o, const char* key) {
  const Napi::Value v = o.Get(key);
  if (!v.IsBigInt()) wrong(key, "a bigint");
  bool lossless = false;
  return v.As<Napi::BigInt>().Uint64Value(&lossless);
}

Napi::Object object_at(const Napi::Object& o, const char* key) {
  const Napi::Value v = o.Get(key);
  if (!v.IsObject()) wrong(key, "an object");
  return v.As<Napi::Object>();
}

std::vector<Napi::Object> objects_at(const Napi::Object& o, const char* key) {
  const Napi::Value v = o.Get(key);
  if (!v.IsArray()) wrong(key, "an array");
  const Napi::Array array = v.As<Napi::Array>();
  std::vector<Napi::Object> all;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value item = array.Get(i);
    if (!item.IsObject()) wrong(key, "an array of objects");
    all.push_back(item.As<Napi::Object>());
  }
  return all;
}

std::vector<std::string> strings_at(const Napi::Object& o, const char* key) {
  const Napi::Value v = o.Get(key);
  if (!v.IsArray()) wrong(key, "an array");
  const Napi::Array array = v.As<Napi::Array>();
  std::vector<std::string> all;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value item = array.Get(i);
    if (!item.IsString()) wrong(key, "an array of strings");
    all.push_back(item.As<Napi::String>().Utf8Value());
  }
  return all;
}

std::vector<int32_t> ints_at(const Napi::Object& o, const char* key) {
  return copy_of<int32_t, Napi::Int32Array>(o, key, napi_int32_array, "an Int32Array");
}
std::vector<float> floats_at(const Napi::Object& o, const char* key) {
  return copy_of<float, Napi::Float32Array>(o, key, napi_float32_array, "a Float32Array");
}

std::vector<std::vector<float>> float_lists_at(const Napi::Object& o, const char* key) {
  const Napi::Object array = object_at(o, key);
  std::vector<std::vector<float>> all;
  const uint32_t length = array.As<Napi::Array>().Length();
  for (uint32_t i = 0; i < length; ++i) all.push_back(floats_at(array, std::to_string(i).c_str()));
  return all;
}

Bytes bytes_at(const Napi::Object& o, const char* key, std::vector<Napi::Object>& keep) {
  const Napi::Value v = o.Get(key);
  if (v.IsUndefined() || v.IsNull()) return {};
  if (!v.IsTypedArray()) wrong(key, "a typed array");
  const Napi::TypedArray array = v.As<Napi::TypedArray>();
  const Napi::Object buffer = array.Get("buffer").As<Napi::Object>();
  if (!buffer.IsArrayBuffer() || buffer.Get("resizable").ToBoolean() || buffer.As<Napi::ArrayBuffer>().IsDetached())
    wrong(key, "memory of the library's own: neither shared, nor resizable, nor detached");
  keep.push_back(array);
  return {static_cast<char*>(buffer.As<Napi::ArrayBuffer>().Data()) + array.ByteOffset(), array.ByteLength()};
}

SequenceInput sequence_of(const Napi::Object& o) {
  SequenceInput s;
  s.ids = ints_at(o, "ids");
  if (has(o, "scored")) {
    const std::vector<uint8_t> scored = copy_of<uint8_t, Napi::Uint8Array>(o, "scored", napi_uint8_array, "a Uint8Array");
    s.targets = targets_of(s.ids, scored);
  } else {
    s.targets = ints_at(o, "targets");
  }
  if (has(o, "weights")) s.weights = floats_at(o, "weights");
  return s;
}

std::vector<SequenceInput> sequences_at(const Napi::Object& o, const char* key) {
  std::vector<SequenceInput> all;
  for (const Napi::Object& item : objects_at(o, key)) all.push_back(sequence_of(item));
  return all;
}

std::vector<TrainPair> pairs_at(const Napi::Object& o, const char* key) {
  std::vector<TrainPair> all;
  for (const Napi::Object& item : objects_at(o, key)) {
    TrainPair pair;
    pair.id = string_at(item, "id");
    pair.chosen = sequence_of(object_at(item, "chosen"));
    pair.rejected = sequence_of(object_at(item, "rejected"));
    if (has(item, "refChosen")) pair.ref_chosen = floats_at(item, "refChosen");
    if (has(item, "refRejected")) pair.ref_rejected = floats_at(item, "refRejected");
    all.push_back(std::move(pair));
  }
  return all;
}

GenerateRequest request_of(const Napi::Object& o) {
  GenerateRequest r;
  r.ids = ints_at(o, "ids");
  r.copies = static_cast<int32_t>(integer_at(o, "copies"));
  SamplingOptions& s = r.sampling;
  s.temperature = number_at(o, "temperature");
  s.top_p = number_at(o, "topP");
  s.top_k = static_cast<int32_t>(integer_at(o, "topK"));
  s.max_tokens = integer_at(o, "maxTokens");
  s.min_tokens = integer_at(o, "minTokens");
  s.suppress = ints_at(o, "suppress");
  s.stop_ids = ints_at(o, "stopIds");
  s.seed = seed_at(o, "seed");
  s.stream = string_at(o, "stream");
  return r;
}

LossOptions loss_options_of(const Napi::Object& o) {
  LossOptions l;
  l.loss = string_at(o, "loss");
  l.beta = number_at(o, "beta");
  l.label_smoothing = number_at(o, "labelSmoothing");
  if (has(o, "ldAlpha")) l.ld_alpha = number_at(o, "ldAlpha");
  l.gamma = number_at(o, "gamma");
  l.divergence = string_at(o, "divergence");
  return l;
}

static LoraOptions lora_options_of(const Napi::Object& o) {
  LoraOptions l;
  l.rank = integer_at(o, "rank");
  l.alpha = number_at(o, "alpha");
  l.rslora = bool_at(o, "rslora");
  l.targets = strings_at(o, "targets");
  l.seed = seed_at(o, "seed");
  const std::vector<std::string> names = strings_at(o, "patterns");
  const std::vector<int32_t> ranks = ints_at(o, "patternRanks");
  ISR_ASSERT(names.size() == ranks.size(), "a rank for each pattern");
  for (size_t i = 0; i < names.size(); ++i) l.rank_pattern.emplace_back(names[i], ranks[i]);
  return l;
}

TrainerOptions trainer_options_of(const Napi::Object& o) {
  TrainerOptions t;
  t.loss = loss_options_of(o);
  t.learning_rate = number_at(o, "learningRate");
  t.schedule = string_at(o, "schedule");
  t.warmup_steps = integer_at(o, "warmupSteps");
  t.warmup_ratio = number_at(o, "warmupRatio");
  t.total_steps = integer_at(o, "totalSteps");
  t.beta1 = number_at(o, "beta1");
  t.beta2 = number_at(o, "beta2");
  t.eps = number_at(o, "eps");
  t.weight_decay = number_at(o, "weightDecay");
  t.decay_norms = bool_at(o, "decayNorms");
  t.clip_norm = number_at(o, "clipNorm");
  t.train_decoder = bool_at(o, "trainDecoder");
  t.train_projector = bool_at(o, "trainProjector");
  t.train_vision = bool_at(o, "trainVision");
  t.micro_batch_tokens = integer_at(o, "microBatchTokens");
  t.checkpointing = static_cast<int>(integer_at(o, "checkpointing"));
  t.share_prefix = bool_at(o, "sharePrefix");
  t.shard = bool_at(o, "shard");
  t.shard_gradients = bool_at(o, "shardGradients");
  if (has(o, "lora")) t.lora = lora_options_of(object_at(o, "lora"));
  return t;
}

Napi::Value to_js(Napi::Env env, const std::vector<float>& values) {
  Napi::Float32Array array = Napi::Float32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(float));
  return array;
}

Napi::Value to_js(Napi::Env env, const std::vector<int32_t>& values) {
  Napi::Int32Array array = Napi::Int32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(int32_t));
  return array;
}

Napi::Value to_js(Napi::Env env, const std::vector<std::string>& values) {
  Napi::Array array = Napi::Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i) array.Set(static_cast<uint32_t>(i), values[i]);
  return array;
}

Napi::Value to_js(Napi::Env env, const std::vector<std::vector<float>>& lists) {
  Napi::Array array = Napi::Array::New(env, lists.size());
  for (size_t i = 0; i < lists.size(); ++i) array.Set(static_cast<uint32_t>(i), to_js(env, lists[i]));
  return array;
}

Napi::Value shape_to_js(Napi::Env env, const std::vector<int64_t>& shape) {
  Napi::Array array = Napi::Array::New(env, shape.size());
  for (size_t i = 0; i < shape.size(); ++i) array.Set(static_cast<uint32_t>(i), static_cast<double>(shape[i]));
  return array;
}

Napi::Object array_to_js(Napi::Env env, const std::vector<int64_t>& shape, const std::vector<float>& values) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("shape", shape_to_js(env, shape));
  o.Set("data", to_js(env, values));
  return o;
}

Napi::Object to_js(Napi::Env env, const StepMetrics& m) {
  Napi::Object o = Napi::Object::New(env);
  const auto set = [&](const char* key, double value) { o.Set(key, value); };
  set("step", static_cast<double>(m.step));
  set("loss", m.loss);
  set("dpoLoss", m.dpo_loss);
  set("sftLoss", m.sft_loss);
  set("gradNorm", m.grad_norm);
  set("learningRate", m.learning_rate);
  set("accuracy", m.accuracy);
  set("chosenReward", m.chosen_reward);
  set("rejectedReward", m.rejected_reward);
  set("margin", m.margin);
  set("chosenLogProb", m.chosen_logp);
  set("rejectedLogProb", m.rejected_logp);
  set("chosenTokens", static_cast<double>(m.chosen_tokens));
  set("rejectedTokens", static_cast<double>(m.rejected_tokens));
  set("tokensComputed", static_cast<double>(m.tokens_computed));
  set("flops", m.flops);
  set("lengthMarginCorrelation", m.length_margin_correlation);
  set("seconds", m.seconds);
  if (m.ranks.empty()) return o;
  Napi::Array ranks = Napi::Array::New(env, m.ranks.size());
  for (size_t r = 0; r < m.ranks.size(); ++r) {
    Napi::Object rank = Napi::Object::New(env);
    rank.Set("tokensComputed", static_cast<double>(m.ranks[r].tokens_computed));
    rank.Set("computeSeconds", m.ranks[r].compute_seconds);
    rank.Set("communicationSeconds", m.ranks[r].communication_seconds);
    ranks.Set(static_cast<uint32_t>(r), rank);
  }
  o.Set("ranks", ranks);
  return o;
}

Napi::Object to_js(Napi::Env env, const Model::Saved& saved) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("hash", saved.hash);
  o.Set("bytes", static_cast<double>(saved.bytes));
  return o;
}

void set_items(Napi::Object o, const std::vector<int64_t>& items) {
  if (items.empty()) return;
  Napi::Array list = Napi::Array::New(o.Env(), items.size());
  for (size_t i = 0; i < items.size(); ++i) list.Set(static_cast<uint32_t>(i), static_cast<double>(items[i]));
  o.Set("items", list);
}

Napi::Error js_error(Napi::Env env, const Error& e) {
  const Napi::Error error = Napi::Error::New(env, e.what());
  Napi::Object o = error.Value();
  o.Set("code", e.code);
  if (!e.hint.empty()) o.Set("hint", e.hint);
  if (!e.path.empty()) o.Set("path", e.path);
  set_items(o, e.items);
  return error;
}

}  // namespace isr::binding
