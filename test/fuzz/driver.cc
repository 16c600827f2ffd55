// Drives a libFuzzer target without libFuzzer:  TARGET [--seconds N] [--seed S] FILE_OR_FOLDER...
// Runs every file; with --seconds then mutates them at random for N seconds. An input that crashes the target, takes
// more than a second or throws is written to ./crash-<seed>.bin and the exit status is not 0.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*)());

namespace {

using Bytes = std::vector<uint8_t>;
using Random = std::mt19937_64;
constexpr size_t kMaxInput = size_t{1} << 16;

const Bytes* current = nullptr;
char crash_path[64];

void keep_crash() {
  if (!current) return;
  const int fd = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
  const ssize_t n = fd < 0 ? -1 : write(fd, current->data(), current->size());
  std::fprintf(stderr, "input of %zu bytes %s %s\n", current->size(), n < 0 ? "could not be kept in" : "kept in", crash_path);
}

void on_abort(int) {
  keep_crash();
  _exit(1);
}

void run(const Bytes& input) {
  current = &input;
  const auto start = std::chrono::steady_clock::now();
  LLVMFuzzerTestOneInput(input.data(), input.size());
  if (std::chrono::steady_clock::now() - start > std::chrono::seconds(1)) {
    std::fprintf(stderr, "slower than a second\n");
    std::abort();
  }
  current = nullptr;
}

void load(const std::string& path, std::vector<Bytes>& corpus) {
  struct stat s;
  if (stat(path.c_str(), &s) != 0) {
    std::fprintf(stderr, "%s: %s\n", path.c_str(), std::strerror(errno));
    std::exit(2);
  }
  if (!S_ISDIR(s.st_mode)) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    return;
  }
  std::vector<std::string> names;
  DIR* folder = opendir(path.c_str());
  while (const dirent* e = readdir(folder))
    if (e->d_name[0] != '.') names.push_back(path + "/" + e->d_name);
  closedir(folder);
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) load(name, corpus);
}

// Pieces that the formats under test are made of, and numbers at their edges.
const char* const kTokens[] = {"{", "}", "[", "]", ",", ":", "\"", "\\u0000", "\\ud800", "\\udc00", "null", "true", "0", "-1", "1e400", "0.5",
                               "9007199254740993", "9223372036854775807", "9223372036854775808", "18446744073709551615", "4194305",
                               "211106198978564", "\"dtype\"", "\"F32\"", "\"shape\"", "\"data_offsets\"", "\"__metadata__\"", "[[[[[[[["};

void splice(Bytes& to, const uint8_t* from, size_t n, size_t at, size_t replaced) {
  const Bytes piece(from, from + n);
  to.erase(to.begin() + static_cast<ptrdiff_t>(at), to.begin() + static_cast<ptrdiff_t>(at + replaced));
  to.insert(to.begin() + static_cast<ptrdiff_t>(at), piece.begin(), piece.end());
}

void mutate(Bytes& x, const std::vector<Bytes>& corpus, Random& random) {
  const auto below = [&](size_t n) { return n == 0 ? size_t{0} : static_cast<size_t>(random() % n); };
  const size_t at = below(x.size() + 1), length = std::min(x.size() - at, below(1 + below(64)));
  switch (below(8)) {
    case 0: if (at < x.size()) x[at] ^= static_cast<uint8_t>(1u << below(8)); break;
    case 1: if (at < x.size()) x[at] = static_cast<uint8_t>(random()); break;
    case 2: splice(x, nullptr, 0, at, length); break;
    case 3: splice(x, x.data() + at, length, below(x.size() + 1), 0); break;
    case 4:
    case 5: {
      const char* token = kTokens[below(std::size(kTokens))];
      splice(x, reinterpret_cast<const uint8_t*>(token), std::strlen(token), at, below(2) ? std::min(length, size_t{8}) : 0);
      break;
    }
    case 6: {  // a digit run becomes another
      size_t i = at;
      while (i < x.size() && (x[i] < '0' || x[i] > '9')) ++i;
      if (i < x.size()) x[i] = static_cast<uint8_t>('0' + below(10));
      break;
    }
    default: {
      const Bytes& other = corpus[below(corpus.size())];
      const size_t from = below(other.size() + 1), n = std::min(other.size() - from, below(256));
      splice(x, other.data() + from, n, at, length);
    }
  }
  if (x.size() > kMaxInput) x.resize(kMaxInput);
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 0;
  uint64_t seed = 1;
  std::vector<Bytes> corpus;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--seconds" && i + 1 < argc) seconds = std::atof(argv[++i]);
    else if (arg == "--seed" && i + 1 < argc) seed = std::strtoull(argv[++i], nullptr, 10);
    else load(arg, corpus);
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "usage: %s [--seconds N] [--seed S] FILE_OR_FOLDER...\n", argv[0]);
    return 2;
  }
  std::snprintf(crash_path, sizeof crash_path, "crash-%llu.bin", static_cast<unsigned long long>(seed));
  std::signal(SIGABRT, on_abort);
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(keep_crash);
  for (const Bytes& input : corpus) run(input);
  Random random(seed);
  long executions = 0;
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  for (; seconds > 0 && elapsed() < seconds; ++executions) {
    Bytes input = corpus[random() % corpus.size()];
    for (uint64_t n = 1 + random() % 6; n > 0; --n) mutate(input, corpus, random);
    run(input);
  }
  std::printf("%zu files replayed, %ld mutated inputs, seed %llu\n", corpus.size(), executions, static_cast<unsigned long long>(seed));
  return 0;
}
