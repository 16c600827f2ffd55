# -DPREBUILD=ON, target prebuild: the addon as it is shipped, which loads on every machine with glibc 2.28 or newer. libstdc++
# is linked in, so that the machine's own may be older; libgcc_s is not, since every Node brings it and the unwinder has to be
# one with Node's. PREBUILD_STUBS: a folder of symbol-only libraries that make a link on a newer glibc bind to old versions of symbols
# (scripts/prebuilds.mjs writes them after a first link has told which are needed).
option(PREBUILD "a target for the addon that old machines load" OFF)
set(PREBUILD_STUBS "" CACHE PATH "folder of libraries that name old versions of glibc's symbols")

if(PREBUILD AND TARGET addon)
  add_addon(prebuild cmake/glibc_compat.cc)
  set_source_files_properties(cmake/glibc_compat.cc PROPERTIES COMPILE_OPTIONS "-fno-builtin")
  set_target_properties(prebuild PROPERTIES
    EXCLUDE_FROM_ALL ON LIBRARY_OUTPUT_DIRECTORY ${PROJECT_SOURCE_DIR}/build/prebuild)
  target_link_options(prebuild PRIVATE -static-libstdc++)
  if(PREBUILD_STUBS)
    file(GLOB stubs ${PREBUILD_STUBS}/lib*.so)
    list(JOIN stubs ";" stub_files)
    target_link_options(prebuild PRIVATE -Wl,--no-as-needed ${stub_files} -Wl,--as-needed)
    set_property(TARGET prebuild APPEND PROPERTY LINK_DEPENDS ${stubs})
  endif()
endif()
