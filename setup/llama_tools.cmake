# For setup/llama.sh, as CMAKE_PROJECT_INCLUDE: half of llama.cpp's build is code of its programs
# (argument parsing, chat templates, HTTP) that no measurement sees, so it is optimised less. libllama
# and ggml, where all the time of a prompt is spent, keep llama.cpp's own flags.
function(tokensieve_relax_programs)
  foreach(target llama-common llama-common-base cpp-httplib llama-bench-impl llama-completion-impl
          llama-perplexity-impl)
    if(TARGET ${target})
      target_compile_options(${target} PRIVATE -O1)
    endif()
  endforeach()
endfunction()

if(CMAKE_CURRENT_SOURCE_DIR STREQUAL CMAKE_SOURCE_DIR)
  cmake_language(DEFER CALL tokensieve_relax_programs)
endif()
