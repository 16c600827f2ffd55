// From a folder to a Model: config, tensors by name and shape, then reading and packing in parallel.
#pragma once
#include "models/family.h"
#include "models/model.h"

namespace isr {

struct Config {                       // config.json and generation_config.json
  const Family* family = nullptr;
  DecoderConfig decoder;
  std::string text;                   // config.json as it stands, for the hash
};
Config read_config(const std::string& dir);

struct TensorSpec { std::string name; std::vector<int64_t> shape; };
// Every tensor the config asks for, in the model's order.
std::vector<TensorSpec> expected_tensors(const Family& family, const DecoderConfig& config);
bool ignored_tensor(const std::string& name, const DecoderConfig& config, const Family& family);   // buffers that checkpoints carry along

}  // namespace isr
