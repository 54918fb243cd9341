// The unit whose compile time and size the README states: NF4 rows, both ways, by headers alone.
#include <nibble/nibble.h>

using S = nibble::Codebook<nibble::nf4>;
constexpr nibble::Grouping kGroups{nibble::Granularity::block, 64};

bool encode(nibble::MatrixView<const float> x, std::span<std::uint8_t> codes, std::span<S::Params> params) {
  return static_cast<bool>(nibble::quantize_rows<S>(x, kGroups, codes, params));
}
bool decode(std::span<const std::uint8_t> codes, std::span<const S::Params> params, nibble::MatrixView<float> x) {
  return static_cast<bool>(nibble::dequantize_rows<S>(codes, params, kGroups, x));
}
