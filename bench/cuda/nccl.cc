// NCCL on one card: a communicator of one rank, whose messages go to itself; what more ranks would wait for cannot be seen here.
#include <atomic>
#include <chrono>
#include <thread>

#include "dist/nccl_library.h"
#include "dist/transports.h"
#include "sections.h"

#if defined(ISR_CUDA_EMULATED)
#include "nccl_double.h"
#endif

namespace isr::gpu {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::shared_ptr<SharedLink> meet(const std::shared_ptr<Device>& card) {
  const std::unique_ptr<OpenEnd> end = open_nccl({0, 1, "", card});
  return std::make_shared<SharedLink>(end->connect({end->address()}));
}

// Two messages of one group, and a third that goes across beside them: bytes and rate.
void to_itself(Comm& comm, size_t bytes) {
  Device& device = comm.device();
  std::vector<char> sent(bytes), got(bytes);
  for (size_t i = 0; i < bytes; ++i) sent[i] = static_cast<char>(i * 31 % 251);
  const Buffer out(device, bytes), in(device, bytes), beside(device, bytes);
  device.upload(out.data(), sent.data(), bytes);
  const size_t half = bytes / 2;
  const Message sends[] = {{0, out.data(), half}, {0, out.data<char>() + half, bytes - half}};
  const Message receives[] = {{0, in.data(), half}, {0, in.data<char>() + half, bytes - half}};
  const Message whole{0, out.data(), bytes}, there{0, beside.data(), bytes};
  comm.exchange(sends, receives);
  comm.finish();
  const double before = comm.seconds();
  const uint64_t group = comm.start({&whole, 1}, {&there, 1});
  comm.wait(group);
  comm.finish();
  const double seconds = comm.seconds() - before;
  bool equal = true;
  for (const Buffer* b : {&in, &beside}) {
    device.download(got.data(), b->data(), bytes);
    equal = equal && got == sent;
  }
  Line(concat("NCCL: ", bytes, " bytes to itself")).flag("ok", equal && seconds > 0).number("GB_per_second", static_cast<double>(bytes) / seconds * 1e-9);
}

void give_up(const std::shared_ptr<Device>& card, size_t bytes) {
  const auto link = meet(card);
  const std::unique_ptr<Comm> comm = make_comm(link, *card);
  const Buffer out(*card, bytes), in(*card, bytes);
  const Message send{0, out.data(), bytes}, receive{0, in.data(), bytes};
  const auto start = Clock::now();
  std::thread([&] { link->link->abort("the check gives up"); }).join();
  std::string code = "none";
  try {
    for (int i = 0; i < 1000; ++i) comm->exchange({&send, 1}, {&receive, 1});
    comm->finish();
  } catch (const Error& e) {
    code = e.code;
  }
  card->synchronize();
  Line("NCCL: an abort").flag("ok", code == "RANK_LOST").text("ends_with", code).number("seconds", since(start));
}

}  // namespace

void nccl(const Options& o) {
#if defined(ISR_CUDA_EMULATED)
  test::use_nccl_double();
#endif
  if (const std::string missing = nccl_missing(); !missing.empty()) {
    Line("NCCL").text("skipped", missing);
    return;
  }
  const DeviceKind* const kind = find_kind("cuda");
  const std::shared_ptr<Device> card = kind->memory(0);
  attempt(*card, "NCCL: a communicator", [&] {
    const auto start = Clock::now();
    const auto link = meet(card);
    const double seconds = since(start);
    Line("NCCL: a communicator").flag("ok", true).text("library", nccl::installed()).text("card", card->card_address()).number("seconds", seconds);
    const std::unique_ptr<Comm> comm = make_comm(link, *card);
    for (const size_t bytes : {size_t{3}, size_t{1} << 16, o.small ? size_t{1} << 18 : size_t{1} << 30})
      attempt(*card, "NCCL: messages", [&] { to_itself(*comm, bytes); });
    const std::unique_ptr<Comm> host = make_comm(link, host_device());
    attempt(*card, "NCCL: messages of the host", [&] {
      std::vector<char> sent(1000, 'x'), got(1000);
      const Message send{0, sent.data(), sent.size()}, receive{0, got.data(), got.size()};
      host->exchange({&send, 1}, {&receive, 1});
      Line("NCCL: messages of the host").flag("ok", got == sent);
    });
  });
  attempt(*card, "NCCL: an abort", [&] { give_up(card, o.small ? size_t{1} << 16 : size_t{1} << 28); });
  attempt(*card, "NCCL: a communicator after an abort", [&] {
    to_itself(*make_comm(meet(card), *card), 1 << 16);
  });
}

}  // namespace isr::gpu
