// Low-rank adapters of the decoder's matrices (LoRA, Hu et al. 2021), in the format of the PEFT library: made anew, read from a folder,
// written to one. While one is attached, what the model computes, saves, hashes and tells of its matrices is with it; the
// base stays as it is. adapter_file.cc reads and writes folders.
#pragma once
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "autograd/param.h"
#include "io/safetensors.h"

namespace isr {

class Model;
struct Layer;

struct LoraOptions {
  int64_t rank = 16;
  double alpha = 32;                        // x A^T B^T counts alpha / rank times
  bool rslora = false;                      // alpha / sqrt(rank) times (rsLoRA, Kalajdzievski 2023)
  std::vector<std::string> targets;         // names of modules or their last parts ("q_proj"); empty: all matrices of the decoder's blocks
  std::vector<std::pair<std::string, int64_t>> rank_pattern;   // other ranks, by the same; the first that fits
  uint64_t seed = 0;                        // of A; B begins with zeros
};

class Adapter {
 public:
  // A matrix of the decoder's blocks, with the name of its module in today's transformers, which PEFT's names follow.
  struct Module { std::string name; Param* base; Layer* layer; Weight* weight; };
  struct Part { Module module; int64_t rank; double alpha; Param *a, *b; };   // a (rank, K), b (N, rank)

  // INVALID_ARGUMENT: targets that fit nothing, ranks out of range.
  static std::unique_ptr<Adapter> make(Model& model, const LoraOptions& options);
  // adapter_config.json and adapter_model.safetensors. NOT_FOUND, CHECKPOINT_CORRUPT, CHECKPOINT_UNSUPPORTED, INVALID_CONFIG.
  static std::unique_ptr<Adapter> load(Model& model, const std::string& dir);
  ~Adapter();                               // detached
  Adapter(const Adapter&) = delete;

  void check_same(const LoraOptions& options) const;   // INVALID_ARGUMENT: another rank, alpha or kind than this one's
  void switch_on(bool on);                  // off: the model computes with its base alone
  const std::deque<Part>& parts() const { return parts_; }
  std::vector<std::vector<Param*>> groups() const;     // of layers that have any, as Model::groups
  double scale_of(const Part& p) const;
  int64_t rank() const { return rank_; }
  double alpha() const { return alpha_; }
  bool rslora() const { return rslora_; }
  int64_t parameters() const;
  uint64_t bytes() const { return panels_.bytes() + rows_.bytes(); }   // of memory
  bool changes(const Param& base) const;    // the base's matrix, by more than zeros
  bool changed() const;                     // its own values, since it was made or read
  // Adds to values [begin, begin + count) of a base matrix what the adapter adds to it; float32 on the host.
  void add_to(const Param& base, int64_t begin, int64_t count, float* values);
  // Of a parameter of its own that came from a folder and has not changed since: what is there, where the model's type may be narrower.
  bool read_exact(const Param& p, int64_t begin, int64_t count, float* values) const;
  uint64_t save(const std::string& dir);    // bytes written; float32, atomic; files that are no adapter's stay

 private:
  explicit Adapter(Model& model) : model_(model) {}
  void add(const Module& module, int64_t rank, double alpha);
  void attach();                            // memory for all that was added, and its place beside the base's matrices
  void lay_out();
  void allocate();
  void fill(Param& p, const float* values);
  const Part* part_of(const Param& base) const;
  std::string config_text() const;

  Model& model_;
  int64_t rank_ = 0;
  double alpha_ = 0;
  bool rslora_ = false, from_file_ = false;
  std::deque<Part> parts_;                  // in the model's order
  std::deque<Param> params_;
  std::deque<LowRank> low_ranks_;
  std::vector<std::pair<Weight*, LowRank*>> places_;
  Buffer panels_, rows_;
  Checkpoint file_;                         // what it was loaded from
  std::unordered_map<const Param*, const TensorInfo*> in_file_;
  struct Factors { const Part* part = nullptr; uint64_t generation = 0; std::vector<float> a, b; } factors_;   // of the last add_to
};

// The model without its adapter, if it has one, for as long as this lives.
class AdapterOff {
 public:
  explicit AdapterOff(Model& model);
  ~AdapterOff();
  AdapterOff(const AdapterOff&) = delete;

 private:
  Adapter* const adapter_;
};

// Every matrix that an adapter may change, in the model's order.
std::vector<Adapter::Module> adaptable(Model& model);

}  // namespace isr
