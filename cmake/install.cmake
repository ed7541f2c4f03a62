# What `cmake --install` puts where. Layout: docs/design.md.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
if(NOT TOKENSIEVE_INSTALL)
  return()
endif()

install(TARGETS tokensieve EXPORT tokensieve-targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/tokensieve ${PROJECT_BINARY_DIR}/include/tokensieve
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")

# find_package(tokensieve)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/tokensieve)
install(EXPORT tokensieve-targets NAMESPACE tokensieve:: DESTINATION ${package_dir})
# A static library leaves the (static) CUDA runtime to whoever links it.
set(TOKENSIEVE_NEEDS_CUDART OFF)
set(TOKENSIEVE_PC_CUDA "")
if(TOKENSIEVE_CUDA_FOUND AND NOT BUILD_SHARED_LIBS)
  set(TOKENSIEVE_NEEDS_CUDART ON)
  set(TOKENSIEVE_PC_CUDA " ${CUDA_cudart_static_LIBRARY} -ldl -lrt")
endif()
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/tokensieve-config.cmake.in
                              ${PROJECT_BINARY_DIR}/tokensieve-config.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/tokensieve-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)  # 0.x: a minor version may break
install(FILES ${PROJECT_BINARY_DIR}/tokensieve-config.cmake
              ${PROJECT_BINARY_DIR}/tokensieve-config-version.cmake DESTINATION ${package_dir})

# pkg-config tokensieve; its prefix is relative, so that the tree can be moved.
file(RELATIVE_PATH TOKENSIEVE_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${CMAKE_CURRENT_LIST_DIR}/tokensieve.pc.in ${PROJECT_BINARY_DIR}/tokensieve.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/tokensieve.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# Data.
foreach(folder profiles models)
  if(EXISTS ${PROJECT_SOURCE_DIR}/${folder})
    install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder}
            DESTINATION ${CMAKE_INSTALL_DATADIR}/tokensieve)
  endif()
endforeach()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/data/eval
        DESTINATION ${CMAKE_INSTALL_DATADIR}/tokensieve/data
        FILES_MATCHING PATTERN "*.txt" PATTERN "*.md")
if(EXISTS ${PROJECT_SOURCE_DIR}/LICENSE)
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
endif()

# The CLI, the llama.cpp plug-in and the library that preloads it; the CLI looks for them in
# ../lib/tokensieve.
if(TARGET tokensieve_cli)
  set_target_properties(tokensieve_cli PROPERTIES
    INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}" INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS tokensieve_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
foreach(plugin tokensieve_ggml tokensieve_preload)
  if(TARGET ${plugin})
    install(TARGETS ${plugin} LIBRARY DESTINATION lib/tokensieve)
  endif()
endforeach()
if(TARGET tokensieve_ggml)
  install(FILES ${PROJECT_SOURCE_DIR}/adapters/ggml/tokensieve_ggml.h
          DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/tokensieve)
endif()
