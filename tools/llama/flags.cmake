# Flags for the build of llama.cpp, by CMAKE_PROJECT_INCLUDE. Its arithmetic (ggml) is compiled as its
# authors do; what only reads files, renders templates or answers a port need not be fast, and is
# compiled in a third of the time: less optimised, and several files at once, since each of them
# would make the same templates anew. mtmd (pictures and sound) is linked by the server, and never
# called here.
function(compile_quickly)
  foreach(target llama llama-common llama-common-base cpp-httplib server-context
                 llama-server-impl llama-quantize-impl llama-server llama-quantize)
    if(TARGET ${target})
      target_compile_options(${target} PRIVATE -O1)
    endif()
  endforeach()
  if(TARGET llama-common)
    set_target_properties(llama-common PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 12)
    get_target_property(folder llama-common SOURCE_DIR)
    # It specialises templates that its neighbours would have made by then.
    set_source_files_properties(${folder}/json.cpp TARGET_DIRECTORY llama-common
                                PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  endif()
  if(TARGET mtmd)
    target_compile_options(mtmd PRIVATE -O0)
    set_target_properties(mtmd PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
    get_target_property(files mtmd SOURCES)
    list(FILTER files INCLUDE REGEX "^models/")
    get_target_property(folder mtmd SOURCE_DIR)
    list(TRANSFORM files PREPEND ${folder}/)
    set_source_files_properties(${files} TARGET_DIRECTORY mtmd PROPERTIES UNITY_GROUP models)
  endif()
endfunction()
if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
  cmake_language(DEFER CALL compile_quickly)
endif()
