# Fuzz targets of the readers of outside files, and the disk-fault shim of the tests.
#   cmake -DBUILD_FUZZ=ON ...
#   build/fuzz_json test/fuzz/corpus/json                 replays the corpus
#   build/fuzz_json --seconds 60 test/fuzz/corpus/json    then mutates it for a minute
# With clang the targets are libFuzzer's (-max_total_time=60 for --seconds 60), else test/fuzz/driver.cc drives them.
# To be included after native_tests is defined.
option(BUILD_FUZZ "fuzz targets under AddressSanitizer and UBSan" OFF)

# add_fuzz_target(NAME SOURCES...): test/fuzz/NAME.cc with those sources, compiled apart from the engine, since every
# object of the program needs the sanitizers.
function(add_fuzz_target name)
  set(sanitizers address,undefined)
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
    set(sanitizers ${sanitizers},fuzzer)
    set(driver "")
  else()
    set(driver test/fuzz/driver.cc)
  endif()
  add_executable(${name} test/fuzz/${name}.cc ${driver} ${ARGN})
  target_compile_options(${name} PRIVATE -O1 -g -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(${name} PRIVATE -fsanitize=${sanitizers})
endfunction()

if(BUILD_FUZZ)
  file(GLOB fuzz_io CONFIGURE_DEPENDS native/core/*.cc native/io/*.cc)
  add_fuzz_target(fuzz_json ${fuzz_io})
  add_fuzz_target(fuzz_safetensors ${fuzz_io})
  add_fuzz_target(fuzz_pickle ${fuzz_io})
endif()

if(BUILD_TESTING)
  enable_language(C)
  add_library(isr_faults SHARED test/faults/shim.c)
  # Preloaded into instrumented programs too, so it must not bring a sanitizer of its own.
  target_compile_options(isr_faults PRIVATE -std=c11 -fno-sanitize=all)
  target_link_options(isr_faults PRIVATE -fno-sanitize=all)
  target_link_libraries(isr_faults PRIVATE ${CMAKE_DL_LIBS})
  set_target_properties(isr_faults PROPERTIES C_VISIBILITY_PRESET default LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
  if(TARGET native_tests)
    add_dependencies(native_tests isr_faults)
  endif()
endif()
