# -DBUILD_EMULATION=ON: the CUDA backend as C++ on fibers of the host (test/cuda/fibers.h); it needs no GPU and nothing of CUDA's.
# cuda_tests: the op table of the native tests over it. cuda_addon: an addon whose models live there; ISR_DPO_PREBUILD=build/emulated
# chooses it.
option(BUILD_EMULATION "the CUDA backend without a GPU, and its tests" OFF)

if(BUILD_EMULATION)
  file(GLOB cuda_sources CONFIGURE_DEPENDS native/kernels/cuda/*.cu)
  set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX)
  set(emulation_sources test/cuda/cublas_lt_double.cc test/cuda/fibers.cc test/cuda/matrix.cc test/cuda/nccl_double.cc test/cuda/runtime.cc)
  add_library(emulated_cuda OBJECT EXCLUDE_FROM_ALL ${cuda_sources} ${emulation_sources})
  target_compile_definitions(emulated_cuda PUBLIC ISR_CUDA_EMULATED)
  target_compile_options(emulated_cuda PUBLIC -Wno-unknown-pragmas PRIVATE $<IF:$<CONFIG:Debug>,-Og,-O1>)
  target_include_directories(emulated_cuda SYSTEM PUBLIC test/cuda/include)
  target_include_directories(emulated_cuda PUBLIC test/cuda)
  precompile(emulated_cuda)

  add_executable(cuda_tests EXCLUDE_FROM_ALL test/cuda/emulation_test.cc test/cuda/graph_test.cc test/cuda/model_test.cc test/cuda/nccl_test.cc test/native/main.cc test/native/backend_test.cc test/native/op_check.cc test/native/op_table.cc test/native/plan_test.cc
                 test/native/far.cc test/native/interposed.cc)
  target_compile_definitions(cuda_tests PRIVATE ISR_TEST_FOLDER="${CMAKE_CURRENT_SOURCE_DIR}/test")
  target_compile_options(cuda_tests PRIVATE $<IF:$<CONFIG:Debug>,-Og,-O1>)
  target_include_directories(cuda_tests PRIVATE test/native)
  target_link_libraries(cuda_tests emulated_cuda engine ${CMAKE_DL_LIBS})
  precompile(cuda_tests)
  add_gpu_check(gpu_check_emulated)
  target_link_libraries(gpu_check_emulated emulated_cuda engine ${CMAKE_DL_LIBS})
  if(TARGET addon)
    add_addon(cuda_addon test/cuda/emulated_addon.cc)
    target_link_libraries(cuda_addon PRIVATE emulated_cuda ${CMAKE_DL_LIBS})
    set_target_properties(cuda_addon PROPERTIES
      EXCLUDE_FROM_ALL ON LIBRARY_OUTPUT_DIRECTORY ${PROJECT_SOURCE_DIR}/build/emulated/build/Release)
  endif()
endif()
