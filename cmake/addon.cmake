# The Node-API addon: native/binding over the engine. build.cjs passes the header folders in NODE_API_INCLUDE; a bare
# cmake (IDE, ctest) asks node for the two packages, and goes without the addon where they are not installed.
if(NOT NODE_API_INCLUDE)
  find_program(NODE_EXECUTABLE node)
  if(NODE_EXECUTABLE)
    execute_process(
      COMMAND ${NODE_EXECUTABLE} -p "[require('node-api-headers').include_dir, require('node-addon-api').include_dir].join(';')"
      WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
      OUTPUT_VARIABLE NODE_API_INCLUDE OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()

if(NODE_API_INCLUDE)
  file(GLOB binding_sources CONFIGURE_DEPENDS native/binding/*.cc)
  # Compiled once for every addon: for this machine, for old ones (prebuild.cmake), and for the tests.
  add_library(binding OBJECT ${binding_sources})
  # The swallow define: without it worker.terminate() during a job aborts the process, since a promise can no longer be settled.
  target_compile_definitions(binding PUBLIC NAPI_VERSION=9 NODE_ADDON_API_CPP_EXCEPTIONS NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS)
  target_include_directories(binding SYSTEM PUBLIC ${NODE_API_INCLUDE})
  precompile(binding <napi.h>)
  function(add_addon name)
    add_library(${name} MODULE ${ARGN})
    target_link_libraries(${name} PRIVATE binding engine)
    # nodelete: pool threads outlive the environment that loaded the addon. exclude-libs: nothing of the engine is exported.
    # now: a binary that lacks a symbol fails to load, with a message, rather than in the middle of a job.
    target_link_options(${name} PRIVATE -Wl,-z,nodelete -Wl,-z,now -Wl,--exclude-libs,ALL)
    set_target_properties(${name} PROPERTIES
      LINKER_LANGUAGE CXX OUTPUT_NAME isr_dpo PREFIX "" SUFFIX ".node" INSTALL_RPATH "$ORIGIN" BUILD_WITH_INSTALL_RPATH ON)
  endfunction()
  add_addon(addon)
  if(BUILD_TESTING)   # whose device "cpu" is the far one (test/native/far.h); ISR_DPO_PREBUILD=build/far chooses it
    add_addon(far_addon test/native/far.cc test/native/interposed.cc test/native/far_addon.cc)
    set_target_properties(far_addon PROPERTIES
      EXCLUDE_FROM_ALL ON LIBRARY_OUTPUT_DIRECTORY ${PROJECT_SOURCE_DIR}/build/far/build/Release)
  endif()
else()
  message(STATUS "isr-dpo: no Node-API headers (npm ci has not run): building without the addon")
endif()
