# What every target of the project shares: the language and the warnings.
function(nibble_configure_target target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
  # GCC 12 sees an overlap in "text" + string where there is none (its bug 105651).
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wconversion $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
    $<$<BOOL:${NIBBLE_WERROR}>:-Werror>)
endfunction()

# What every library of the project shares: the version in its name, and which symbols others see. A static library's
# are hidden, so that a shared library that contains nibble does not hand its copy to the rest of the process; a shared
# one exports nibble's own names, versioned.
configure_file(${PROJECT_SOURCE_DIR}/cmake/exports.map.in ${PROJECT_BINARY_DIR}/exports.map @ONLY)
function(nibble_configure_library target)
  nibble_configure_target(${target})
  set_target_properties(${target} PROPERTIES VERSION ${PROJECT_VERSION}
    SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})  # 0.x: each minor version is another interface
  if(NIBBLE_BUILD_FUZZ)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)  # its branches guide the fuzzers
  endif()
  get_target_property(type ${target} TYPE)
  if(NOT type STREQUAL SHARED_LIBRARY)
    set_target_properties(${target} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  elseif(CMAKE_SYSTEM_NAME STREQUAL Linux)
    target_link_options(${target} PRIVATE LINKER:--version-script=${PROJECT_BINARY_DIR}/exports.map)
    set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS ${PROJECT_BINARY_DIR}/exports.map)
  endif()
endfunction()

# The inline namespaces of nibble/core/abi.h are the version's.
file(STRINGS ${PROJECT_SOURCE_DIR}/include/nibble/core/abi.h abi REGEX "^#define NIBBLE_ABI ")
file(STRINGS ${PROJECT_SOURCE_DIR}/include/nibble/core/impl/header_only.h header_abi REGEX "^#define NIBBLE_ABI ")
foreach(line IN LISTS abi header_abi)
  if(NOT line MATCHES "^#define NIBBLE_ABI v${PROJECT_VERSION_MAJOR}_${PROJECT_VERSION_MINOR}(_headers_[a-z0-9]+)?$")
    message(FATAL_ERROR "a header says '${line}', and the project's version is ${PROJECT_VERSION}")
  endif()
endforeach()
