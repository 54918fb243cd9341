#include "fingerprint.h"

#include <algorithm>
#include <span>
#include <string_view>

#include "calibrate_plan.h"
#include "gguf_directory.h"
#include "nibble/format/gguf.h"

namespace nibble::inline NIBBLE_ABI::model {

std::string fingerprint(const std::filesystem::path& from, const Checkpoint& checkpoint) {
  Hash hash;
  hash.add(config_json(from));
  const auto add = [&](std::string_view name, std::string_view type, const auto& shape, const Buffer& bytes) {
    hash.add(name);
    hash.add(type);
    hash.add(std::as_bytes(std::span(shape)));
    const std::size_t end = std::min<std::size_t>(bytes.size(), 4096);
    hash.add({bytes.data(), end});
    hash.add({bytes.data() + bytes.size() - end, end});
  };
  if (is_gguf(from)) {
    const GgufFile file(from);
    for (const GgufTensor& t : file.tensors()) add(t.name, t.type_name(), t.shape, file.data(t));
  } else {
    for (const TensorInfo& t : checkpoint.tensors()) add(t.name, name_of(t.type), t.shape, checkpoint.data(t.name));
  }
  return hash.text();
}

}  // namespace nibble::inline NIBBLE_ABI::model
