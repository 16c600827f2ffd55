# -DWITH_CUDA=ON: the engine has the device "cuda": the kernels of native/kernels/cuda as code for sm_80 and sm_90 and as PTX for what
# came after, with CUDA's runtime linked in. It needs nvcc of CUDA 12 (on the PATH, or named by CUDACXX) and no driver, and what is
# built loads without one: the runtime opens the driver at its first call, cuBLASLt is opened at the first model.
option(WITH_CUDA "the device cuda" OFF)

# What scripts/gpu/check runs on a card, or on the emulated one.
function(add_gpu_check name)
  file(GLOB sources CONFIGURE_DEPENDS bench/cuda/*.cc)
  add_executable(${name} EXCLUDE_FROM_ALL ${sources} test/native/op_check.cc test/native/op_table.cc)
  target_include_directories(${name} PRIVATE test/native)
  target_compile_options(${name} PRIVATE -O1)
  precompile(${name})
endfunction()

if(WITH_CUDA)
  if(BUILD_EMULATION)
    message(FATAL_ERROR "isr-dpo: WITH_CUDA and BUILD_EMULATION are two builds of the same kernels: use a folder for each")
  endif()
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12)
    message(FATAL_ERROR "isr-dpo: WITH_CUDA needs nvcc 12 or newer, but ${CMAKE_CUDA_COMPILER} is ${CMAKE_CUDA_COMPILER_VERSION}: name another in CUDACXX")
  endif()
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)   # CMake 3.25 does not know that nvcc has C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  file(GLOB cuda_kernel_sources CONFIGURE_DEPENDS native/kernels/cuda/*.cu)
  add_library(cuda_kernels STATIC ${cuda_kernel_sources})
  set_target_properties(cuda_kernels PROPERTIES CUDA_ARCHITECTURES "80-real;90" CUDA_VISIBILITY_PRESET hidden CUDA_RUNTIME_LIBRARY Static)
  target_compile_options(cuda_kernels PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo -Xfatbin=-compress-all -Xptxas=--warn-on-spills>)
  target_link_libraries(cuda_kernels PUBLIC ${CMAKE_DL_LIBS})
  target_link_libraries(cuda_kernels PRIVATE engine)   # each needs the other
  target_link_libraries(engine PUBLIC cuda_kernels)
  add_gpu_check(gpu_check)
  target_link_libraries(gpu_check engine -static-libstdc++)
  set_source_files_properties(native/kernels/devices.cc PROPERTIES COMPILE_DEFINITIONS ISR_CUDA)
endif()
