// A loaded model: its parameters, packed weights and backend. Loading reads and packs; saving keeps the source's layout,
// names and types. Not thread-safe: the owner (binding's job thread) calls one method at a time.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "autograd/ops.h"
#include "io/safetensors.h"
#include "models/adapter.h"
#include "models/media.h"
#include "models/parts.h"

namespace isr {

struct LoadOptions {
  std::string dtype = "auto";                 // auto | f32 | bf16
  int threads = 0;                            // 0: as many as the machine allows
  std::string device = "cpu";                 // kernels/devices.h
  const Families* families = nullptr;         // null: all_families(); they outlive the model
  std::string vision_tower;                   // folder of towers that stand beside the checkpoint; they replace any inside
  std::string adapter;                        // folder of an adapter, beside the checkpoint
  std::function<void(uint64_t bytes, uint64_t total)> progress;   // on the calling thread
  const std::atomic<bool>* cancel = nullptr;
};

struct CheckpointReport {                     // `inspect`: no weights are read
  ModelConfig config;
  const Family* family = nullptr;             // of all_families()
  int64_t parameters = 0;
  struct Part { std::string name; int64_t parameters; std::vector<std::string> dtypes; };
  std::vector<Part> parts;
  std::vector<std::string> files, missing, unused;
};

// What a model computes with. A base of its own, so that it ends after everything that lives on the device.
struct Machine {
  std::unique_ptr<Device> counting;            // of an outline; null: the backend's own device holds everything
  std::unique_ptr<Backend> backend;
  int threads = 1;                             // of the host: reading files, and the CPU backend's regions
  std::optional<Arena> activations;            // made with the backend, on its device
  Arena& arena() { return *activations; }
};

class Model : public Machine, public Network {
 public:
  static std::unique_ptr<Model> load(const std::string& dir, const LoadOptions& options);
  // The same parameters and matrices at addresses of a measuring arena, from config.json and the towers' configs: nothing is
  // read, kept or computed. For plans (train/plan.h). LoadOptions::dtype, threads and vision_tower count.
  static std::unique_ptr<Model> outline(const std::string& dir, const LoadOptions& options);
  static CheckpointReport inspect(const std::string& dir);

  // ---- facts
  DecoderConfig config;
  std::string family;                          // a row of the family table
  DType dtype = DType::F32;
  int64_t parameters = 0;
  uint64_t generation = 0;                     // += 1 whenever weights change: caches of prefixes are stale then
  uint64_t vision_version = 0, projector_version = 0;   // the same of the towers, and of what stands before the decoder

  // ---- parameters
  std::deque<Param> params;                    // in the checkpoint's order
  std::unordered_map<std::string, Param*> by_name;
  std::unique_ptr<Adapter> adapter;            // of its decoder; null: none
  uint64_t adapter_switches = 0;               // += 1 whenever one comes, goes, is switched on or off
  MediaStore media;
  std::vector<double> rope_frequencies;        // of the decoder; computed at first use

  const std::vector<Weight*>& weights() const { return parts_->weights(); }   // every packed matrix
  using Part = isr::Part;
  std::vector<std::vector<Param*>> groups(Part part) const { return parts_->groups(part); }   // parameters updated together
  const Family& declaration() const { return *family_; }
  const std::string& decoder_prefix() const { return parts_->names()[Root::Decoder]; }   // of its parameters' names
  SequencePositions positions(std::span<const int32_t> ids) const;          // by the family's rule
  Positioner positioner() const { return [this](std::span<const int32_t> ids) { return positions(ids); }; }
  std::vector<float> parameter(const std::string& name);                    // float32 copy; of sharded masters: the model's type
  std::vector<int64_t> shape_of(const std::string& name) const;             // of a tensor in the file
  void fill_value(Param& p, void* dst);        // row-major values in the model's type, from the matrix; dst is resident
  void keep_row_major(Param& p);               // gives p a value of its own, if it has none (dX and training need one)
  std::string tower_hash();                    // the same of the towers' parameters, of those that are computed with
  std::string hash();                          // sha256 over name, dtype, shape, bytes of every tensor by name, + config.json
  bool outside_towers() const { return outside_towers_; }
  // Float32 masters [begin, begin + count) of a parameter whose masters are sharded, while ranks read them together
  // (Trainer::with_masters); else null, and what needs them is refused.
  std::function<void(const Param& p, int64_t begin, int64_t count, float* dst)> sharded_masters;
  struct Saved { std::string hash; uint64_t bytes; };
  Saved save(const std::string& dir, const std::atomic<bool>* cancel = nullptr);

 private:
  friend class Loader;
  friend class Adapter;
  void base_values(const Param& p, int64_t begin, int64_t count, float* dst);   // of what is computed with, without an adapter
  // Values of a parameter, by its master, else sharded_masters, value, panels; with what an adapter adds to it.
  void source_values(const Param& p, int64_t begin, int64_t count, float* dst);
  bool changed(const Param& p) const { return p.version > 0 || (adapter && adapter->changes(p)); }   // since it was read
  void check_whole(const Param& p) const;   // INVALID_ARGUMENT: masters that no value here stands for
  Param* param_of(const std::string& name) const;   // by its own or a second name in the file; null: the file's tensor is not computed with
  void encoded_values(const Param& p, FileDType dtype, uint64_t begin, uint64_t count, void* dst);  // bytes of its tensor in the file's type

  const Family* family_ = nullptr;
  std::optional<Parts> parts_;                 // from loading on
  Checkpoint checkpoint_;
  std::unordered_map<std::string, Param*> second_names_;   // of tensors that the file holds twice: a tied head, another release's names
  bool outside_towers_ = false;                // towers came from another folder: they cannot be trained and saved
  std::string config_json_, hash_, tower_hash_;
  uint64_t hashed_generation_ = ~uint64_t{0}, hashed_vision_ = ~uint64_t{0};
  Buffer panels_;                              // of all matrices: one block on huge pages
  std::deque<Buffer> storage_;                 // row-major values of embeddings, vectors, trained matrices
};

}  // namespace isr
