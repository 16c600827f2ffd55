#include "dist/transports.h"

namespace isr {

const std::vector<Transport>& transports() {
  static const std::vector<Transport> all = {
      {"shared", "", open_shared_memory},
      {"gloo", gloo_missing(), open_gloo},
  };
  return all;
}

}  // namespace isr
