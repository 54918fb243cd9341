# nvcc without the CUDA language: custom commands, so that a machine without nvcc configures the same project.
#
#   nibble_find_cuda()
#     NIBBLE_NVCC               nvcc, or empty
#     NIBBLE_CUDA_INCLUDE_DIRS  the toolkit's headers (cuda_fp16.h), or empty: the emulation needs no more than these
#     nibble_cuda_headers       an interface target that puts them on the include path, where they were found
#     and what find_package(CUDAToolkit) gives: CUDA::cudart_static, CUDA::cublas, …
#   nibble_cuda_objects(<variable> [ARCHS 75 80 …] [PTX <newest>] SOURCES a.cu …)
#     Objects of the .cu files with code for each architecture, and PTX of one for devices newer than all of them.
#     <variable> lists them, for target_sources(<target> PRIVATE …) in the same folder.
#   nibble_cuda_ptx(<variable> ARCH 80 SOURCES a.cu …)
#     The PTX of each file: <build folder>/ptx/sm_80/a.ptx.

set(NIBBLE_CUDA_ARCHITECTURES 75 80 86 89 90 CACHE STRING "Architectures (sm_XX) that the CUDA kernels are compiled for")
mark_as_advanced(NIBBLE_CUDA_ARCHITECTURES)

function(nibble_find_cuda)
  find_package(CUDAToolkit QUIET GLOBAL)
  set(nvcc "${CUDAToolkit_NVCC_EXECUTABLE}")
  set(include_dirs "${CUDAToolkit_INCLUDE_DIRS}")
  if(NOT CUDAToolkit_FOUND)
    find_program(NIBBLE_NVCC_PROGRAM nvcc PATHS /usr/local/cuda/bin)
    find_path(NIBBLE_CUDA_INCLUDE_DIR cuda_fp16.h PATHS /usr/local/cuda/include)
    mark_as_advanced(NIBBLE_NVCC_PROGRAM NIBBLE_CUDA_INCLUDE_DIR)
    set(nvcc "${NIBBLE_NVCC_PROGRAM}")
    set(include_dirs "${NIBBLE_CUDA_INCLUDE_DIR}")
  endif()
  if(NOT nvcc OR NOT EXISTS "${nvcc}")
    set(nvcc "")
  endif()
  if(NOT include_dirs)
    set(include_dirs "")
  endif()
  # cublasGemmGroupedBatchedEx came with 12.5.
  find_file(runtime_header cuda_runtime_api.h PATHS ${include_dirs} NO_DEFAULT_PATH NO_CACHE)
  if(runtime_header)
    file(STRINGS ${runtime_header} version REGEX "define CUDART_VERSION +[0-9]+")
    string(REGEX MATCH "[0-9]+$" version "${version}")
    if(version LESS 12050)
      message(STATUS "CUDA at ${runtime_header} is ${version} (CUDART_VERSION); 12050 is the least: it is not used")
      set(nvcc "")
      set(include_dirs "")
    endif()
  endif()
  if(include_dirs AND NOT TARGET nibble_cuda_headers)
    add_library(nibble_cuda_headers INTERFACE)
    target_include_directories(nibble_cuda_headers SYSTEM INTERFACE ${include_dirs})
  endif()
  set(NIBBLE_NVCC "${nvcc}" PARENT_SCOPE)
  set(NIBBLE_CUDA_INCLUDE_DIRS "${include_dirs}" PARENT_SCOPE)
endfunction()

# The flags of one file. A product feeds a sum only in the matrix products, whose error has a bound; elsewhere no
# contraction, so that every unit computes what the CPU does. #554: a conversion of a view to itself is never used.
function(_nibble_cuda_flags variable source)
  get_filename_component(name ${source} NAME)
  set(flags -std=c++20 --expt-relaxed-constexpr -diag-suppress=554 -I${PROJECT_SOURCE_DIR} -I${PROJECT_SOURCE_DIR}/include)
  if(NOT name MATCHES "^(gemm|gemv)")
    list(APPEND flags --fmad=false)
  endif()
  set(${variable} ${flags} PARENT_SCOPE)
endfunction()

# One command for each source: <variable> lists <build folder>/<folder>/<name><suffix>. Folders of FLAGS' -I come before
# the project's own on the include path. DEPENDS: files that the build makes, and that must be there first.
function(_nibble_cuda_commands variable folder suffix)
  cmake_parse_arguments(PARSE_ARGV 3 arg "" "" "FLAGS;SOURCES;DEPENDS")
  set(outputs)
  foreach(source IN LISTS arg_SOURCES)
    get_filename_component(source ${source} ABSOLUTE)
    get_filename_component(name ${source} NAME_WE)
    set(output ${CMAKE_CURRENT_BINARY_DIR}/${folder}/${name}${suffix})
    _nibble_cuda_flags(flags ${source})
    set(command ${NIBBLE_NVCC} ${arg_FLAGS} ${flags} -MD -MT ${output} -MF ${output}.d -o ${output} ${source})
    file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/${folder})
    add_custom_command(OUTPUT ${output} COMMAND ${command} DEPENDS ${source} ${arg_DEPENDS} DEPFILE ${output}.d VERBATIM
      COMMENT "nvcc ${folder}/${name}${suffix}")
    list(APPEND outputs ${output})
  endforeach()
  set(${variable} ${outputs} PARENT_SCOPE)
endfunction()

function(nibble_cuda_objects variable)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "PTX" "ARCHS;SOURCES")
  if(NOT arg_ARCHS)
    set(arg_ARCHS ${NIBBLE_CUDA_ARCHITECTURES})
  endif()
  set(flags -c -O3 -Xcompiler -fPIC)
  # One PTX serves sm_80 to sm_89, the one that tests/cuda_static assembles: less work, and what is shipped is what is
  # tested.
  foreach(arch IN LISTS arg_ARCHS)
    set(ptx ${arch})
    if(arch MATCHES "^8[0-9]$")
      set(ptx 80)
    endif()
    list(APPEND flags -gencode=arch=compute_${ptx},code=sm_${arch})
  endforeach()
  if(NOT arg_PTX)
    list(GET arg_ARCHS -1 arg_PTX)
  endif()
  list(APPEND flags -gencode=arch=compute_${arg_PTX},code=compute_${arg_PTX})
  _nibble_cuda_commands(outputs cuda .o FLAGS ${flags} SOURCES ${arg_SOURCES})
  set_source_files_properties(${outputs} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  set(${variable} ${outputs} PARENT_SCOPE)
endfunction()

function(nibble_cuda_ptx variable)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "ARCH" "SOURCES")
  _nibble_cuda_commands(outputs ptx/sm_${arg_ARCH} .ptx FLAGS -ptx -arch=sm_${arg_ARCH} SOURCES ${arg_SOURCES})
  set(${variable} ${outputs} PARENT_SCOPE)
endfunction()
