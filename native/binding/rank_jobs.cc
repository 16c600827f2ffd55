// Ranks of several processes: what carries their messages, and what they tell each other outside of a trainer.
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <span>
#include <thread>

#include "binding/jobs.h"
#include "kernels/devices.h"

namespace isr::binding {
namespace {

using RankHandle = Napi::External<std::shared_ptr<Rank>>;

std::shared_ptr<Rank> rank_of(const Napi::Value& v) { return *v.As<RankHandle>().Data(); }

// Why this process has no cards, or "".
std::string cards_missing() {
  const DeviceKind* const kind = find_kind("cuda");
  if (!kind) return "this binary has no CUDA";
  return kind->present && !kind->present() ? "no NVIDIA driver is loaded" : "";
}

// transports(onCard) -> [{name, missing, library}]; onCard: whether this rank has a card, else no library of cards is looked for; missing: why there is none here and what to do, "" where there is one; library: of others,
// that it goes through.
Napi::Value list_transports(const Napi::CallbackInfo& info) {
  Napi::Array all = Napi::Array::New(info.Env());
  const bool on_card = info[0].As<Napi::Boolean>();
  for (const Transport& t : transports()) {
    Napi::Object o = Napi::Object::New(info.Env());
    o.Set("name", t.name);
    std::string missing = t.for_cards ? cards_missing() : "";
    if (missing.empty()) missing = t.for_cards && !on_card ? "its device is the CPU" : t.missing();
    o.Set("missing", missing);
    o.Set("library", missing.empty() && t.library ? t.library() : "");
    all.Set(all.Length(), o);
  }
  return all;
}

Napi::Value rank_machine(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), this_machine()); }

// openRank(transport, rank, size, host, card) -> a handle; its address is for the other ranks. card: of a transport for cards.
Napi::Value open_rank(const Napi::CallbackInfo& info) {
  const std::string name = info[0].As<Napi::String>();
  for (const Transport& t : transports()) {
    if (t.name != name) continue;
    auto rank = std::make_shared<Rank>();
    Opening o{info[1].As<Napi::Number>().Int32Value(), info[2].As<Napi::Number>().Int32Value(), info[3].As<Napi::String>(), nullptr};
    if (t.for_cards) {
      if (const std::string missing = cards_missing(); !missing.empty()) throw Error("DEVICE_UNAVAILABLE", concat(name, ": ", missing));
      o.card = find_kind("cuda")->memory(info[4].As<Napi::Number>().Int32Value());
    }
    rank->end = t.open(o);
    return RankHandle::New(info.Env(), new std::shared_ptr<Rank>(std::move(rank)), [](Napi::Env, std::shared_ptr<Rank>* held) { delete held; });
  }
  fail("BUG", "no transport \"", name, "\"");
}

Napi::Value rank_address(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), rank_of(info[0])->end->address()); }

// abortRank(handle, reason): ends every wait of every rank. closeRank(handle): this rank has ended.
Napi::Value abort_rank(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Rank> rank = rank_of(info[0]);
  if (rank->link) rank->link->link->abort(info[1].As<Napi::String>());
  else if (rank->end) rank->end->abort(info[1].As<Napi::String>());
  return info.Env().Undefined();
}
Napi::Value close_rank(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Rank> rank = rank_of(info[0]);
  rank->link.reset();
  rank->end.reset();
  return info.Env().Undefined();
}

// endProcessAfter(milliseconds, code): this process ends by then, whatever its threads wait for. For a command that has lost a rank: NCCL
// and a card's driver may hang for ever, and the ends of the environment wait for the jobs that hang with them.
Napi::Value end_process_after(const Napi::CallbackInfo& info) {
  const auto wait = std::chrono::milliseconds(info[0].As<Napi::Number>().Int64Value());
  const int code = info[1].As<Napi::Number>().Int32Value();
  std::thread([wait, code] {
    std::this_thread::sleep_for(wait);
    _exit(code);
  }).detach();
  return info.Env().Undefined();
}

// ---- jobs, on a host of the communicator's own

Napi::Value connect_rank(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  return submit(info, [rank = rank_of(args.Get("rank")), addresses = strings_at(args, "addresses")](JobContext&) -> ToJs {
    auto link = std::make_shared<SharedLink>(rank->end->connect(addresses));
    return [rank, link](Napi::Env env) -> Napi::Value {   // the JS thread alone writes it
      rank->link = link;
      return env.Undefined();
    };
  });
}

Napi::Value gather_text(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  return submit(info, [link = link_at(args, "rank"), text = string_at(args, "text")](JobContext&) -> ToJs {
    return [all = all_gather(*make_comm(link, host_device()), text)](Napi::Env env) -> Napi::Value { return to_js(env, all); };
  });
}

// Equal parts, the first ones one longer where it does not divide.
std::vector<size_t> even_cuts(size_t n, int ranks) {
  std::vector<size_t> cuts{0};
  const auto size = static_cast<size_t>(ranks);
  for (size_t r = 0; r < size; ++r) cuts.push_back(cuts.back() + n / size + (r < n % size ? 1 : 0));
  return cuts;
}

// reduceFloats({rank, x, gather}): x becomes the sum over the ranks; without gather only this rank's part, which is returned as
// {begin, end}.
Napi::Value reduce_floats(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  std::vector<Napi::Object> keep;
  const Bytes x = bytes_at(args, "x", keep);
  return submit(
      info,
      [link = link_at(args, "rank"), gather = bool_at(args, "gather"), x](JobContext&) -> ToJs {
        const std::unique_ptr<Comm> comm = make_comm(link, host_device());
        const std::span<float> values(static_cast<float*>(x.data), x.bytes / sizeof(float));
        const auto n = static_cast<double>(values.size());
        for (const std::vector<double>& theirs : all_gather(*comm, std::span<const double>(&n, 1)))
          if (theirs[0] != n) fail("INVALID_ARGUMENT", "x: expected as many values on every rank, got ", values.size(), " here and ", static_cast<int64_t>(theirs[0]), " on another");
        std::vector<size_t> cuts = even_cuts(values.size(), comm->size());
        reduce_scatter(*comm, values, cuts);
        const auto me = static_cast<size_t>(comm->rank());
        const size_t begin = cuts[me], end = cuts[me + 1];
        for (size_t& cut : cuts) cut *= sizeof(float);
        if (gather) all_gather(*comm, values.data(), cuts);
        return [begin, end](Napi::Env env) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("begin", static_cast<double>(begin));
          o.Set("end", static_cast<double>(end));
          return o;
        };
      },
      keep);
}

// gatherFloats({rank, x}) -> the arrays of all ranks, by rank; any lengths.
Napi::Value gather_floats(const Napi::CallbackInfo& info) {
  const Napi::Object args = info[1].As<Napi::Object>();
  return submit(info, [link = link_at(args, "rank"), x = floats_at(args, "x")](JobContext&) -> ToJs {
    const std::string mine(reinterpret_cast<const char*>(x.data()), x.size() * sizeof(float));
    std::vector<std::vector<float>> all;
    for (const std::string& bytes : all_gather(*make_comm(link, host_device()), mine)) {
      std::vector<float>& values = all.emplace_back(bytes.size() / sizeof(float));
      if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    }
    return [all](Napi::Env env) -> Napi::Value { return to_js(env, all); };
  });
}

}  // namespace

std::shared_ptr<SharedLink> link_at(const Napi::Object& args, const char* key) {
  if (!has(args, key)) return nullptr;
  const std::shared_ptr<Rank> rank = rank_of(args.Get(key));
  if (!rank->link) throw Error("DISPOSED", "the communicator was disposed, or is not connected");
  return rank->link;
}

void export_rank_jobs(Napi::Env env, Napi::Object exports) {
  export_as<list_transports>(env, exports, "transports");
  export_as<rank_machine>(env, exports, "rankMachine");
  export_as<open_rank>(env, exports, "openRank");
  export_as<rank_address>(env, exports, "rankAddress");
  export_as<abort_rank>(env, exports, "abortRank");
  export_as<close_rank>(env, exports, "closeRank");
  export_as<end_process_after>(env, exports, "endProcessAfter");
  export_as<connect_rank>(env, exports, "connectRank");
  export_as<gather_text>(env, exports, "gatherText");
  export_as<reduce_floats>(env, exports, "reduceFloats");
  export_as<gather_floats>(env, exports, "gatherFloats");
}

}  // namespace isr::binding
