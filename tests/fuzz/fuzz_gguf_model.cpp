// Any bytes as a .gguf model: its configuration, tokenizer and tensors are read, or nibble::Error is thrown.
#include "input.h"
#include "model/gguf_weights.h"
#include "nibble/core/error.h"
#include "nibble/format/gguf.h"
#include "nibble/text/tokenizer.h"

namespace {

template <class Action>
void attempt(const Action& action) {
  try {
    action();
  } catch (const nibble::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nibble;
  const fuzz::MemoryFile file(fuzz::text_of(data, size));
  attempt([&] {
    const GgufFile gguf(file.path());
    for (const GgufTensor& t : gguf.tensors())
      attempt([&] {
        if (t.bytes <= 1 << 16) (void)gguf.read_f32(t.name);
      });
  });
  attempt([&] { (void)text::load_tokenizer(file.path())->encode("It is a truth"); });
  attempt([&] {
    const model::GgufWeights weights(file.path());
    const auto& c = weights.config();
    if (c.heads == 0 || c.heads % c.kv_heads != 0) __builtin_trap();
    (void)weights.read_f32("model.norm.weight");
    (void)weights.matrix("model.layers.0.self_attn.q_proj.weight");
  });
  return 0;
}
