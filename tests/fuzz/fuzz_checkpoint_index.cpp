// Any text as model.safetensors.index.json beside one good shard: the checkpoint of that shard, or nibble::Error.
#include "input.h"
#include "nibble/core/error.h"
#include "nibble/format/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nibble;
  static const fuzz::Folder folder;
  static const bool shard_is_there = [] {
    SafetensorsWriter out(folder.path() / "a.safetensors", {{"t", DType::f32, {1}, 0, 4}}, {});
    const float one = 1;
    out.write("t", std::as_bytes(std::span(&one, 1)));
    out.finish();
    return true;
  }();
  folder.put("model.safetensors.index.json", fuzz::text_of(data, size));
  try {
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    if (shard_is_there && !checkpoint.contains("t")) __builtin_trap();
  } catch (const Error&) {
  }
  return 0;
}
