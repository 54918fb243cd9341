// W8A8 and W4A8: activations rounded to 8 bits per token, integer sums within a group.
#include <algorithm>
#include <string>
#include <vector>

#include "cpu_matmul.h"
#include "cpu_matrix.h"
#include "nibble/core/error.h"
#include "nibble/scheme/llm_int8.h"

namespace nibble {

namespace {

using kernels::KernelTable;
using kernels::kInterleavedRows;

/// 8-bit activations with the sums of their codes per group of the weights. Kept by the calling thread between calls.
struct Tokens {
  std::vector<std::int8_t> codes;  ///< [token][depth]
  std::vector<std::int32_t> sums;  ///< [token][group]
  std::vector<float> scale;        ///< absmax/127
};

void quantize_token(const KernelTable& isa, MatrixView<const float> x, std::size_t t, const InterleavedMatrix& w,
                    Tokens& out) {
  const float* row = x.data + t * x.stride;
  const kernels::ValueRange range = isa.range(row, x.cols);
  if (!range.finite) {
    const auto bad =
        static_cast<std::size_t>(std::find_if_not(row, row + x.cols, [](float v) { return is_finite(v); }) - row);
    throw Error(ErrorCode::non_finite,
                "activation row " + std::to_string(t) + ", column " + std::to_string(bad) + " is not finite");
  }
  const float absmax = LlmInt8::fit(Range{range.min, range.max}).absmax;
  out.scale[t] = absmax * LlmInt8::inverse_127;
  auto* codes = reinterpret_cast<std::uint8_t*>(out.codes.data() + t * w.depth());
  isa.encode_int8(row, x.cols, LlmInt8::multiplier(absmax), codes);
  for (std::size_t k = 0; k < x.cols; ++k) codes[k] ^= 0x80u;  // code − 128 as two's complement
  std::fill(codes + x.cols, codes + w.depth(), std::uint8_t{0});
  for (std::size_t g = 0; g < w.groups(); ++g) {
    std::int32_t sum = 0;
    const std::size_t end = std::min((g + 1) * w.group_size(), w.depth());
    for (std::size_t k = g * w.group_size(); k < end; ++k) sum += out.codes[t * w.depth() + k];
    out.sums[t * w.groups() + g] = sum;
  }
}

const InterleavedMatrix* integer_matrix(const PackedMatrix& w) {
  // 65536·255·127 still fits an int32.
  const auto* m = dynamic_cast<const InterleavedMatrix*>(&w);
  return m != nullptr && m->is_integer() && m->group_size() <= 65536 ? m : nullptr;
}

}  // namespace

bool cpu_has_int8_matmul(const PackedMatrix& w) { return integer_matrix(w) != nullptr; }

void cpu_matmul_int8(const KernelTable& isa, MatrixView<const float> x, const PackedMatrix& packed, MatrixView<float> y,
                     Executor& executor) {
  check_matmul_shapes(x, packed.cols(), packed.rows(), y, "matmul_int8");
  const InterleavedMatrix* w = integer_matrix(packed);
  if (w == nullptr)
    throw Error(ErrorCode::unsupported,
                "8-bit activations need integer weights with groups inside rows; use matmul for the others");
  thread_local Tokens tokens;
  Tokens& a = tokens;  // a thread_local is not captured: workers would each see their own
  a.codes.resize(x.rows * w->depth());
  a.sums.resize(x.rows * w->groups());
  a.scale.resize(x.rows);
  parallel_for(executor, x.rows, 8, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) quantize_token(isa, x, t, *w, a);
  });
  constexpr std::size_t block = 64;  // tokens whose products lie in the nearest cache
  parallel_for(executor, w->panels(), 1, [&](std::size_t begin, std::size_t end) {
    float product[block * kInterleavedRows];
    for (std::size_t p = begin; p < end; ++p) {
      const std::size_t row0 = p * kInterleavedRows, width = std::min(kInterleavedRows, w->rows() - row0);
      for (std::size_t first = 0; first < x.rows; first += block) {
        const std::size_t count = std::min(block, x.rows - first);
        isa.multiply_int8(
            w->panel(p),
            {a.codes.data() + first * w->depth(), w->depth(), a.sums.data() + first * w->groups(), w->groups()}, count,
            product);
        for (std::size_t t = 0; t < count; ++t)
          for (std::size_t j = 0; j < width; ++j)
            y(first + t, row0 + j) = product[t * kInterleavedRows + j] * a.scale[first + t];
      }
    }
  });
}

}  // namespace nibble
