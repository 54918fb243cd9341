// What headers.cpp prints, by the compiled library: a line for each spec or GGUF type named as an argument.
#include <cstdio>

#include "headers_data.h"
#include "nibble/matrix/block_matrix.h"
#include "nibble/quantize/quantize.h"
#include "nibble/scheme/gguf_encode.h"

namespace {

using namespace headers_data;

void run(const char* name) {
  const std::vector<float> x = values(kRows * kCols);
  const auto q = nibble::quantize(nibble::MatrixView<const float>(x.data(), kRows, kCols), name);
  std::vector<float> decoded(x.size());
  nibble::dequantize(q, {decoded.data(), kRows, kCols});
  Hash hash;
  hash.add(q.codes.data(), q.codes.size());
  for (std::size_t g = 0; g < q.group_count(); ++g) {
    hash.add(q.scale(g));
    hash.add(q.spec.is_codebook() ? 0 : q.zero_point(g));
  }
  hash.add(decoded.data(), decoded.size() * sizeof(float));
  hash.print(name);
}

void run_blocks(const char* name, nibble::BlockType type) {
  const std::vector<float> x = values(kBlockRows * kBlockCols);
  const bool only_read = nibble::visit_block(type, [](auto block) {  // by headers alone, that is
    return !requires(const float* from) { nibble::blocks::encode(from, block); };
  });
  nibble::BlockMatrix m = nibble::BlockMatrix::allocate(type, kBlockRows, kBlockCols);
  if (only_read) {
    const auto bytes = block_bytes(m.blocks.size());
    std::memcpy(m.blocks.writable<std::uint8_t>(), bytes.data(), bytes.size());
  } else {
    m = nibble::BlockMatrix::encode(nibble::MatrixView<const float>(x.data(), kBlockRows, kBlockCols), type, name,
                                    nibble::default_executor());
  }
  std::vector<float> decoded(x.size());
  for (std::size_t r = 0; r < kBlockRows; ++r) m.decode_row(r, decoded.data() + r * kBlockCols);
  Hash hash;
  hash.add(m.blocks.data(), m.blocks.size());
  hash.add(decoded.data(), decoded.size() * sizeof(float));
  hash.print(name);
}

}  // namespace

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    const auto type = nibble::parse_block_type(arguments[i]);
    if (type) run_blocks(arguments[i], *type);
    else run(arguments[i]);
  }
  return 0;
}
