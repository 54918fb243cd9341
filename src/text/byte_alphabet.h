// How byte-level vocabularies write bytes: as visible characters, so that every token is text (Radford et al. 2019).
#pragma once

#include <string>
#include <string_view>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::text {

/// The character of a byte, UTF-8.
std::string written_byte(unsigned char byte);
/// Those of all bytes of a string.
std::string written_bytes(std::string_view bytes);
/// The bytes that a written string stands for; the string itself if one of its characters stands for no byte.
std::string bytes_of_written(std::string_view written);

}  // namespace nibble::inline NIBBLE_ABI::text
