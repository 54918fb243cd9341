// Texts put into the places of a template.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::text {

struct Filling {
  std::string_view place;  ///< Without its braces.
  std::string_view text;
};

/// `form` with the texts in the places "{place}". It is read once from its beginning to its end, so that a text which
/// itself holds "{input}" stays as it is.
std::string filled(std::string_view form, std::initializer_list<Filling> fillings);

}  // namespace nibble::inline NIBBLE_ABI::text
