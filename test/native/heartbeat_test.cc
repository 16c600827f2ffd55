// Heartbeats between threads that stand for ranks: who is heard, what is told of the work, and who is not let in.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

#include "check.h"
#include "core/progress.h"
#include "dist/heartbeat.h"

namespace isr::test {
namespace {

const std::string kKey(64, 'k');

bool eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 2000 && !holds(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return holds();
}

TEST("heartbeat: a job without signs of progress is told, one that waits for ranks is told apart, and no job is neither") {
  const auto leader = lead_heartbeat(2, kKey, "127.0.0.1");
  const auto member = join_heartbeat(1, kKey, "127.0.0.1", leader->port());
  CHECK(eventually([&] { return leader->signs()[1].heard && member->signs()[0].heard; }), "both sides hear each other");
  CHECK(leader->signs()[1].stuck == 0, "nothing runs");
  {
    const JobRuns job;
    CHECK(eventually([&] { return leader->signs()[1].stuck > 1; }), "a job that stands still");
    CHECK(!leader->signs()[1].waiting, "and waits for nobody");
    {
      const WaitsForRanks waits;
      CHECK(eventually([&] { return leader->signs()[1].waiting; }), "it waits for other ranks");
      std::this_thread::sleep_for(std::chrono::milliseconds(2500));
    }
    sign_of_progress();
    CHECK(eventually([&] { return leader->signs()[1].stuck < 1; }), "it goes on");
    CHECK(leader->signs()[1].patience == 0, "a wait for others is no measure of its own work: ", leader->signs()[1].patience);
    std::this_thread::sleep_for(std::chrono::milliseconds(2500));
    sign_of_progress();
    CHECK(eventually([&] { return leader->signs()[1].patience > 5; }), "five times the time between two signs: ", leader->signs()[1].patience);
  }
  CHECK(eventually([&] { return leader->signs()[1].stuck == 0; }), "its end");
}

TEST("heartbeat: strangers do not keep a rank out") {
  const auto leader = lead_heartbeat(2, kKey, "127.0.0.1");
  sockaddr_in there{};
  there.sin_family = AF_INET, there.sin_port = htons(static_cast<uint16_t>(leader->port())), there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::vector<int> strangers;
  for (int i = 0; i < 200; ++i) {
    strangers.push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK(connect(strangers.back(), reinterpret_cast<const sockaddr*>(&there), sizeof there) == 0, "stranger ", i);
    if (i % 2 == 0) CHECK(send(strangers.back(), "isrbeat1 and so on", 18, MSG_NOSIGNAL) == 18, "what is no greeting");
  }
  const auto member = join_heartbeat(1, kKey, "127.0.0.1", leader->port());
  CHECK(eventually([&] { return leader->signs()[1].heard && member->signs()[0].heard; }), "the rank is heard");
  for (const int s : strangers) close(s);
}

}  // namespace
}  // namespace isr::test
