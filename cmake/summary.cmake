# What was found, said once at the end of configuring.
message(STATUS "tokensieve ${PROJECT_VERSION} (${CMAKE_BUILD_TYPE})")
message(STATUS "  CUDA backend (sm_90a): ${TOKENSIEVE_CUDA_FOUND} ${CMAKE_CUDA_COMPILER}")
message(STATUS "  OpenMP executor: ${OpenMP_CXX_FOUND}")
message(STATUS "  llama.cpp plug-in and CLI: ${TOKENSIEVE_LLAMA_FOUND} ${TOKENSIEVE_LLAMA_DIR}")
message(STATUS "  tests: ${TOKENSIEVE_TESTS}, fuzz: ${TOKENSIEVE_FUZZ}, "
               "sanitize: ${TOKENSIEVE_SANITIZE}")
