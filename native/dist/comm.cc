#include "dist/comm.h"

#include <cstring>
#include <exception>
#include <new>
#include <utility>

#include "core/error.h"
#include "core/memory.h"

namespace isr {
namespace {

// Bytes of every rank, which may differ in number: their numbers first.
std::vector<std::string> gather_bytes(Comm& comm, std::span<const char> mine) {
  const int size = comm.size();
  if (size == 1) return {std::string(mine.begin(), mine.end())};
  Device& device = comm.device();
  const auto resident = [&](size_t bytes) { return Buffer(device, bytes > 0 ? bytes : 1); };
  const auto everyone = [&](const Buffer& out, size_t bytes, const Buffer& in, std::span<const size_t> cuts) {
    std::vector<Message> sends, receives;
    for (int r = 0; r < size; ++r) {
      const auto at = static_cast<size_t>(r);
      sends.push_back({r, out.data(), bytes});
      receives.push_back({r, in.data<char>() + cuts[at], cuts[at + 1] - cuts[at]});
    }
    comm.exchange(sends, receives);
  };
  const uint64_t length = mine.size();
  std::vector<size_t> cuts;
  for (int r = 0; r <= size; ++r) cuts.push_back(static_cast<size_t>(r) * sizeof length);
  const Buffer my_length = resident(sizeof length), all_lengths = resident(cuts.back());
  device.upload(my_length.data(), &length, sizeof length);
  everyone(my_length, sizeof length, all_lengths, cuts);
  comm.finish();
  std::vector<uint64_t> lengths(static_cast<size_t>(size));
  device.download(lengths.data(), all_lengths.data(), cuts.back());

  cuts.assign(1, 0);
  for (const uint64_t n : lengths) cuts.push_back(cuts.back() + n);
  const Buffer out = resident(mine.size()), in = resident(cuts.back());
  device.upload(out.data(), mine.data(), mine.size());
  everyone(out, mine.size(), in, cuts);
  comm.finish();
  std::string all(cuts.back(), '\0');
  device.download(all.data(), in.data(), all.size());
  std::vector<std::string> parts;
  for (size_t r = 0; r + 1 < cuts.size(); ++r) parts.push_back(all.substr(cuts[r], cuts[r + 1] - cuts[r]));
  return parts;
}

}  // namespace

std::unique_ptr<Comm> make_single_rank(Device& device) {
  Device* const one = &device;
  return std::move(make_thread_ranks({&one, 1}).front());
}

std::vector<std::string> all_gather(Comm& comm, const std::string& mine) { return gather_bytes(comm, mine); }

std::vector<std::vector<double>> all_gather(Comm& comm, std::span<const double> mine) {
  std::vector<std::vector<double>> all;
  for (const std::string& bytes : gather_bytes(comm, {reinterpret_cast<const char*>(mine.data()), mine.size_bytes()})) {
    ISR_ASSERT(bytes.size() % sizeof(double) == 0, "a rank tells ", bytes.size(), " bytes where the others tell numbers");
    std::vector<double>& values = all.emplace_back(bytes.size() / sizeof(double));
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  }
  return all;
}

void all_reduce(Comm& comm, std::span<double> values) {
  const std::vector<std::vector<double>> all = all_gather(comm, values);
  for (size_t r = 0; r < all.size(); ++r) {
    ISR_ASSERT(all[r].size() == values.size(), "rank ", r, " adds ", all[r].size(), " values, rank ", comm.rank(), " ", values.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] = r == 0 ? all[r][i] : values[i] + all[r][i];
  }
}

void barrier(Comm& comm) { gather_bytes(comm, {}); }

void agree(Comm& comm, const std::function<void()>& work) {
  if (comm.size() == 1) return work();
  std::exception_ptr mine;
  std::string told;   // code, message and hint; empty: all is well
  const auto tell = [&](const std::string& code, const std::string& message, const std::string& hint) {
    mine = std::current_exception();
    told = code + '\0' + message + '\0' + hint;
  };
  try {
    work();
  } catch (const Error& e) {
    if (e.code == "RANK_LOST") throw;   // nobody listens any more
    tell(e.code, e.what(), e.hint);
  } catch (const Cancelled&) {
    tell("RANK_LOST", "its work was cancelled", "start all ranks again to resume");
  } catch (const std::bad_alloc&) {
    tell("OUT_OF_MEMORY", "the system refused memory", "");
  } catch (const std::exception& e) {
    tell("BUG", e.what(), "");
  }
  const std::vector<std::string> all = all_gather(comm, told);
  if (mine) std::rethrow_exception(mine);
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].empty()) continue;
    const size_t first = all[r].find('\0'), second = all[r].find('\0', first + 1);
    throw Error(all[r].substr(0, first), concat("rank ", r, ": ", all[r].substr(first + 1, second - first - 1)), all[r].substr(second + 1));
  }
}

void or_abort(Comm& comm, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& e) {
    comm.abort(concat("rank ", comm.rank(), ": ", e.what()));   // the first reason stays
    throw;
  }
}

void broadcast(Comm& comm, void* data, size_t bytes, int root) {
  std::vector<Message> sends, receives;
  if (comm.rank() != root) receives.push_back({root, data, bytes});
  else
    for (int r = 0; r < comm.size(); ++r)
      if (r != root) sends.push_back({r, data, bytes});
  comm.exchange(sends, receives);
}

void reduce_scatter(Comm& comm, std::span<float> x, std::span<const size_t> cuts) {
  ISR_ASSERT(&comm.device() == &host_device(), "sums of host arrays");
  const auto me = static_cast<size_t>(comm.rank());
  const size_t n = cuts[me + 1] - cuts[me];
  std::vector<std::vector<float>> parts(static_cast<size_t>(comm.size()), std::vector<float>(n));
  std::vector<Message> sends, receives;
  for (size_t r = 0; r < parts.size(); ++r) {
    sends.push_back({static_cast<int>(r), x.data() + cuts[r], (cuts[r + 1] - cuts[r]) * sizeof(float)});
    receives.push_back({static_cast<int>(r), parts[r].data(), n * sizeof(float)});
  }
  comm.exchange(sends, receives);
  for (size_t i = 0; i < n; ++i) {
    float sum = parts[0][i];
    for (size_t r = 1; r < parts.size(); ++r) sum += parts[r][i];
    x[cuts[me] + i] = sum;
  }
}

void all_gather(Comm& comm, void* data, std::span<const size_t> cuts) {
  const int me = comm.rank();
  const auto part = [&](int r) {
    const auto at = static_cast<size_t>(r);
    return Message{r, static_cast<char*>(data) + cuts[at], cuts[at + 1] - cuts[at]};
  };
  std::vector<Message> sends, receives;
  for (int r = 0; r < comm.size(); ++r) {
    if (r == me) continue;
    sends.push_back({r, part(me).data, part(me).bytes});
    receives.push_back(part(r));
  }
  comm.exchange(sends, receives);
}

}  // namespace isr
