#include "bench.h"

int main(int argc, char** argv) {
  for (const auto& c : isr::bench::cases()) {
    if (argc > 1 && c.name.find(argv[1]) == std::string::npos) continue;
    std::printf("## %s\n", c.name.c_str());
    std::fflush(stdout);
    c.run();
  }
  return 0;
}
