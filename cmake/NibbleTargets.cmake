# What every target of the project shares: the language and the warnings.
function(nibble_configure_target target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wconversion $<$<BOOL:${NIBBLE_WERROR}>:-Werror>)
endfunction()
