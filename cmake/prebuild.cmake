# -DPREBUILD=ON: the addon as it is shipped, which loads on every machine with glibc 2.28 or newer. libstdc++ is linked in,
# so that the machine's own may be older; libgcc_s is not, since every Node brings it and the unwinder has to be one with
# Node's. PREBUILD_STUBS: a folder of symbol-only libraries that make a link on a newer glibc bind to old versions of symbols
# (scripts/prebuilds.mjs writes them after a first link has told which are needed).
option(PREBUILD "link the addon for old machines" OFF)
set(PREBUILD_STUBS "" CACHE PATH "folder of libraries that name old versions of glibc's symbols")

if(PREBUILD AND TARGET addon)
  target_sources(addon PRIVATE cmake/glibc_compat.cc)
  set_source_files_properties(cmake/glibc_compat.cc PROPERTIES COMPILE_OPTIONS "-fno-builtin")
  target_link_options(addon PRIVATE -static-libstdc++)
  if(PREBUILD_STUBS)
    file(GLOB stubs ${PREBUILD_STUBS}/lib*.so)
    list(JOIN stubs ";" stub_files)
    target_link_options(addon PRIVATE -Wl,--no-as-needed ${stub_files} -Wl,--as-needed)
    set_property(TARGET addon APPEND PROPERTY LINK_DEPENDS ${stubs})
  endif()
endif()
