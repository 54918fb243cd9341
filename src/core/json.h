// The one way in for JSON: every file and every text that somebody else may have written is parsed here.
//
// What it holds to, whatever the text is: nesting, size and the number of values are limited, so that neither the stack
// nor the memory ends (a document takes at most about 100 bytes a value); a key that stands twice in an object is an
// error, for one reader would take the first and another the last; the time is O(n log n).
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::json {

struct Limits {
  std::size_t depth = 64;                     ///< Objects and arrays within one another.
  std::size_t bytes = std::size_t{64} << 20;  ///< Of text.
  std::size_t values = std::size_t{8} << 20;  ///< Of all kinds, containers included.
};

/// Empties a value from the inside out. The destructor of nlohmann's values allocates, and ends the process where that
/// fails; that of an empty value does not.
template <class Json>
void dismantle(Json& value) noexcept {
  if (!value.is_structured()) return;
  for (auto& child : value) dismantle(child);
  value.clear();
}

/// Owns a document, and goes without a chance to fail.
template <class Json>
class Owned {
 public:
  explicit Owned(Json value = {}) noexcept : value_(std::move(value)) {}
  ~Owned() { dismantle(value_); }
  Owned(Owned&& other) noexcept : value_(std::exchange(other.value_, Json())) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;

  const Json& operator*() const { return value_; }
  Json& operator*() { return value_; }
  const Json* operator->() const { return &value_; }
  Json* operator->() { return &value_; }

 private:
  Json value_;
};

using Document = Owned<nlohmann::json>;
using OrderedDocument = Owned<nlohmann::ordered_json>;  ///< Objects keep the order of the text.

/// The value that `text` is. `name` is the file's, or says in another way where the text is from. Error{corrupt_file}
/// names it, the byte, and what stands there.
Document parse(std::string_view text, const std::string& name, const Limits& limits = {});
/// For what is written again, and where the order means something.
OrderedDocument parse_ordered(std::string_view text, const std::string& name, const Limits& limits = {});

}  // namespace nibble::inline NIBBLE_ABI::json
