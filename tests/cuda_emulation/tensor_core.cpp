// The matrix units. Which lane holds which element is written down here from the PTX ISA's figures, apart from any
// kernel.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <array>
#include <vector>

#include "cuda_emulation/block.h"

namespace nibble::cuda_emulation {

namespace {

/// Every half as a double.
const std::vector<double>& half_values() {
  static const std::vector<double> values = [] {
    std::vector<double> all(65536);
    for (unsigned bits = 0; bits < 65536; ++bits)
      all[bits] = __half2float(__half(__half_raw{static_cast<unsigned short>(bits)}));
    return all;
  }();
  return values;
}

double bfloat16_value(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

/// Where element (line, k) of a fragment lies: `line` is the row of a or the column of b; each 32-bit register holds
/// `PerWord` neighbouring k of the line lane / 4. The second half of k lies in the registers after.
template <unsigned PerWord>
struct Element {
  unsigned lane, half_of_k, shift;
  Element(unsigned line, unsigned k)
      : lane(line % 8 * 4 + k % (4 * PerWord) / PerWord),
        half_of_k(k / (4 * PerWord)),
        shift(k % PerWord * (32 / PerWord)) {}
};

/// c[i] += Σ a·b for the four elements of the result that a lane holds: rows lane / 4 and that plus 8, columns
/// 2·(lane % 4) and the next.
template <unsigned PerWord, class Sum, class Value, class Product>
void multiply(Value (&c)[4], const Contributions& fragments, unsigned lane, const Product& product) {
  std::array<Fragments, kWarpSize> all;
  for (unsigned i = 0; i < kWarpSize; ++i) all[i] = fragments.of<Fragments>(i);
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
    auto sum = static_cast<Sum>(c[i]);
    for (unsigned k = 0; k < 8 * PerWord; ++k) {
      const Element<PerWord> a(row, k), b(col, k);
      sum += product(all[a.lane].a[row / 8 + 2 * a.half_of_k] >> a.shift, all[b.lane].b[b.half_of_k] >> b.shift);
    }
    c[i] = static_cast<Value>(sum);
  }
}

}  // namespace

void multiply_half(float (&c)[4], const Contributions& fragments, unsigned lane) {
  const std::vector<double>& value = half_values();
  multiply<2, double>(c, fragments, lane,
                      [&](std::uint32_t a, std::uint32_t b) { return value[a & 0xffff] * value[b & 0xffff]; });
}

void multiply_bfloat16(float (&c)[4], const Contributions& fragments, unsigned lane) {
  multiply<2, double>(c, fragments, lane, [](std::uint32_t a, std::uint32_t b) {
    return bfloat16_value(static_cast<std::uint16_t>(a)) * bfloat16_value(static_cast<std::uint16_t>(b));
  });
}

void multiply_int8(int (&c)[4], const Contributions& fragments, unsigned lane) {
  multiply<4, unsigned>(c, fragments, lane, [](std::uint32_t a, std::uint32_t b) {
    return static_cast<unsigned>(static_cast<std::int8_t>(a) * static_cast<std::int8_t>(b));
  });
}

void count_matrix_load(const Contributions& rows, unsigned matrices) {
  Statistics& statistics = machine().statistics;
  ++statistics.matrix_loads;
  statistics.matrix_load_ideal_passes += matrices;
  for (unsigned m = 0; m < matrices; ++m) {
    unsigned rows_in[8] = {};  // shared memory has 32 banks of 4 bytes: a row takes four, one of eight sets
    for (unsigned r = 0; r < 8; ++r)
      ++rows_in[reinterpret_cast<std::uintptr_t>(rows.of<const void*>(8 * m + r)) / 16 % 8];
    statistics.matrix_load_passes += *std::max_element(rows_in, rows_in + 8);
  }
}

}  // namespace nibble::cuda_emulation
