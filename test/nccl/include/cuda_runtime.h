// What nccl.h needs of CUDA's header.
#pragma once
#include <stddef.h>
#define CUDART_VERSION 10000   // so that no types of later ones are asked for
typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
