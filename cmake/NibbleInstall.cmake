# Install rules and the CMake package. find_package(nibble CONFIG) gives nibble::headers, nibble::nibble and, where they
# were built and what they need is found, nibble::header_only (Eigen), nibble::text, nibble::models and nibble::engine
# (ICU) and nibble::cuda (CUDA's toolkit); COMPONENTS header_only, text, models, engine or cuda insist on them. COMPONENTS
# headers, alone, gives nibble::headers and looks for nothing; with header_only it looks for Eigen and threads.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/nibble)
# nibble_install_libraries(<export> <target>…): what is built on something of its own has an export of its own, so that
# who wants no more than nibble::nibble need not have it.
function(nibble_install_libraries export)
  install(TARGETS ${ARGN} EXPORT ${export}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT ${export} NAMESPACE nibble:: DESTINATION ${package_dir})
endfunction()

nibble_install_libraries(nibbleHeadersTargets nibble_headers)
nibble_install_libraries(nibbleHeaderOnlyTargets nibble_header_only)
nibble_install_libraries(nibbleTargets nibble)
set(NIBBLE_HAS_ENGINE OFF)
if(TARGET nibble_engine)
  set(NIBBLE_HAS_ENGINE ON)
  nibble_install_libraries(nibbleEngineTargets nibble_text nibble_models nibble_engine)
endif()
set(NIBBLE_HAS_CUDA OFF)
if(TARGET nibble_cuda)
  set(NIBBLE_HAS_CUDA ON)
  nibble_install_libraries(nibbleCudaTargets nibble_cuda)
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/nibble DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/cmake/THIRD_PARTY_NOTICES.md
  DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/nibble)
if(TARGET nibble_cli)
  install(TARGETS nibble_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
# Shared libraries are found where they lie to each other and to the tool, in a tree that was moved, too.
file(RELATIVE_PATH bin_to_lib /p/${CMAKE_INSTALL_BINDIR} /p/${CMAKE_INSTALL_LIBDIR})
foreach(target nibble nibble_text nibble_models nibble_engine nibble_cuda)
  if(TARGET ${target})
    set_property(TARGET ${target} APPEND PROPERTY INSTALL_RPATH $ORIGIN)
  endif()
endforeach()
if(TARGET nibble_cli)
  set_property(TARGET nibble_cli APPEND PROPERTY INSTALL_RPATH $ORIGIN/${bin_to_lib})
endif()

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/nibbleConfig.cmake.in ${PROJECT_BINARY_DIR}/nibbleConfig.cmake
  INSTALL_DESTINATION ${package_dir})
# Before 1.0 each minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/nibbleConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/nibbleConfig.cmake ${PROJECT_BINARY_DIR}/nibbleConfigVersion.cmake
  DESTINATION ${package_dir})
# The prefix is found from the file itself, so an installed tree can be moved.
file(RELATIVE_PATH NIBBLE_PC_UP /p/${CMAKE_INSTALL_LIBDIR}/pkgconfig /p)
set(packages nibble nibble-headers nibble-header-only)
if(NIBBLE_HAS_CUDA)
  list(APPEND packages nibble-cuda)
  get_target_property(NIBBLE_CUDA_LIBDIR CUDA::cublas IMPORTED_LOCATION)
  get_filename_component(NIBBLE_CUDA_LIBDIR ${NIBBLE_CUDA_LIBDIR} DIRECTORY)
endif()
# nibble_pc_room(<room> <what it is> <what it needs>): those that differ in no more.
function(nibble_pc_room NIBBLE_PC_ROOM NIBBLE_PC_WHAT NIBBLE_PC_REQUIRES)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/nibble-room.pc.in ${PROJECT_BINARY_DIR}/nibble-${NIBBLE_PC_ROOM}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/nibble-${NIBBLE_PC_ROOM}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endfunction()
if(NIBBLE_HAS_ENGINE)
  nibble_pc_room(text "tokenizers" "nibble = ${PROJECT_VERSION}, icu-i18n, icu-uc")
  nibble_pc_room(models "models that are read and written" "nibble-text = ${PROJECT_VERSION}, nibble = ${PROJECT_VERSION}")
  nibble_pc_room(engine "the reference engine" "nibble-models = ${PROJECT_VERSION}")
endif()
foreach(package IN LISTS packages)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/${package}.pc.in ${PROJECT_BINARY_DIR}/${package}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${package}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()
