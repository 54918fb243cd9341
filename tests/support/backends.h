// The backends that this machine can run.
#pragma once

#include <vector>

#include "nibble/backend/backend.h"

namespace nibble::testing_support {

inline std::vector<const Backend*> available() {
  std::vector<const Backend*> out;
  for (const Backend* b : backends())
    if (b->available()) out.push_back(b);
  return out;
}

}  // namespace nibble::testing_support
