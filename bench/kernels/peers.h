// Libraries that are timed beside ours in one process, where the build found them.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace nibble::peers {

struct Peer {
  std::string name;          ///< <library>/<weights>x<activations>
  std::size_t weight_bytes;  ///< Of one weight.
  /// Makes weights (copies of at least `bytes` in all), input and output, and returns one product of them; each call
  /// takes the next copy. One thread.
  std::function<std::function<void()>(std::size_t rows, std::size_t cols, std::size_t tokens, std::size_t bytes)>
      prepare;
};

/// Those of this build; none is an ordinary answer.
std::vector<Peer> all();

}  // namespace nibble::peers
