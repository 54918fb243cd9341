// What an importance matrix has to do with a model that is written by it.
#pragma once

#include <cstddef>
#include <string>

#include "nibble/core/error.h"
#include "nibble/format/imatrix.h"

namespace nibble::inline NIBBLE_ABI::model {

/// What a report says where `known` of `all` matrices that are encoded are in an importance matrix; empty: all are.
/// Error{invalid_argument} for none: it is another model's.
inline std::string importance_note(const ImportanceMatrix& importance, std::size_t known, std::size_t all) {
  if (known == 0)
    throw Error(ErrorCode::invalid_argument,
                "the importance matrix knows none of the model's linear layers" +
                    (importance.entries().empty()
                         ? std::string(": it is empty")
                         : " ('" + importance.entries().begin()->first + "' is in it): it is another model's"));
  if (known == all) return {};
  return std::to_string(all - known) + " of " + std::to_string(all) +
         " linear layers are not in the importance matrix: of theirs all errors count alike";
}

}  // namespace nibble::inline NIBBLE_ABI::model
