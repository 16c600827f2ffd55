// simd.h at one level (simd_test.h).
#define ISR_LEVEL 3
#include "simd_test.h"
