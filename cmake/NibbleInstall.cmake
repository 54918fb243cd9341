# Install rules and the CMake package: find_package(nibble CONFIG) gives nibble::nibble, with the component llama also
# nibble::llama, and nibble::cuda where it was built.
include(CMakePackageConfigHelpers)

set(installed nibble)
if(TARGET nibble_llama)
  list(APPEND installed nibble_llama)
endif()
if(TARGET nibble_cuda)
  list(APPEND installed nibble_cuda)
endif()
install(TARGETS ${installed} EXPORT nibbleTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT nibbleTargets NAMESPACE nibble:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/nibble)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/nibble DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET nibble_cli)
  install(TARGETS nibble_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

set(NIBBLE_HAS_CUDA OFF)
if(TARGET nibble_cuda)
  set(NIBBLE_HAS_CUDA ON)
endif()
set(NIBBLE_HAS_LLAMA OFF)
if(TARGET nibble_llama)
  set(NIBBLE_HAS_LLAMA ON)
endif()
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/nibbleConfig.cmake.in ${PROJECT_BINARY_DIR}/nibbleConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/nibble)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/nibbleConfigVersion.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/nibbleConfig.cmake ${PROJECT_BINARY_DIR}/nibbleConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/nibble)
# The prefix is found from the file itself, so an installed tree can be moved.
file(RELATIVE_PATH NIBBLE_PC_UP /p/${CMAKE_INSTALL_LIBDIR}/pkgconfig /p)
configure_file(${PROJECT_SOURCE_DIR}/cmake/nibble.pc.in ${PROJECT_BINARY_DIR}/nibble.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/nibble.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
