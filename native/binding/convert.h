// JavaScript values to plain structs and back. What arrives here was validated by the TypeScript layer (src/base/check.ts);
// a wrong type is therefore our own bug and says so.
#pragma once
#include <memory>
#include <new>
#include <string>
#include <vector>

#include <napi.h>

#include "infer/generator.h"
#include "models/model.h"
#include "train/trainer.h"

namespace isr::binding {

// Runs body; errors of the engine become JavaScript exceptions with code, hint and path. Nothing else leaves a callback.
template <class Body>
Napi::Value guarded(Napi::Env env, Body body);

int64_t integer_at(const Napi::Object& o, const char* key);
double number_at(const Napi::Object& o, const char* key);
bool bool_at(const Napi::Object& o, const char* key);
std::string string_at(const Napi::Object& o, const char* key);
uint64_t seed_at(const Napi::Object& o, const char* key);       // a BigInt in [0, 2^64)
bool has(const Napi::Object& o, const char* key);               // neither undefined nor null
Napi::Object object_at(const Napi::Object& o, const char* key);
std::vector<Napi::Object> objects_at(const Napi::Object& o, const char* key);
std::vector<std::string> strings_at(const Napi::Object& o, const char* key);
std::vector<int32_t> ints_at(const Napi::Object& o, const char* key);      // of an Int32Array
std::vector<float> floats_at(const Napi::Object& o, const char* key);      // of a Float32Array
std::vector<std::vector<float>> float_lists_at(const Napi::Object& o, const char* key);

// The memory of a typed array, used in place: the caller keeps a reference, which keeps the object and not its memory.
// It must therefore be an array that only the library knows (src/base/owned-arrays.ts): whoever else has it can transfer or resize it
// under the job. Null when the key is absent.
struct Bytes { void* data = nullptr; size_t bytes = 0; };
Bytes bytes_at(const Napi::Object& o, const char* key, std::vector<Napi::Object>& keep);

SequenceInput sequence_of(const Napi::Object& o);               // {ids, scored | targets, weights?}
std::vector<SequenceInput> sequences_at(const Napi::Object& o, const char* key);
std::vector<TrainPair> pairs_at(const Napi::Object& o, const char* key);
GenerateRequest request_of(const Napi::Object& o);
LossOptions loss_options_of(const Napi::Object& o);
TrainerOptions trainer_options_of(const Napi::Object& o);

Napi::Value to_js(Napi::Env env, const std::vector<float>& values);
Napi::Value to_js(Napi::Env env, const std::vector<int32_t>& values);
Napi::Value to_js(Napi::Env env, const std::vector<std::string>& values);
Napi::Value to_js(Napi::Env env, const std::vector<std::vector<float>>& lists);
Napi::Object to_js(Napi::Env env, const StepMetrics& m);
Napi::Object to_js(Napi::Env env, const Model::Saved& saved);
Napi::Value shape_to_js(Napi::Env env, const std::vector<int64_t>& shape);
Napi::Object array_to_js(Napi::Env env, const std::vector<int64_t>& shape, const std::vector<float>& values);   // {shape, data}

// `items` of a failure: indices of the call's items that it is about; nothing where there are none.
void set_items(Napi::Object o, const std::vector<int64_t>& items);

Napi::Error js_error(Napi::Env env, const Error& e);

template <class Body>
Napi::Value guarded(Napi::Env env, Body body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const Error& e) {
    throw js_error(env, e);
  } catch (const std::bad_alloc&) {
    throw js_error(env, Error("OUT_OF_MEMORY", "the system refused memory"));
  } catch (const std::exception& e) {
    throw js_error(env, Error("BUG", e.what()));
  }
}

}  // namespace isr::binding
