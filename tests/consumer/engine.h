// A library built on nibble whose interface does not show it.
#pragma once

namespace engine {

/// How far the sum of a row, multiplied by ones in 4 bits, lies from the exact one.
float error_of_int4();

}  // namespace engine
