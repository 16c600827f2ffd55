// Which of a family's names a checkpoint uses, and which of its tensors are not computed with.
#include "models/loader.h"

namespace isr {
namespace {

bool starts_with(const std::string& s, const std::string& prefix) { return !prefix.empty() && s.compare(0, prefix.size(), prefix) == 0; }
bool ends_with(const std::string& s, const std::string& end) { return s.size() >= end.size() && s.compare(s.size() - end.size(), end.size(), end) == 0; }

template <class Choose>
Names names_by(const Family& family, Choose&& choose) {
  Names names;
  for (size_t i = 0; i < kRoots; ++i)
    if (!family.roots[i].prefixes.empty()) names.prefixes[i] = choose(family.roots[i]);
  return names;
}

}  // namespace

Names default_names(const Family& family) {
  return names_by(family, [](const Spellings& s) { return s.prefixes.front(); });
}

Names names_in(const Checkpoint& file, const Family& family) {
  return names_by(family, [&](const Spellings& s) {
    for (const std::string& prefix : s.prefixes)
      if (file.find(prefix + s.probe)) return prefix;
    return s.prefixes.front();
  });
}

bool ignored_tensor(const std::string& name, const Names& names, const Config& config) {
  if (buffer_tensor(name)) return true;
  if (config.model.decoder.tied && name == names.head()) return true;   // a copy of the embeddings
  for (const std::string& part : config.family->unread)
    if (ends_with(name, part)) return true;
  return starts_with(name, names[Root::ImageTower]) || starts_with(name, names[Root::VideoTower]);
}

}  // namespace isr
