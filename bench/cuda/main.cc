// gpu_check SECTION [--small]. Without arguments it names the sections. Status 1: something failed; the line says what.
#include <cstring>

#include "sections.h"
#if defined(ISR_CUDA_EMULATED)
#include "emulated.h"
#endif

namespace isr::gpu {

const std::vector<Section>& sections() {
  static const std::vector<Section> all{{"limits", limits},         {"ops", ops},           {"once", once},         {"attention", attention},
                                        {"model-134m", model_134m}, {"model-1b", model_1b}, {"model-7b", model_7b},
                                        {"nccl", nccl}};
  return all;
}

Line& Line::raw(const char* key, const std::string& value) {
  if (!fields_.empty()) fields_ += ", ";
  fields_ += concat("\"", key, "\": ", value);
  return *this;
}

Line& Line::text(const char* key, const std::string& value) {
  std::string quoted = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return raw(key, quoted + '"');
}

Line& Line::number(const char* key, double value) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", value);
  return raw(key, std::isfinite(value) ? digits : "null");
}

namespace {

int run(const Section& section, const Options& o) {
  try {
    section.run(o);
    return 0;
  } catch (const Error& e) {
    Line(section.name).flag("ok", false).text("code", e.code).text("message", e.what()).text("hint", e.hint);
  } catch (const std::exception& e) {
    Line(section.name).flag("ok", false).text("message", e.what());
  }
  return 1;
}

}  // namespace
}  // namespace isr::gpu

int main(int argc, char** argv) {
  using namespace isr::gpu;
#if defined(ISR_CUDA_EMULATED)
  isr::device_kinds().push_back(isr::test::emulated_kind());
#endif
  const Options o{argc > 2 && std::strcmp(argv[2], "--small") == 0};
  for (const Section& section : sections()) {
    if (argc < 2) std::printf("%s\n", section.name);
    else if (std::strcmp(argv[1], section.name) == 0) return run(section, o);
  }
  if (argc < 2) return 0;
  std::fprintf(stderr, "gpu_check has no section %s; without arguments it names those that it has\n", argv[1]);
  return 2;
}
