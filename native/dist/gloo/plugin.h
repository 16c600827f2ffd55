// What the engine and its Gloo plugin say to each other: plain C, so that neither needs the other's C++ library, and the engine
// loads and runs where there is no Gloo.
#pragma once
#include <stddef.h>

#define ISR_GLOO_VERSION 1

typedef struct { int peer; void* data; size_t bytes; } IsrGlooMessage;

enum IsrGlooEnd { ISR_GLOO_DONE, ISR_GLOO_LOST, ISR_GLOO_ABORTED, ISR_GLOO_MISMATCH };

// Texts of errors are cut at `n` bytes. A rank is what open() gives; null or an end other than DONE: `error` says why.
typedef struct {
  int version;
  void* (*open)(int rank, int size, const char* host, char* error, size_t n);
  const char* (*address)(void* rank);
  enum IsrGlooEnd (*connect)(void* rank, const char* const* addresses, char* error, size_t n);
  // Messages of host memory to and from other ranks, as HostLink::exchange.
  enum IsrGlooEnd (*exchange)(void* rank, const IsrGlooMessage* sends, size_t n_sends, const IsrGlooMessage* receives, size_t n_receives, char* error, size_t n);
  void (*abort)(void* rank);   // from any thread: ends a wait, now or at once when it begins
  void (*close)(void* rank);
} IsrGloo;

#ifdef __cplusplus
extern "C" {
#endif
__attribute__((visibility("default"))) const IsrGloo* isr_dpo_gloo(void);
#ifdef __cplusplus
}
#endif
