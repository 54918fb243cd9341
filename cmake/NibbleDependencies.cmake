# Packages by find_package first, then FetchContent with a pinned hash.
include(FetchContent)

# nibble_dependency(<package> <target> <url> <sha256>): <target> exists afterwards.
macro(nibble_dependency package target url sha256)
  if(NOT TARGET ${target})
    find_package(${package} QUIET)
  endif()
  if(NOT TARGET ${target})
    message(STATUS "nibble: ${package} is not installed; fetching ${url}")
    FetchContent_Declare(${package} URL ${url} URL_HASH SHA256=${sha256})
    FetchContent_MakeAvailable(${package})
  endif()
endmacro()

# nibble_share(<target>): an imported target of this folder is one of whoever adds the project as a subdirectory, too, so
# that nibble::header_only can hand it on.
macro(nibble_share target)
  get_target_property(nibble_imported ${target} IMPORTED)
  if(nibble_imported)
    set_target_properties(${target} PROPERTIES IMPORTED_GLOBAL TRUE)
  endif()
endmacro()

macro(nibble_find_core_dependencies)
  if(NOT TARGET Threads::Threads)
    find_package(Threads REQUIRED)
    nibble_share(Threads::Threads)
  endif()
  nibble_dependency(nlohmann_json nlohmann_json::nlohmann_json
    https://github.com/nlohmann/json/releases/download/v3.11.2/json.tar.xz
    8c4b26bf4b422252e13f332bc5e388ec0ab5c3443d24399acb675e68278d341f)
  # Eigen builds its own tests when added as a project, so only its headers are used when it is fetched.
  if(NOT TARGET Eigen3::Eigen)
    find_package(Eigen3 3.4 QUIET NO_MODULE)
    if(TARGET Eigen3::Eigen)
      nibble_share(Eigen3::Eigen)
    endif()
  endif()
  if(NOT TARGET Eigen3::Eigen)
    FetchContent_Declare(Eigen3 URL https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
      URL_HASH SHA256=8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72)
    FetchContent_GetProperties(Eigen3)
    if(NOT eigen3_POPULATED)
      FetchContent_Populate(Eigen3)
    endif()
    add_library(nibble_eigen INTERFACE)
    target_include_directories(nibble_eigen SYSTEM INTERFACE ${eigen3_SOURCE_DIR})
    add_library(Eigen3::Eigen ALIAS nibble_eigen)
  endif()
endmacro()
