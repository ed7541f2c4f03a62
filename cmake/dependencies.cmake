# Third-party libraries. The core needs Highway's headers and nlohmann-json's; everything else is
# needed only by what is switched on.
find_path(HIGHWAY_INCLUDE_DIR hwy/highway.h REQUIRED)
add_library(tokensieve_highway INTERFACE)  # header-only use: no libhwy at run time
target_include_directories(tokensieve_highway SYSTEM INTERFACE ${HIGHWAY_INCLUDE_DIR})
# Its debug assertions call hwy::Abort of libhwy, and the library never aborts.
target_compile_definitions(tokensieve_highway INTERFACE HWY_IS_DEBUG_BUILD=0)

find_package(nlohmann_json 3.10 REQUIRED)
find_package(Threads REQUIRED)
if(TOKENSIEVE_OPENMP)
  find_package(OpenMP COMPONENTS CXX)
endif()
if(TOKENSIEVE_TESTS AND CMAKE_CROSSCOMPILING)
  # An installed library is this machine's own; Debian's package brings the source too.
  set(TOKENSIEVE_GTEST_DIR /usr/src/googletest CACHE PATH "Source tree of GoogleTest")
  set(gtest ${TOKENSIEVE_GTEST_DIR}/googletest)
  set(gmock ${TOKENSIEVE_GTEST_DIR}/googlemock)
  add_library(tokensieve_gtest STATIC EXCLUDE_FROM_ALL
              ${gtest}/src/gtest-all.cc ${gmock}/src/gmock-all.cc ${gmock}/src/gmock_main.cc)
  target_compile_options(tokensieve_gtest PRIVATE -O1)
  target_include_directories(tokensieve_gtest PRIVATE ${gtest} ${gmock})
  target_include_directories(tokensieve_gtest SYSTEM PUBLIC ${gtest}/include ${gmock}/include)
  add_library(GTest::gmock ALIAS tokensieve_gtest)
  add_library(GTest::gtest_main ALIAS tokensieve_gtest)
elseif(TOKENSIEVE_TESTS)
  find_package(GTest 1.12 REQUIRED)
endif()

# llama.cpp: the plug-in needs its source tree (ggml-backend-impl.h is not installed), the CLI a
# build of it too.
set(TOKENSIEVE_LLAMA_FOUND OFF)
if(NOT TOKENSIEVE_LLAMA STREQUAL "OFF")
  if(EXISTS "${TOKENSIEVE_LLAMA_DIR}/ggml/src/ggml-backend-impl.h" AND
     EXISTS "${TOKENSIEVE_LLAMA_BUILD}/bin/libllama.so")
    set(TOKENSIEVE_LLAMA_FOUND ON)
  elseif(TOKENSIEVE_LLAMA STREQUAL "ON")
    message(FATAL_ERROR
      "TOKENSIEVE_LLAMA=ON, but TOKENSIEVE_LLAMA_DIR=\"${TOKENSIEVE_LLAMA_DIR}\" holds no "
      "llama.cpp source or TOKENSIEVE_LLAMA_BUILD=\"${TOKENSIEVE_LLAMA_BUILD}\" no "
      "bin/libllama.so. Run `make build`, or setup/fetch.py llama-source and setup/llama.sh, or "
      "use -DTOKENSIEVE_LLAMA=OFF.")
  endif()
endif()
if(TOKENSIEVE_CLI STREQUAL "AUTO")
  find_package(CLI11 QUIET)
  find_package(fmt QUIET)
  set(TOKENSIEVE_CLI OFF)
  if(CLI11_FOUND AND fmt_FOUND)
    set(TOKENSIEVE_CLI ON)
  endif()
elseif(TOKENSIEVE_CLI)
  find_package(CLI11 REQUIRED)
  find_package(fmt REQUIRED)
endif()
if(TOKENSIEVE_LLAMA_FOUND)
  # Headers of ggml and llama.cpp, for the plug-in (which links neither).
  add_library(tokensieve_ggml_headers INTERFACE)
  target_include_directories(tokensieve_ggml_headers SYSTEM INTERFACE
    ${TOKENSIEVE_LLAMA_DIR}/ggml/include ${TOKENSIEVE_LLAMA_DIR}/ggml/src)
  # libllama and ggml, for the CLI.
  add_library(tokensieve_llama INTERFACE)
  target_include_directories(tokensieve_llama SYSTEM INTERFACE
    ${TOKENSIEVE_LLAMA_DIR}/include ${TOKENSIEVE_LLAMA_DIR}/ggml/include)
  target_link_directories(tokensieve_llama INTERFACE ${TOKENSIEVE_LLAMA_BUILD}/bin)
  target_link_libraries(tokensieve_llama INTERFACE llama ggml ggml-base)
  target_link_options(tokensieve_llama INTERFACE -Wl,-rpath,${TOKENSIEVE_LLAMA_BUILD}/bin)
endif()
