#include "pending_file.h"

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::format {

void PendingTensors::declare(const std::string& name, std::size_t offset, std::size_t bytes) {
  if (!pending_.emplace(name, Place{offset, bytes}).second)
    throw Error(ErrorCode::invalid_argument, "two tensors are named '" + name + "'");
}

void PendingTensors::write(const std::string& name, std::span<const std::byte> bytes) {
  const auto it = pending_.find(name);
  if (it == pending_.end())
    throw Error(ErrorCode::not_found, "tensor '" + name + "' was not declared, or is written already");
  if (bytes.size() != it->second.bytes)
    throw Error(ErrorCode::shape_mismatch, "tensor '" + name + "' was declared with " +
                                               std::to_string(it->second.bytes) + " bytes and given " +
                                               std::to_string(bytes.size()));
  file_.write(bytes, it->second.offset);
  pending_.erase(it);
}

void PendingTensors::finish() {
  if (!pending_.empty())
    throw Error(ErrorCode::invalid_argument, "tensor '" + pending_.begin()->first + "' was declared but never written");
  file_.commit();
}

}  // namespace nibble::inline NIBBLE_ABI::format
