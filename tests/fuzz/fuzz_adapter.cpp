// A GGUF file, or "<adapter_config.json>\0<adapter_model.safetensors>": an adapter that is the same when it is written
// and read again, or nibble::Error.
#include <algorithm>

#include "input.h"
#include "nibble/core/error.h"
#include "nibble/model/adapter.h"

namespace {

using nibble::model::Adapter;

void same_again(const Adapter& adapter, const nibble::fuzz::Folder& folder) {
  const auto copy = folder.path() / "copy";
  std::error_code ignored;
  std::filesystem::remove_all(copy, ignored);
  try {
    adapter.save(copy);
  } catch (const nibble::Error& e) {
    if (e.code() == nibble::ErrorCode::unsupported) return;  // names that mean something in a pattern
    __builtin_trap();
  }
  const Adapter again = Adapter::load(copy);
  if (again.layers.size() != adapter.layers.size() || again.base_model != adapter.base_model) __builtin_trap();
  for (std::size_t i = 0; i < again.layers.size(); ++i) {
    const auto &x = adapter.layers[i], &y = again.layers[i];
    if (x.name != y.name || x.alpha != y.alpha || x.scale() != y.scale() || x.a != y.a || x.b != y.b ||
        x.magnitude != y.magnitude)
      __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const nibble::fuzz::Folder folder;
  const std::string_view text = nibble::fuzz::text_of(data, size);
  try {
    if (text.starts_with("GGUF")) {
      const nibble::fuzz::MemoryFile file(text);
      same_again(Adapter::load(file.path()), folder);
    } else {
      const std::size_t end = std::min(text.size(), text.find('\0'));
      folder.put("adapter_config.json", text.substr(0, end));
      folder.put("adapter_model.safetensors", text.substr(std::min(text.size(), end + 1)));
      same_again(Adapter::load(folder.path()), folder);
    }
  } catch (const nibble::Error&) {
  }
  return 0;
}
