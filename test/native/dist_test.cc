// Ranks that are threads: messages in groups, sums in the order of the ranks, errors that all hear of, and ranks that are lost.
#include <algorithm>
#include <atomic>
#include <bit>
#include <deque>
#include <thread>

#include "check.h"
#include "core/memory.h"
#include "dist/comm.h"
#include "far.h"
#include "ranks.h"

namespace isr::test {
namespace {

// What an outcome begins with: Gloo cannot tell a rank more than that it has lost another one.
std::string told(const std::string& by_others) { return std::string(carrier()) == "gloo" ? "RANK_LOST: rank " : by_others; }

// Byte i of message `n` of a round that goes from one rank to another, and how long it is: some are empty, some are long.
char byte_of(int round, int from, int to, int n, size_t i) { return static_cast<char>(round * 31 + from * 7 + to * 3 + n * 11 + static_cast<int>(i % 251)); }
size_t length_of(int round, int from, int to, int n) { return static_cast<size_t>((from * 5 + to * 2 + n * 3 + round) % 4) * static_cast<size_t>(n == 0 ? 1 : 700001); }   // beyond what a ring holds

// Two messages to everyone, itself included.
struct Round {
  Round(Comm& comm, int number) : comm(comm), number(number) {
    const int me = comm.rank(), size = comm.size();
    Device& device = comm.device();
    for (int peer = 0; peer < size; ++peer)
      for (int n = 0; n < 2; ++n) {
        std::vector<char> bytes(length_of(number, me, peer, n));
        for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = byte_of(number, me, peer, n, i);
        out.emplace_back(device, bytes.size() + 1);
        device.upload(out.back().data(), bytes.data(), bytes.size());
        sends.push_back({peer, out.back().data(), bytes.size()});
        in.emplace_back(device, length_of(number, peer, me, n) + 1);
        receives.push_back({peer, in.back().data(), length_of(number, peer, me, n)});
      }
    if (number % 2 == 1) std::stable_sort(receives.begin(), receives.end(), [](const Message& a, const Message& b) { return a.peer > b.peer; });   // peers in any order
  }
  // What came, held against what each sender had to send.
  void check(std::atomic<int>& wrong) const {
    for (int peer = 0; peer < comm.size(); ++peer)
      for (int n = 0; n < 2; ++n) {
        std::vector<char> bytes(length_of(number, peer, comm.rank(), n));
        comm.finish();
        comm.device().download(bytes.data(), in[static_cast<size_t>(2 * peer + n)].data(), bytes.size());
        for (size_t i = 0; i < bytes.size(); ++i)
          if (bytes[i] != byte_of(number, peer, comm.rank(), n, i)) ++wrong;
      }
  }
  Comm& comm;
  const int number;
  std::vector<Buffer> out, in;
  std::vector<Message> sends, receives;
};

void exchange_round(Comm& comm, int number, std::atomic<int>& wrong) {
  const Round round(comm, number);
  comm.exchange(round.sends, round.receives);
  round.check(wrong);
}

TEST_CARRIED("dist: a group of messages arrives whole, in order, for any number of ranks") {
  for (int size : {1, 2, 3, 5}) {
    std::atomic<int> wrong{0};
    const Outcomes outcomes = run_ranks(size, [&](Comm& comm) {
      for (int round = 0; round < 12; ++round) exchange_round(comm, round, wrong);
    });
    CHECK(all_well(outcomes), size, " ranks: ", text(outcomes));
    CHECK(wrong.load() == 0, size, " ranks");
  }
}

TEST_CARRIED("dist: groups that are started go across in their order, beside an exchange, and are there when they were waited for") {
  for (int size : {1, 2, 3}) {
    std::atomic<int> wrong{0};
    const Outcomes outcomes = run_ranks(size, [&](Comm& comm) {
      comm.reserve();
      std::deque<Round> rounds;
      for (int number = 0; number < 5; ++number) {
        const Round& round = rounds.emplace_back(comm, number);
        if (comm.start(round.sends, round.receives) != static_cast<uint64_t>(number) + 1) ++wrong;
      }
      exchange_round(comm, 5, wrong);
      for (int number = 0; number < 5; ++number) {
        comm.wait(static_cast<uint64_t>(number) + 1);
        rounds[static_cast<size_t>(number)].check(wrong);
      }
      const Round last(comm, 6);
      comm.start(last.sends, last.receives);   // nobody waits for it: it goes across all the same
      comm.finish();
    });
    CHECK(all_well(outcomes), size, " ranks: ", text(outcomes));
    CHECK(wrong.load() == 0, size, " ranks");
  }
}

TEST_CARRIED("dist: a group that is on its way when a rank ends is lost, and so is all behind it") {
  const Outcomes outcomes = run_ranks(3, [&](Comm& comm) {
    if (comm.rank() == 2) return;
    const Round first(comm, 0), second(comm, 1);
    comm.start(first.sends, first.receives);
    comm.start(second.sends, second.receives);
    const std::string told = thrown_code([&] { comm.wait(1); });
    if (told != "RANK_LOST") fail("BUG", "the wait ended with \"", told, "\"");
    comm.exchange({}, {});
  });
  CHECK(outcomes[2].empty(), text(outcomes));
  for (size_t r : {0, 1}) CHECK(outcomes[r].starts_with("RANK_LOST: "), text(outcomes));
}

TEST_CARRIED("dist: messages between devices whose memory the host cannot read") {
  std::vector<std::unique_ptr<Backend>> backends;
  std::vector<Device*> devices;
  for (int r = 0; r < 3; ++r) devices.push_back(&backends.emplace_back(make_far_backend(Isa::Generic, 1))->device());
  std::atomic<int> wrong{0};
  const Outcomes outcomes = run_ranks(devices, [&](Comm& comm) {
    for (int round = 0; round < 4; ++round) exchange_round(comm, round, wrong);
  });
  CHECK(all_well(outcomes), text(outcomes));
  CHECK(wrong.load() == 0, "bytes on far devices");
}

TEST("dist: one rank alone needs nobody") {
  const std::unique_ptr<Comm> comm = make_single_rank(host_device());
  std::atomic<int> wrong{0};
  for (int round = 0; round < 4; ++round) exchange_round(*comm, round, wrong);
  CHECK(wrong.load() == 0, "bytes to itself");
  double values[] = {1.5, -2};
  all_reduce(*comm, values);
  CHECK(values[0] == 1.5 && values[1] == -2, values[0], ", ", values[1]);
  CHECK(thrown_code([&] { agree(*comm, [] { fail("DATA_INVALID", "row 3"); }); }) == "DATA_INVALID", "its own error");
  barrier(*comm);
}

TEST_CARRIED("dist: sums are those of the ranks' order, bit for bit") {
  for (int size : {2, 3, 5}) {
    // Terms whose sum depends on the order of addition.
    const auto term = [](int rank, int i) { return std::ldexp(1.0 + 0.1 * rank + 0.01 * i, (rank * 17 + i * 29) % 61 - 30); };
    std::vector<double> expected;
    for (int i = 0; i < 40; ++i) {
      double sum = term(0, i);
      for (int r = 1; r < size; ++r) sum += term(r, i);
      expected.push_back(sum);
    }
    std::atomic<int> wrong{0};
    const Outcomes outcomes = run_ranks(size, [&](Comm& comm) {
      for (int round = 0; round < 5; ++round) {
        std::vector<double> values;
        for (int i = 0; i < 40; ++i) values.push_back(term(comm.rank(), i));
        all_reduce(comm, values);
        for (size_t i = 0; i < values.size(); ++i)
          if (std::bit_cast<uint64_t>(values[i]) != std::bit_cast<uint64_t>(expected[i])) ++wrong;
      }
    });
    CHECK(all_well(outcomes), size, " ranks: ", text(outcomes));
    CHECK(wrong.load() == 0, size, " ranks");
  }
}

TEST_CARRIED("dist: what ranks gather may have any length, and any bytes") {
  const std::vector<std::string> given = {"", std::string("a\0b", 3), std::string(100000, 'x'), "\xff"};
  std::vector<std::vector<std::string>> heard(4);
  const Outcomes outcomes = run_ranks(4, [&](Comm& comm) {
    const auto me = static_cast<size_t>(comm.rank());
    heard[me] = all_gather(comm, given[me]);
    const std::vector<double> mine(me, static_cast<double>(me));   // rank 0 has none
    const std::vector<std::vector<double>> all = all_gather(comm, std::span<const double>(mine));
    for (size_t r = 0; r < all.size(); ++r)
      if (all[r] != std::vector<double>(r, static_cast<double>(r))) heard[me].clear();
  });
  CHECK(all_well(outcomes), text(outcomes));
  for (size_t r = 0; r < heard.size(); ++r) CHECK(heard[r] == given, "rank ", r, " heard ", heard[r].size(), " parts");
}

TEST_CARRIED("dist: parts of an array, ragged and empty ones too, and one rank's array to all") {
  const std::vector<size_t> cuts = {0, 12, 12, 20, 400};
  std::vector<std::vector<char>> got(4), root(4);
  const Outcomes outcomes = run_ranks(4, [&](Comm& comm) {
    const auto me = static_cast<size_t>(comm.rank());
    got[me].assign(400, '?');
    std::fill(got[me].begin() + static_cast<std::ptrdiff_t>(cuts[me]), got[me].begin() + static_cast<std::ptrdiff_t>(cuts[me + 1]), static_cast<char>('0' + me));
    all_gather(comm, got[me].data(), cuts);
    root[me].assign(9, static_cast<char>('a' + me));
    broadcast(comm, root[me].data(), 9, 2);
  });
  CHECK(all_well(outcomes), text(outcomes));
  const std::string expected = std::string(12, '0') + std::string(8, '2') + std::string(380, '3');
  for (size_t r = 0; r < 4; ++r) {
    CHECK(std::string(got[r].begin(), got[r].end()) == expected, "rank ", r);
    CHECK(std::string(root[r].begin(), root[r].end()) == "ccccccccc", "rank ", r);
  }
}

TEST_CARRIED("dist: an error of one rank is an error of all, and they go on together") {
  const auto after = [](Comm& comm) {
    double one[] = {1};
    all_reduce(comm, one);
    if (one[0] != comm.size()) fail("BUG", "sum ", one[0]);
  };
  struct Row { const char* what; std::function<void(int)> work; const char* outcomes; };
  const Row rows[] = {
      {"none", [](int) {}, "[][][]"},
      {"rank 1", [](int r) { if (r == 1) fail("DATA_INVALID", "row 7"); }, "[DATA_INVALID: rank 1: row 7][DATA_INVALID: row 7][DATA_INVALID: rank 1: row 7]"},
      {"two: the first is named", [](int r) { if (r != 1) fail(r == 0 ? "OUT_OF_MEMORY" : "IO", "r", r); },
       "[OUT_OF_MEMORY: r0][OUT_OF_MEMORY: rank 0: r0][IO: r2]"},
      {"a refused allocation", [](int r) { if (r == 0) throw std::bad_alloc(); },
       "[no memory][OUT_OF_MEMORY: rank 0: the system refused memory][OUT_OF_MEMORY: rank 0: the system refused memory]"},
      {"cancelled", [](int r) { if (r == 2) throw Cancelled(); }, "[RANK_LOST: rank 2: its work was cancelled][RANK_LOST: rank 2: its work was cancelled][cancelled]"},
  };
  for (const Row& row : rows) {
    std::atomic<int> went_on{0};
    const Outcomes outcomes = run_ranks(3, [&](Comm& comm) {
      std::exception_ptr error;
      try {
        agree(comm, [&] { row.work(comm.rank()); });
      } catch (...) {
        error = std::current_exception();
      }
      after(comm);
      ++went_on;
      if (error) std::rethrow_exception(error);
    });
    CHECK(text(outcomes) == row.outcomes, row.what);
    CHECK(went_on.load() == 3, row.what);
  }
}

TEST_CARRIED("dist: who waits for a rank that has ended is told so") {
  const Outcomes outcomes = run_ranks(4, [&](Comm& comm) {
    if (comm.rank() == 2) return;
    barrier(comm);
  });
  CHECK(outcomes[2].empty(), text(outcomes));
  for (size_t r : {0, 1, 3}) CHECK(outcomes[r].starts_with(told("RANK_LOST: rank 2 has ended while rank ")), text(outcomes));
}

TEST_CARRIED("dist: abort ends every wait, with the first reason, and stays") {
  std::atomic<int> waiting{0};
  const Outcomes outcomes = run_ranks(3, [&](Comm& comm) {
    if (comm.rank() == 0) {
      while (waiting.load() < 2) std::this_thread::yield();
      comm.abort("rank 0 gives up");
      comm.abort("another reason");
    } else {
      ++waiting;
    }
    const std::string first = thrown_code([&] { barrier(comm); });
    if (first != "RANK_LOST") fail("BUG", "the wait ended with \"", first, "\"");
    barrier(comm);
  });
  CHECK(outcomes[0] == "RANK_LOST: rank 0 gives up", text(outcomes));
  for (const std::string& o : outcomes) CHECK(o.starts_with(told("RANK_LOST: rank 0 gives up")), text(outcomes));
}

TEST_CARRIED("dist: a message of another size than expected ends the job") {
  const Outcomes outcomes = run_ranks(2, [&](Comm& comm) {
    char bytes[8] = {};
    const Message there{1 - comm.rank(), bytes, comm.rank() == 0 ? size_t{8} : size_t{4}};
    char room[8] = {};
    const Message back{1 - comm.rank(), room, 4};
    comm.exchange({&there, 1}, {&back, 1});
    barrier(comm);   // a transport may hold what was sent: then the sender hears of it here
  });
  CHECK(outcomes[1].starts_with("BUG: rank 0 sends "), text(outcomes));
  CHECK(outcomes[0].starts_with(told("RANK_LOST: rank 0 sends 8 bytes")), text(outcomes));
}

}  // namespace
}  // namespace isr::test
