# Every build option, once.
option(TOKENSIEVE_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(TOKENSIEVE_EXAMPLES "Build the examples" ${PROJECT_IS_TOP_LEVEL})
set(TOKENSIEVE_CLI ${PROJECT_IS_TOP_LEVEL} CACHE STRING
    "CLI (its llama.cpp commands need TOKENSIEVE_LLAMA): ON, OFF, AUTO (with CLI11 and fmt)")
option(TOKENSIEVE_INSTALL "Add install rules" ${PROJECT_IS_TOP_LEVEL})
option(BUILD_SHARED_LIBS "Build libtokensieve.so instead of libtokensieve.a" OFF)
option(TOKENSIEVE_OPENMP "Build the OpenMP executor and use it in the plug-in" ON)
option(TOKENSIEVE_WHOLE_PROGRAMS "Let ctest run test programs, not each of their tests" OFF)
option(TOKENSIEVE_FUZZ "Build the libFuzzer targets (clang)" OFF)
set(TOKENSIEVE_CUDA AUTO CACHE STRING
    "CUDA backend for Hopper: ON (required), OFF, AUTO (when nvcc is found)")
set(TOKENSIEVE_LLAMA AUTO CACHE STRING
    "llama.cpp plug-in and CLI: ON (required), OFF, AUTO (when TOKENSIEVE_LLAMA_DIR is set)")
set(TOKENSIEVE_LLAMA_DIR "" CACHE PATH "Source tree of llama.cpp (setup/fetch.py llama-source)")
set(TOKENSIEVE_LLAMA_BUILD "" CACHE PATH "Build tree of llama.cpp (setup/llama.sh)")
set(TOKENSIEVE_TEST_FILTER "" CACHE STRING
    "Build only GoogleTest programs with a test whose name matches this regular expression")
set(TOKENSIEVE_SANITIZE "" CACHE STRING "-fsanitize= list for everything, e.g. address,undefined")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(TOKENSIEVE_CCACHE ccache)
if(TOKENSIEVE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Paths below the source tree count as relative: clones and build folders share objects.
  set(launcher env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${TOKENSIEVE_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
endif()

# Flags of our own code; third-party headers are SYSTEM.
add_library(tokensieve_flags INTERFACE)
target_compile_options(tokensieve_flags INTERFACE
                       $<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Wall;-Wextra>
                       $<$<COMPILE_LANGUAGE:CXX>:-Wno-missing-field-initializers>)
if(TOKENSIEVE_SANITIZE)
  add_compile_options(-fsanitize=${TOKENSIEVE_SANITIZE} -fno-omit-frame-pointer -g)
  add_link_options(-fsanitize=${TOKENSIEVE_SANITIZE})
  if(TOKENSIEVE_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
endif()
if(TOKENSIEVE_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)  # coverage, everywhere
endif()
