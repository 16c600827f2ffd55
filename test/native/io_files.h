// Folders and files for the tests of io/: a folder that vanishes with its object, safetensors bytes from parts (right or
// wrong on purpose), and a small sharded checkpoint.
#pragma once
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "check.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace isr::test {

class TempFolder {
 public:
  TempFolder() {
    const char* wish = std::getenv("TMPDIR");  // else memory, where syncs are cheap
    std::string name = concat(wish ? wish : access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", "/isr-io-XXXXXX");
    if (!mkdtemp(name.data())) throw_system("could not make", name, errno);
    path_ = name;
  }
  ~TempFolder() { remove_tree(path_); }
  TempFolder(const TempFolder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::string little_endian(uint64_t n) {
  std::string s;
  for (int i = 0; i < 8; ++i) s += static_cast<char>(n >> (8 * i));
  return s;
}

// A whole file: the header's length (or a wrong one), the header, zeros as data.
inline std::string file_bytes(const std::string& header, size_t data_bytes) {
  return little_endian(header.size()) + header + std::string(data_bytes, '\0');
}

inline std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return json_quoted(name) + ":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

inline std::string slurp(const std::string& path) { return read_file(path, size_t{1} << 30); }

// Two shards with an index, three dtypes, metadata, odd header padding and files beside the weights.
inline std::map<std::string, std::string> write_small_checkpoint(const std::string& dir) {
  make_folders(dir);
  std::map<std::string, std::string> files;
  std::string a = file_bytes("{\"__metadata__\":{\"format\":\"pt\"}," + entry("w1", "F32", "[300,7]", "[600,9000]") + "," +
                                 entry("w0", "BF16", "[3,100]", "[0,600]") + "}   ", 0);
  std::string b = file_bytes("{" + entry("w2", "F16", "[5]", "[0,10]") + "," + entry("ids", "I64", "[2]", "[10,26]") + "}", 0);
  for (int i = 0; i < 9000; ++i) a += static_cast<char>(i * 31 + 7);
  for (int i = 0; i < 26; ++i) b += static_cast<char>(i * 5);
  files["model-00001-of-00002.safetensors"] = a;
  files["model-00002-of-00002.safetensors"] = b;
  files["model.safetensors.index.json"] =
      "{\"metadata\":{\"total_size\":9026},\"weight_map\":{\"w0\":\"model-00001-of-00002.safetensors\",\"w1\":\"model-00001-of-00002.safetensors\","
      "\"w2\":\"model-00002-of-00002.safetensors\",\"ids\":\"model-00002-of-00002.safetensors\"}}\n";
  files["config.json"] = "{\"model_type\": \"llama\"}\n";
  files["tokenizer.model"] = std::string("\0\1\2binary", 9);
  for (const auto& [name, bytes] : files) write_file_atomic(dir + "/" + name, bytes);
  return files;
}

inline std::map<std::string, std::string> read_folder(const std::string& dir) {
  std::map<std::string, std::string> files;
  for (const FolderEntry& e : list_folder(dir)) files[e.name] = e.regular ? slurp(dir + "/" + e.name) : "(no file)";
  return files;
}

inline std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  for (const FolderEntry& e : list_folder(dir)) names.push_back(e.name);
  return names;
}

}  // namespace isr::test
