# The standard headers are parsed once for all files of a target: they take more than half of the time of most compilations. A file
# still includes what it uses: test/native-includes.test.ts holds it to that, and -DPRECOMPILE=OFF builds without.
option(PRECOMPILE "precompiled standard headers" ON)

# precompile(TARGET [HEADER ...]): HEADERs too.
function(precompile target)
  if(PRECOMPILE)
    target_precompile_headers(${target} PRIVATE
      <algorithm> <array> <atomic> <cmath> <condition_variable> <cstdint> <cstring> <deque> <functional> <map> <memory> <mutex>
      <optional> <span> <string> <string_view> <thread> <utility> <vector> ${ARGN})
  endif()
endfunction()

# precompile_together(HEADER TARGET ...): for targets of the same options that differ in a macro which no standard header reads.
function(precompile_together header)
  if(PRECOMPILE)
    file(CONFIGURE OUTPUT precompiled.cc CONTENT "// CMake has no precompiled header without a source.\n")
    add_library(precompiled OBJECT ${CMAKE_CURRENT_BINARY_DIR}/precompiled.cc)
    precompile(precompiled ${header})
    foreach(target ${ARGN})
      target_precompile_headers(${target} REUSE_FROM precompiled)
    endforeach()
  endif()
endfunction()
