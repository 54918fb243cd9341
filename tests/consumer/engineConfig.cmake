include(CMakeFindDependencyMacro)
find_dependency(nibble)
include(${CMAKE_CURRENT_LIST_DIR}/engineTargets.cmake)
