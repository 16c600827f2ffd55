# -DBUILD_EMULATION=ON, target cuda_tests: the CUDA backend as C++ on fibers of the host (test/cuda/fibers.h), and the op table of the
# native tests over it. It needs no GPU and nothing of CUDA's.
option(BUILD_EMULATION "the CUDA backend without a GPU, and its tests" OFF)

if(BUILD_EMULATION)
  file(GLOB cuda_sources CONFIGURE_DEPENDS native/kernels/cuda/*.cu)
  file(GLOB emulation_sources CONFIGURE_DEPENDS test/cuda/*.cc)
  set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX)
  add_executable(cuda_tests EXCLUDE_FROM_ALL ${cuda_sources} ${emulation_sources} test/native/main.cc test/native/backend_test.cc test/native/op_table.cc
                 test/native/far.cc test/native/interposed.cc)
  target_compile_definitions(cuda_tests PRIVATE ISR_CUDA_EMULATED ISR_TEST_FOLDER="${CMAKE_CURRENT_SOURCE_DIR}/test")
  target_compile_options(cuda_tests PRIVATE -Wno-unknown-pragmas $<IF:$<CONFIG:Debug>,-Og,-O1>)
  target_include_directories(cuda_tests SYSTEM PRIVATE test/cuda/include)
  target_include_directories(cuda_tests PRIVATE test/cuda test/native)
  target_link_libraries(cuda_tests engine ${CMAKE_DL_LIBS})
endif()
