// A model's parameters, declared once: what checkpoints call them, how large they are, how they are stored and where the
// network keeps them. A family's `parts` function makes the declaration (decoder_parts.cc, video_parts.cc); the loader, the
// saver, the trainer, the plan and inspect read it and know no parameter by name.
#pragma once
#include <deque>
#include <string>
#include <vector>

#include "models/family.h"
#include "models/network.h"

namespace isr {

// A tensor as a checkpoint holds it.
struct TensorSpec {
  std::string name;                   // as the checkpoint calls it, or would
  std::vector<int64_t> shape;
  Root root = Root::Decoder;
  int source = 0;                     // which of Sources::files holds it
  std::string source_name;            // there; empty: `name`
  const std::string& in_file() const { return source_name.empty() ? name : source_name; }
};

enum class Storage : uint8_t {
  Vector,                             // (N) float32 values
  Table,                              // rows in the model's type, looked up by number
  Rows,                               // of a matrix, in the layout that products read
  Bias,                               // of a matrix
};

// What is trained, or left alone, as one.
enum class Part : uint8_t { Vision, Projector, Decoder };
Part part_of(Root root);

// What a family declares for a config: every tensor in the checkpoint's order, and prefixes that belong to it.
struct Declared {
  std::vector<TensorSpec> tensors, claims;
  std::string tied;                   // the table whose rows the head has; empty: it has its own
};

class Parts {
 public:
  Parts(const Names& names, DType dtype) : names_(names), dtype_(dtype) {}

  // ---- for declarations, in the checkpoint's order
  void begin(Root root);                                                    // the names that follow stand below it
  // Parameters that are updated together. Opening a group again goes on with it, and puts it behind the others.
  void group(const std::string& name);
  // Names that follow begin with `prefix`, and so does no tensor of a file that is not declared (`foreign_tensors`).
  void block(const std::string& prefix);
  void claim(const std::string& prefix);                                    // the same of tensors that nothing declares
  void vector(const std::string& name, int64_t size, Param*& at);
  void norm(const std::string& name, int64_t width, LayerNorm& at);         // name.weight and name.bias
  void table(const std::string& name, std::vector<int64_t> shape, Param*& at);
  // A matrix whose rows are those of name.weight, one behind another, with name.bias; "" stands for the block itself.
  struct Stacked { std::string name; int64_t out; };
  void matrix(Weight& weight, const std::vector<Stacked>& rows, const std::vector<int64_t>& in, bool bias, bool swiglu = false);
  void tie(Weight& weight, Param*& table);                                  // a matrix that has the rows of a declared table

  // ---- for readers
  // Makes the parameters, in the declared order, and puts them where they belong.
  void bind(std::deque<Param>& params);
  const std::vector<Weight*>& weights() const { return weights_; }
  // Of one part, when bound. A group holds its blocks in their order: what is no matrix, then each matrix, then its biases.
  std::vector<std::vector<Param*>> groups(Part part) const;
  Declared outside() const;            // what holds without the network
  const Names& names() const { return names_; }

 private:
  struct Slot {
    Storage storage;
    Param** at;                       // of a vector or a table
    Weight* weight;                   // of rows and biases
    int64_t row;                      // the first one's, in `weight`
    size_t group, block, matrix;      // `matrix`: 0 for none, else its number from 1
    Param* param;
  };
  struct Tie { Weight* weight; Param** table; size_t tensor; };
  struct GroupPlace { Root root; std::string name; size_t rank; };
  void add(const std::string& name, std::vector<int64_t> shape, Slot slot);
  void shape(Weight& weight, int64_t n, int64_t k, bool swiglu);

  Names names_;
  DType dtype_;
  Root root_ = Root::Decoder;
  std::string prefix_;                // of the names that follow
  size_t group_ = 0, block_ = 0, opened_ = 0;
  std::vector<GroupPlace> groups_;
  std::vector<TensorSpec> tensors_, claims_;   // the name of a claim is a prefix
  std::vector<Slot> slots_;           // slots_[i] is where tensors_[i] goes
  std::vector<Weight*> weights_;
  std::vector<Tie> ties_;
};

// Without a model.
Declared declared(const Family& family, const Names& names, const ModelConfig& config);
// Every tensor the config asks for, in the checkpoint's order.
std::vector<TensorSpec> expected_tensors(const Family& family, const Names& names, const ModelConfig& config);

}  // namespace isr
