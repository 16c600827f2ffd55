# -DWITH_CUDA=ON: the engine has the device "cuda": the kernels of native/kernels/cuda as code for sm_80 and sm_90 and as PTX for what
# came after, with CUDA's runtime linked in. It needs nvcc of CUDA 12 (on the PATH, or named by CUDACXX) and no driver, and what is
# built loads without one: the runtime opens the driver at its first call, cuBLASLt is opened at the first model.
option(WITH_CUDA "the device cuda" OFF)

if(WITH_CUDA)
  if(BUILD_EMULATION)
    message(FATAL_ERROR "isr-dpo: WITH_CUDA and BUILD_EMULATION are two builds of the same kernels: use a folder for each")
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit 12 REQUIRED)
  file(GLOB cuda_kernel_sources CONFIGURE_DEPENDS native/kernels/cuda/*.cu)
  add_library(cuda_kernels STATIC ${cuda_kernel_sources})
  set_target_properties(cuda_kernels PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_ARCHITECTURES "80-real;90" CUDA_VISIBILITY_PRESET hidden)
  target_compile_options(cuda_kernels PRIVATE -lineinfo)
  target_link_libraries(cuda_kernels PUBLIC CUDA::cudart_static ${CMAKE_DL_LIBS})
  target_link_libraries(cuda_kernels PRIVATE engine)   # each needs the other
  target_link_libraries(engine PUBLIC cuda_kernels)
  set_source_files_properties(native/kernels/devices.cc PROPERTIES COMPILE_DEFINITIONS ISR_CUDA)
endif()
