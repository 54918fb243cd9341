// What config.json says of rotary embeddings.
#pragma once

#include "config_fields.h"
#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Both the classic style (rope_theta beside rope_scaling) and the newer one (all inside rope_parameters). Where a file
/// has both, rope_scaling holds and rope_parameters does not count, as in transformers. `name`: the file's, for errors.
void parse_rope(const Fields& fields, const std::string& name, const Architecture& architecture, Config& c);

}  // namespace nibble::inline NIBBLE_ABI::model
