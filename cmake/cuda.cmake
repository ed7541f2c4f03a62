# The CUDA backend: compiled when nvcc is here (TOKENSIEVE_CUDA). Sets TOKENSIEVE_CUDA_FOUND.
#
# Everything is compiled for Hopper alone, and the library's kernels go through nvcc_gate.py, which
# fails on spills, stack frames and serialised wgmma. The runtime is linked statically and the
# driver library not at all, so that the result also loads where there is no GPU.
set(TOKENSIEVE_CUDA_FOUND OFF)
if(TOKENSIEVE_CUDA STREQUAL "OFF" OR NOT EXISTS ${PROJECT_SOURCE_DIR}/src/cuda/CMakeLists.txt)
  return()
endif()

include(CheckLanguage)
set(CMAKE_CUDA_ARCHITECTURES OFF)  # the flags below say it; CMake has no notion of sm_90a code only
check_language(CUDA)
find_package(Python3 COMPONENTS Interpreter)
if(NOT CMAKE_CUDA_COMPILER OR NOT Python3_Interpreter_FOUND)
  if(TOKENSIEVE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "TOKENSIEVE_CUDA=ON needs nvcc (CUDA 12.4 or newer; set CMAKE_CUDA_COMPILER "
            "or CUDACXX) and python3 (which reads its log). Use -DTOKENSIEVE_CUDA=OFF to go without.")
  endif()
  return()
endif()
enable_language(CUDA)
find_package(CUDAToolkit 12.4 REQUIRED)

set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
if(TOKENSIEVE_CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${TOKENSIEVE_CCACHE})
endif()
# Kernels are optimised in every build type: -G or -O0 code would not fit the registers.
set(TOKENSIEVE_CUDA_FLAGS "SHELL:-gencode=arch=compute_90a,code=sm_90a" -O3 -lineinfo
    --expt-relaxed-constexpr "SHELL:-Xcompiler -Wall")
# nvcc_gate.py reads what -v says; it runs outside ccache, which replays the log.
function(tokensieve_gate_kernels target)
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xptxas -v>")
  set_target_properties(${target} PROPERTIES CUDA_COMPILER_LAUNCHER
    "${Python3_EXECUTABLE};${PROJECT_SOURCE_DIR}/cmake/nvcc_gate.py;${TOKENSIEVE_CCACHE}")
endfunction()
set(TOKENSIEVE_CUDA_FOUND ON)
