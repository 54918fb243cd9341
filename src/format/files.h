// The file helpers of core under the name that formats call them by.
#pragma once

#include "core/files.h"
#include "core/pending.h"

namespace nibble::inline NIBBLE_ABI::format {

using files::map_file;
using files::read_text;
using files::release_pages;
using files::throw_system_error;
using files::write_at;
using files::write_file;

}  // namespace nibble::inline NIBBLE_ABI::format
