// Makes an addon whose models live far away, for the TypeScript tests.
#include "far.h"

static const bool away = [] {
  isr::test::put_models_far_away();
  return true;
}();
