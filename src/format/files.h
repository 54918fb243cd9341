// The file helpers of core under the name that formats call them by.
#pragma once

#include "core/files.h"

namespace nibble::format {

using files::commit_file;
using files::map_file;
using files::read_text;
using files::release_pages;
using files::temporary_beside;
using files::throw_system_error;
using files::write_at;
using files::write_file;

}  // namespace nibble::format
