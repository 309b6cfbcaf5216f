# Flags for the build of llama.cpp, by CMAKE_PROJECT_INCLUDE. Its arithmetic (ggml) is compiled as its
# authors do; what only reads files, renders templates or answers a port need not be fast, and is
# compiled in half the time. mtmd (pictures and sound) is linked by the server, and never called here.
function(compile_quickly)
  foreach(target llama llama-common llama-common-base cpp-httplib server-context
                 llama-server-impl llama-quantize-impl llama-server llama-quantize)
    if(TARGET ${target})
      target_compile_options(${target} PRIVATE -O1)
    endif()
  endforeach()
  if(TARGET mtmd)
    target_compile_options(mtmd PRIVATE -O0)
  endif()
endfunction()
if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
  cmake_language(DEFER CALL compile_quickly)
endif()
