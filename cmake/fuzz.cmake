# Fuzz targets of the readers of outside files, and the disk-fault shim of the tests.
#   cmake -DBUILD_FUZZ=ON ...
#   build/fuzz_json test/fuzz/corpus/json                 replays the corpus
#   build/fuzz_json --seconds 60 test/fuzz/corpus/json    then mutates it for a minute
# With clang the targets are libFuzzer's (-max_total_time=60 for --seconds 60), else test/fuzz/driver.cc drives them.
# To be included after native_tests is defined.
option(BUILD_FUZZ "fuzz targets under AddressSanitizer and UBSan" OFF)

# add_fuzz_target(NAME): test/fuzz/NAME.cc with the readers. Every object of the program needs the sanitizers: the engine has
# them where SANITIZE says so (libFuzzer needs its own besides), else the readers are compiled once more, for all targets.
if(BUILD_FUZZ)
  set(fuzz_sanitizers address,undefined)
  set(fuzz_driver test/fuzz/driver.cc)
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
    set(fuzz_sanitizers ${fuzz_sanitizers},fuzzer)
    set(fuzz_driver "")
  endif()
  set(fuzz_options -O1 -g1 -fsanitize=${fuzz_sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  if(SANITIZE STREQUAL fuzz_sanitizers)
    set(fuzz_readers engine)
  else()
    file(GLOB reader_sources CONFIGURE_DEPENDS native/core/*.cc native/io/*.cc)
    add_library(fuzz_readers STATIC ${reader_sources})
    target_compile_options(fuzz_readers PRIVATE ${fuzz_options})
    target_link_libraries(fuzz_readers PUBLIC Threads::Threads)
    set(fuzz_readers fuzz_readers)
  endif()
endif()

function(add_fuzz_target name)
  add_executable(${name} test/fuzz/${name}.cc ${fuzz_driver})
  target_compile_options(${name} PRIVATE ${fuzz_options})
  target_link_options(${name} PRIVATE -fsanitize=${fuzz_sanitizers})
  target_link_libraries(${name} ${fuzz_readers})
endfunction()

if(BUILD_FUZZ)
  add_fuzz_target(fuzz_json)
  add_fuzz_target(fuzz_safetensors)
  add_fuzz_target(fuzz_pickle)
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
