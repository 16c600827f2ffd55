// Ranks of several machines, through Gloo: the plugin beside this code (dist/gloo/plugin.cc), which is built where Gloo is found.
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "core/error.h"
#include "dist/gloo/plugin.h"
#include "dist/transports.h"

namespace isr {
namespace {

constexpr const char* kPlugin = "isr_dpo_gloo.so";
using Text = char[1024];

// ISR_DPO_GLOO, or the folder that this code was loaded from.
std::string plugin_path() {
  if (const char* const asked = std::getenv("ISR_DPO_GLOO")) return asked;
  Dl_info here{};
  dladdr(reinterpret_cast<const void*>(&plugin_path), &here);
  const std::string path = here.dli_fname ? here.dli_fname : "";
  return path.substr(0, path.rfind('/') + 1) + kPlugin;
}

struct Loaded { const IsrGloo* gloo = nullptr; std::string missing; };

Loaded load_plugin() {
  const std::string path = plugin_path();
  constexpr const char* kGet = "; with Gloo (Debian: libgloo-dev), `npm rebuild isr-dpo --build-from-source` builds it, in a clone `npm run build:native`";
  if (access(path.c_str(), R_OK) != 0) return {nullptr, concat("this binary has no Gloo: ", path, " is not there", kGet)};
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return {nullptr, concat("Gloo cannot be loaded: ", dlerror(), kGet)};
  const auto entry = reinterpret_cast<decltype(&isr_dpo_gloo)>(dlsym(library, "isr_dpo_gloo"));
  if (!entry || entry()->version != ISR_GLOO_VERSION) return {nullptr, concat(path, " is another version's", kGet)};
  return {entry(), ""};
}

const Loaded& plugin() {
  static const Loaded loaded = load_plugin();
  return loaded;
}

class GlooLink final : public HostLink {
 public:
  GlooLink(void* rank, int number, int size) : gloo_(*plugin().gloo), handle_(rank), rank_(number), size_(size) {}
  ~GlooLink() override { gloo_.close(handle_); }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void exchange(std::span<const Message> sends, std::span<const Message> receives) override {
    refuse_if_lost();
    const auto plain = [](std::span<const Message> messages) {
      std::vector<IsrGlooMessage> all;
      for (const Message& m : messages) all.push_back({m.peer, m.data, m.bytes});
      return all;
    };
    const std::vector<IsrGlooMessage> out = plain(sends), in = plain(receives);
    Text text = "";
    const IsrGlooEnd end = gloo_.exchange(handle_, out.data(), out.size(), in.data(), in.size(), text, sizeof text);
    if (end == ISR_GLOO_DONE) return;
    refuse_if_lost();
    const std::string what = end == ISR_GLOO_MISMATCH ? concat("rank ", text, " sends rank ", rank_, " other lengths than it expects")
                                                      : concat("rank ", rank_, " lost ", text);
    abort(what);
    if (end == ISR_GLOO_MISMATCH) throw Error("BUG", what);
    rank_lost(what);
  }

  void abort(std::string reason) noexcept override {
    {
      const std::lock_guard lock(mutex_);
      if (lost_.empty()) lost_ = std::move(reason);
    }
    gloo_.abort(handle_);
  }

 private:
  void refuse_if_lost() {
    const std::lock_guard lock(mutex_);
    if (!lost_.empty()) rank_lost(lost_);
  }

  const IsrGloo& gloo_;
  void* const handle_;
  const int rank_, size_;
  std::mutex mutex_;
  std::string lost_;
};

class GlooEnd final : public OpenEnd {
 public:
  GlooEnd(int rank, int size, const std::string& host) : gloo_(*plugin().gloo), rank_(rank), size_(size) {
    Text text = "";
    handle_ = gloo_.open(rank, size, host.c_str(), text, sizeof text);
    if (!handle_)
      throw Error("DEVICE_UNAVAILABLE", concat("rank ", rank, ": Gloo cannot listen at ", host, ": ", text),
                  "set ISR_DPO_RANKS_HOST to this machine's name or address in the network of the ranks");
  }
  ~GlooEnd() override {
    if (handle_) gloo_.close(handle_);
  }
  std::string address() const override { return gloo_.address(handle_); }

  std::shared_ptr<HostLink> connect(const std::vector<std::string>& addresses) override {
    ISR_ASSERT(addresses.size() == static_cast<size_t>(size_) && handle_, addresses.size(), " addresses of ", size_, " ranks");
    std::vector<const char*> texts;
    for (const std::string& a : addresses) texts.push_back(a.c_str());
    Text text = "";
    const IsrGlooEnd end = gloo_.connect(handle_, texts.data(), text, sizeof text);
    const std::lock_guard lock(mutex_);
    if (!lost_.empty()) rank_lost(lost_);
    if (end != ISR_GLOO_DONE)
      throw Error("DEVICE_UNAVAILABLE", concat("rank ", rank_, ": Gloo cannot reach another rank: ", text),
                  "the ranks' machines have to reach each other on any port; ISR_DPO_RANKS_HOST names the address of this one");
    return std::make_shared<GlooLink>(std::exchange(handle_, nullptr), rank_, size_);
  }

  void abort(std::string reason) noexcept override {
    const std::lock_guard lock(mutex_);
    if (!handle_) return;
    if (lost_.empty()) lost_ = std::move(reason);
    gloo_.abort(handle_);
  }

 private:
  const IsrGloo& gloo_;
  const int rank_, size_;
  void* handle_ = nullptr;
  std::mutex mutex_;   // of what abort() reads and writes
  std::string lost_;
};

}  // namespace

std::string gloo_missing() { return plugin().missing; }
std::unique_ptr<OpenEnd> open_gloo(const Opening& o) { return std::make_unique<GlooEnd>(o.rank, o.size, o.host); }

}  // namespace isr
