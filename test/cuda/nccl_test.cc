// Ranks with an emulated card each, through NCCL's double: what the other transports do, and all that NCCL may answer.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>

#include "check.h"
#include "dist/nccl_library.h"
#include "dist/transports.h"
#include "emulated.h"
#include "kernels/devices.h"
#include "nccl_double.h"
#include "pairs.h"
#include "ranks.h"
#include "runtime.h"
#include "seeded_model.h"
#include "train/trainer.h"

namespace isr::test {
namespace {

const Transport& nccl_row() {
  return *std::find_if(transports().begin(), transports().end(), [](const Transport& t) { return t.name == "nccl"; });
}
std::shared_ptr<Device> card(int index) { return find_kind("cuda")->memory(index); }

// Cards for a test; afterwards the machine has one again, and everything is given back.
struct Machine {
  explicit Machine(int cards) {
    emulated::set_devices(cards);
    use_nccl_double();
    held = emulated::things_held();
  }
  ~Machine() {
    for (int i = 0; i < 5000 && emulated::things_held() != held; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));   // a watch that has just ended
    CHECK(emulated::things_held() == held, emulated::things_held(), " things, ", held, " before");
    CHECK(nccl_double().communicators == 0, nccl_double().communicators.load(), " communicators are left");
    emulated::set_devices(1);
  }
  size_t held = 0;
};

struct Ends {
  explicit Ends(int size, const std::vector<int>& cards = {}) {
    for (int r = 0; r < size; ++r) {
      ends.push_back(nccl_row().open({r, size, "", card(cards.empty() ? r : cards[static_cast<size_t>(r)])}));
      addresses.push_back(ends.back()->address());
    }
  }
  std::vector<std::unique_ptr<OpenEnd>> ends;
  std::vector<std::string> addresses;
};

// Gives up for ranks that would wait for ever, and where that does not help for the program: a fault has to end as a failure.
class Patience {
 public:
  explicit Patience(const Ends& all)
      : thread_([this, &all] {
          if (waits()) return;
          for (const auto& end : all.ends) end->abort("the test gives up");
          if (!waits()) std::abort();
        }) {}
  ~Patience() {
    done_ = true;
    thread_.join();
  }

 private:
  bool waits() const {
#if defined(__SANITIZE_THREAD__)
    constexpr int kMilliseconds = 1'200'000;   // it looks at every access of every emulated thread
#else
    constexpr int kMilliseconds = 10'000;
#endif
    for (int i = 0; i < kMilliseconds && !done_; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return done_;
  }
  std::atomic<bool> done_{false};
  std::thread thread_;
};

// Each rank in a thread: what it threw.
Outcomes among(int size, const std::function<void(int, const std::shared_ptr<SharedLink>&)>& work) {
  Ends all(size);
  const Patience patience(all);
  Outcomes outcomes(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r)
    threads.emplace_back([&, r] {
      const auto at = static_cast<size_t>(r);
      try {
        const auto link = std::make_shared<SharedLink>(all.ends[at]->connect(all.addresses));
        work(r, link);
      } catch (const Error& e) {
        outcomes[at] = e.code + ": " + e.what();
        for (const auto& end : all.ends) end->abort(outcomes[at]);   // as the ranks' control does
      }
    });
  for (std::thread& t : threads) t.join();
  return outcomes;
}

// Sums and bytes over a Comm, held against what they have to be.
void speak(Comm& comm) {
  double one[] = {1, static_cast<double>(comm.rank())};
  all_reduce(comm, one);
  const int n = comm.size();
  if (one[0] != n || one[1] != n * (n - 1) / 2.0) fail("BUG", "sums ", one[0], " and ", one[1]);
  const std::string mine(static_cast<size_t>(comm.rank()) * 70001, static_cast<char>('a' + comm.rank()));   // rank 0 has none
  const std::vector<std::string> all = all_gather(comm, mine);
  for (int r = 0; r < n; ++r)
    if (all[static_cast<size_t>(r)] != std::string(static_cast<size_t>(r) * 70001, static_cast<char>('a' + r))) fail("BUG", "bytes of rank ", r);
}

TEST("cuda nccl: ranks speak from card to card, and from host to host") {
  for (int size : {1, 2, 3, 4}) {
    const Machine machine(size);
    const Outcomes outcomes = among(size, [&](int r, const std::shared_ptr<SharedLink>& link) {
      const std::shared_ptr<Device> device = card(r);
      for (int round = 0; round < 3; ++round) {
        speak(*make_comm(link, *device));
        speak(*make_comm(link, host_device()));
      }
      const std::unique_ptr<Comm> comm = make_comm(link, *device);
      speak(*comm);
      if (size > 1 && !(comm->seconds() > 0)) fail("BUG", "messages took no time");
    });
    CHECK(all_well(outcomes), size, " ranks: ", text(outcomes));
    CHECK(nccl_double().destroyed == size && nccl_double().aborted == 0, nccl_double().destroyed.load(), " destroyed, ", nccl_double().aborted.load(), " aborted");
    CHECK(nccl_double().calls["ncclCommFinalize"] == size, "what was sent has the time to arrive");
  }
}

TEST("cuda nccl: groups that are started happen in their order, and are there when they were waited for") {
  const Machine machine(2);
  const Outcomes outcomes = among(2, [&](int r, const std::shared_ptr<SharedLink>& link) {
    const std::shared_ptr<Device> device = card(r);
    const std::unique_ptr<Comm> comm = make_comm(link, *device);
    comm->reserve();
    constexpr int kGroups = 4, kValues = 3000;
    std::vector<Buffer> out, in;
    for (int g = 0; g < kGroups; ++g) {
      const std::vector<int> values(kValues, 10 * g + r);
      out.emplace_back(*device, sizeof(int) * kValues), in.emplace_back(*device, sizeof(int) * kValues);
      device->upload(out.back().data(), values.data(), sizeof(int) * kValues);
      const Message send{1 - r, out.back().data(), sizeof(int) * kValues}, receive{1 - r, in.back().data(), sizeof(int) * kValues};
      if (comm->start({&send, 1}, {&receive, 1}) != static_cast<uint64_t>(g) + 1) fail("BUG", "another number");
    }
    for (int g = 0; g < kGroups; ++g) {
      comm->wait(static_cast<uint64_t>(g) + 1);
      std::vector<int> got(kValues);
      device->download(got.data(), in[static_cast<size_t>(g)].data(), sizeof(int) * kValues);
      if (got != std::vector<int>(kValues, 10 * g + 1 - r)) fail("BUG", "group ", g, " brought ", got[0]);
    }
  });
  CHECK(all_well(outcomes), text(outcomes));
}

TEST("cuda nccl: steps of cards have the bits of steps whose messages pass through the host") {
  const auto steps = [](const std::function<Outcomes(const std::function<void(Comm&, Model&)>&)>& with) {
    std::vector<std::string> hashes(2);
    const Outcomes outcomes = with([&](Comm& comm, Model& model) {
      TrainerOptions o;
      o.learning_rate = 1e-3;
      o.micro_batch_tokens = 1;
      Trainer trainer(model, o, comm);
      std::vector<TrainPair> pairs = make_pairs(model.config.vocab);
      const auto half = pairs.begin() + static_cast<std::ptrdiff_t>(pairs.size() / 2);
      std::vector<TrainPair> mine = comm.rank() == 0 ? std::vector(pairs.begin(), half) : std::vector(half, pairs.end());
      std::vector<PairReference> references = trainer.score(mine, nullptr);
      for (size_t i = 0; i < mine.size(); ++i) mine[i].ref_chosen = references[i].chosen, mine[i].ref_rejected = references[i].rejected;
      trainer.train_step(mine, nullptr);
      trainer.with_masters([&] { hashes[0] = model.hash(); });
    });
    CHECK(all_well(outcomes), text(outcomes));
    return hashes[0];
  };
  const Machine machine(2);
  const auto model_on = [](int index) {
    LoadOptions load;
    load.threads = 1;
    load.device = concat("cuda:", index);
    return seeded_model({}, load);
  };
  const std::string direct = steps([&](const auto& work) {
    return among(2, [&](int r, const std::shared_ptr<SharedLink>& link) {
      const std::unique_ptr<Model> model = model_on(r);
      const std::unique_ptr<Comm> comm = make_comm(link, model->backend->device());
      work(*comm, *model);
    });
  });
  const std::string staged = steps([&](const auto& work) {
    std::vector<std::unique_ptr<Model>> models;
    std::vector<Device*> devices;
    for (int r = 0; r < 2; ++r) devices.push_back(&models.emplace_back(model_on(r))->backend->device());
    return run_ranks(devices, [&](Comm& comm) { work(comm, *models[static_cast<size_t>(comm.rank())]); });
  });
  CHECK(!direct.empty() && direct == staged, direct, " and ", staged);
}

const char* const kCalls[] = {"ncclGetUniqueId", "ncclCommInitRankConfig", "ncclCommGetAsyncError", "ncclGroupStart", "ncclSend", "ncclRecv", "ncclGroupEnd"};

TEST("cuda nccl: every call may fail with every code, at once or while it is in progress: all ranks end with a typed error") {
  for (const bool later : {false, true})
    for (const std::string call : kCalls)
      for (const int code : {1, 2, 3, 4, 5, 6, 8, 9})
        for (const int nth : {1, 2}) {
          if ((later && call != "ncclCommInitRankConfig" && call != "ncclGroupEnd") || (nth == 2 && (call == "ncclGetUniqueId" || call == "ncclCommInitRankConfig"))) continue;
          const Machine machine(2);
          std::atomic<int> count{0}, state{0};
          nccl_double().answer = [&](const std::string& asked, int rank) {
            const bool mine = call == "ncclGetUniqueId" || call == "ncclGroupStart" || rank == 1;
            if (asked != call || !mine || ++count != nth) return 0;
            if (!later) return code;
            state = code;
            return 0;
          };
          nccl_double().state = [&](int rank) { return rank == 1 ? state.load() : 0; };
          Outcomes outcomes(2);
          std::string opened;
          try {
            outcomes = among(2, [&](int r, const std::shared_ptr<SharedLink>& link) {
              const std::shared_ptr<Device> device = card(r);
              const std::unique_ptr<Comm> comm = make_comm(link, *device);
              for (int round = 0; round < 3; ++round) speak(*comm);
            });
          } catch (const Error& e) {
            opened = e.code;
          }
          std::map<std::string, int>& calls = nccl_double().calls;
          const int refused = call == "ncclGroupStart" && opened.empty() ? 1 : 0;
          CHECK(calls["ncclGroupStart"] - refused == calls["ncclGroupEnd"], call, ": a group that was begun has to end");
          const std::string what = concat(call, " answers ", code, later ? " later" : "", ", time ", nth, ": ", opened, text(outcomes));
          if (call == "ncclGetUniqueId") {
            CHECK(opened == "DEVICE_UNAVAILABLE", what);
            continue;
          }
          if (text(outcomes).find("the test gives up") != std::string::npos) {
            CHECK(false, what);
            return;   // the others would take as long
          }
          const bool at_start = call == "ncclCommInitRankConfig" || (call == "ncclCommGetAsyncError" && count <= 2);
          const bool ours = code == 4 || code == 5;
          int named = 0;
          for (const std::string& o : outcomes) {
            CHECK(o.starts_with("RANK_LOST: ") || o.starts_with("DEVICE_UNAVAILABLE: ") || (ours && o.starts_with("BUG: ")), what);
            if (o.find(concat("NCCL: ", call == "ncclCommGetAsyncError" ? "" : call)) != std::string::npos) ++named;
          }
          CHECK(named >= 1, what, ": nobody names the call");
          if (at_start && !ours) CHECK(outcomes[1].starts_with("DEVICE_UNAVAILABLE: ") || call == "ncclCommGetAsyncError", what);
        }
}

TEST("cuda nccl: an abort in the middle of each call, from another thread, ends it and all that waits") {
  for (const std::string call : kCalls) {
    if (call == "ncclGetUniqueId") continue;
    const Machine machine(2);
    std::atomic<bool> once{false};
    std::function<void()> give_up;
    nccl_double().answer = [&](const std::string& asked, int) {
      if (asked != call || once.exchange(true)) return 0;
      std::thread(give_up).join();   // the call goes on when the abort has come back
      return 0;
    };
    Ends all(2);
    const Patience patience(all);
    give_up = [&] {
      for (const auto& end : all.ends) end->abort("rank 0 gives up");
    };
    Outcomes outcomes(2);
    std::vector<std::thread> threads;
    for (size_t r = 0; r < 2; ++r)
      threads.emplace_back([&, r] {
        try {
          const auto link = std::make_shared<SharedLink>(all.ends[r]->connect(all.addresses));
          const std::shared_ptr<Device> device = card(static_cast<int>(r));
          const std::unique_ptr<Comm> comm = make_comm(link, *device);
          for (int round = 0; round < 3; ++round) speak(*comm);
        } catch (const Error& e) {
          outcomes[r] = e.code + ": " + e.what();
        }
      });
    for (std::thread& t : threads) t.join();
    CHECK(once.load(), call, " was never made");
    for (const std::string& o : outcomes) CHECK(o == "RANK_LOST: rank 0 gives up", call, ": ", text(outcomes));
    CHECK(nccl_double().destroyed == 0, call, ": nothing ends in peace");
  }
}

// Rank 0's work with its link, beside a rank 1 that has connected and then says nothing.
void beside_silence(const std::function<void(const std::shared_ptr<HostLink>&)>& work) {
  std::atomic<bool> done{false};
  Ends all(2);
  const Patience patience(all);
  std::thread silent([&] {
    const auto link = all.ends[1]->connect(all.addresses);
    while (!done) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  std::thread waiter([&] {
    work(all.ends[0]->connect(all.addresses));
    done = true;
  });
  silent.join(), waiter.join();
}

// What the host would read after an abort is anything.
TEST("cuda nccl: bytes of the host that have not come are not given out when the job is given up") {
  const Machine machine(2);
  std::string told;
  beside_silence([&](const std::shared_ptr<HostLink>& link) {
    std::thread control([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));   // it waits on the card by now
      link->abort("given up");
    });
    char bytes[64] = "";
    const Message receive{1, bytes, sizeof bytes};
    told = thrown_code([&] { link->exchange({}, {&receive, 1}); });
    control.join();
  });
  CHECK(told == "RANK_LOST", told);
}

TEST("cuda nccl: a rank that has gone leaves the card of the other waiting until it gives up") {
  const Machine machine(2);
  std::atomic<bool> gone{false};
  std::string told;
  Ends all(2);
  const Patience patience(all);
  std::thread leaver([&] {
    const auto link = all.ends[1]->connect(all.addresses);
    gone = true;
  });
  std::thread waiter([&] {
    const auto link = std::make_shared<SharedLink>(all.ends[0]->connect(all.addresses));
    const std::shared_ptr<Device> device = card(0);
    std::thread control([&] {
      while (!gone) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));   // it waits on the card by now
      link->link->abort("rank 1 (there, process 7) was lost");
    });
    told = thrown_code([&] { barrier(*make_comm(link, *device)); });
    control.join();
  });
  leaver.join(), waiter.join();
  CHECK(told == "RANK_LOST", told);
}

TEST("cuda nccl: an error that no call tells of is found by the watch, which ends what waits on the card") {
  const Machine machine(2);
  std::atomic<int> state{0};
  nccl_double().state = [&](int rank) { return rank == 0 ? state.load() : 0; };
  std::string told;
  beside_silence([&](const std::shared_ptr<HostLink>& link) {
    const std::shared_ptr<Device> device = card(0);
    const std::unique_ptr<Comm> comm = make_comm(std::make_shared<SharedLink>(link), *device);
    Buffer room(*device, 64);
    const Message receive{1, room.data(), 64};
    comm->exchange({}, {&receive, 1});
    state = 6;
    device->synchronize();   // asks NCCL nothing
    try {
      comm->finish();
    } catch (const Error& e) {
      told = e.what();
    }
  });
  CHECK(told.find("ncclCommGetAsyncError: remote process exited") != std::string::npos, told);
}

TEST("cuda nccl: what cannot work is refused before NCCL is asked") {
  const Machine machine(2);
  {
    Ends same(2, {1, 1});
    const Patience patience(same);
    const std::string code = thrown_code([&] { same.ends[0]->connect(same.addresses); });
    CHECK(code == "INVALID_ARGUMENT", "two ranks of one card: ", code);
    CHECK(thrown_code([&] { same.ends[0]->connect({"no address", "another"}); }) == "INVALID_ARGUMENT", "a strange address");
  }
  {
    Ends late(2);
    late.ends[0]->abort("given up before");
    CHECK(thrown_code([&] { late.ends[0]->connect(late.addresses); }) == "RANK_LOST", "a job that was given up");
    CHECK(nccl_double().calls["ncclCommInitRankConfig"] == 0, "a communicator of a job that was given up");
  }
  const Outcomes outcomes = among(1, [&](int, const std::shared_ptr<SharedLink>& link) {
    const std::shared_ptr<Device> other = card(1);
    const std::string code = thrown_code([&] { make_comm(link, *other); });
    if (code != "INVALID_ARGUMENT") fail("BUG", "a model on another card: ", code);
    speak(*make_comm(link, *card(0)));
  });
  CHECK(all_well(outcomes), text(outcomes));
}

// Takes the ten seconds that a rank waits.
void hang() {
  // The watch stays behind, with what it holds: counted apart from the other tests.
  emulated::set_devices(1);
  use_nccl_double();
  std::atomic<bool> free{false};
  nccl_double().answer = [&](const std::string& asked, int) {
    while (asked == "ncclCommAbort" && !free) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return 0;
  };
  Ends one(1);
  auto link = one.ends[0]->connect(one.addresses);
  link->abort("given up");
  const auto start = std::chrono::steady_clock::now();
  link.reset();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  CHECK(seconds > 9 && seconds < 60, seconds, " s");
  free = true;
  while (nccl_double().aborted == 0) std::this_thread::yield();
  one.ends.clear();
}

const bool long_one = [] {
  if (std::getenv("ISR_DPO_LONG")) cases().push_back({"cuda nccl: NCCL that hangs when it is taken down does not hang its rank", hang});
  return true;
}();

}  // namespace
}  // namespace isr::test
