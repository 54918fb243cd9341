// Weights whose codes are floats of 6 or 8 bits (E4M3, E5M2, E2M3, E3M2), held as bytes that the kernels widen.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "nibble/backend/impl/cpu_matrix.h"
#include "nibble/core/bit_pack.h"
#include "nibble/core/parallel.h"
#include "nibble/scheme/small_float.h"

namespace nibble::inline NIBBLE_ABI::detail {

/// Panel p holds rows 32p … 32p+31 as [column][32] bytes, and their scales as [group][32] floats: a product sums
/// code·x over a group, and multiplies by its scale once. Formats of 6 bits are kept as the E4M3 of the same value,
/// which has room for every one of them and for both zeros.
class Float8Matrix final : public CpuMatrix {
 public:
  /// Groups must lie in a row one after the other: those of act-order do not.
  static bool fits(const QuantizedMatrix& q) {
    const SchemeKind kind = q.spec.scheme;
    return q.g_idx.empty() && (kind == SchemeKind::e4m3 || kind == SchemeKind::e5m2 || is_narrow(kind));
  }

  Float8Matrix(const Packer& by, QuantizedMatrix q)
      : CpuMatrix(by.backend, q.rows, q.cols),
        source_(std::move(q)),
        group_size_(source_.spec.grouping().has_size() ? std::min(source_.spec.group_size, cols()) : cols()),
        groups_((cols() + group_size_ - 1) / group_size_) {
    codes_ = Buffer::allocate(panels() * cols() * kernels::kPanelWidth);
    scales_ = Buffer::allocate(panels() * groups_ * kernels::kPanelWidth * sizeof(float));
    const auto held = held_codes(source_.spec.scheme);
    parallel_for(by.executor, panels(), 1, [&](std::size_t begin, std::size_t end) {
      std::vector<std::uint8_t> row(cols());
      for (std::size_t r = begin * kernels::kPanelWidth; r < std::min(end * kernels::kPanelWidth, rows()); ++r) {
        unpack_codes(source_.row_codes(r), cols(), source_.spec.bits, row.data());
        std::uint8_t* to = codes_.writable<std::uint8_t>() + code_index(r, 0);
        for (std::size_t c = 0; c < cols(); ++c) to[c * kernels::kPanelWidth] = held[row[c]];
        for (std::size_t g = 0; g < groups_; ++g)
          scales_.writable<float>()[scale_index(r, g)] = source_.scale(source_.group_of(r, g * group_size_));
      }
    });
    source_.codes = Buffer();
  }

  std::size_t storage_bytes() const override { return codes_.size() + scales_.size() + source_.storage_bytes(); }
  kernels::ChunkLayout chunks() const override { return {cols(), group_size_, kernels::kPanelDepth, 32}; }
  bool scales_after_sums() const override { return true; }
  void input_scales(const kernels::KernelTable&, std::size_t row0, std::size_t k0, float* scales) const override {
    std::copy_n(scales_.as<float>() + scale_index(row0, k0 / group_size_), kernels::kPanelWidth, scales);
  }
  const float* input_panel(const kernels::KernelTable& isa, std::size_t row0, std::size_t k0, std::size_t k1,
                           float* panel) const override {
    widen(isa, code_index(row0, k0), (k1 - k0) * kernels::kPanelWidth, panel);
    return panel;
  }
  void output_panel(const kernels::KernelTable& isa, std::size_t col0, std::size_t r0, std::size_t r1,
                    float* panel) const override {
    const std::size_t width = std::min(kernels::kPanelWidth, cols() - col0);
    std::fill_n(panel, (r1 - r0) * kernels::kPanelWidth, 0.0f);
    float block[kernels::kPanelWidth * kernels::kPanelWidth];
    for (std::size_t row = r0 / kernels::kPanelWidth * kernels::kPanelWidth; row < r1; row += kernels::kPanelWidth) {
      widen(isa, code_index(row, col0), width * kernels::kPanelWidth, block);
      for (std::size_t r = std::max(row, r0); r < std::min(row + kernels::kPanelWidth, r1); ++r)
        for (std::size_t j = 0; j < width; ++j)
          panel[(r - r0) * kernels::kPanelWidth + j] = block[j * kernels::kPanelWidth + (r - row)] *
                                                       scales_.as<float>()[scale_index(r, (col0 + j) / group_size_)];
    }
  }

  [[nodiscard]] QuantizedMatrix unpack() const {
    QuantizedMatrix q = source_;
    q.codes = Buffer::allocate(q.rows * q.row_bytes());
    std::array<std::uint8_t, 256> stored{};
    const auto held = held_codes(q.spec.scheme);
    for (std::size_t c = 0; c < std::size_t{1} << q.spec.bits; ++c) stored[held[c]] = static_cast<std::uint8_t>(c);
    std::vector<std::uint8_t> row(cols());
    for (std::size_t r = 0; r < rows(); ++r) {
      const std::uint8_t* from = codes_.as<std::uint8_t>() + code_index(r, 0);
      for (std::size_t c = 0; c < cols(); ++c) row[c] = stored[from[c * kernels::kPanelWidth]];
      pack_codes(row.data(), cols(), q.spec.bits, q.codes.writable<std::uint8_t>() + r * q.row_bytes());
    }
    return q;
  }

 private:
  static bool is_narrow(SchemeKind kind) { return kind == SchemeKind::e2m3 || kind == SchemeKind::e3m2; }
  /// The byte that a code is kept as.
  static std::array<std::uint8_t, 256> held_codes(SchemeKind kind) {
    std::array<std::uint8_t, 256> out{};
    for (std::size_t c = 0; c < out.size(); ++c) {
      const auto code = static_cast<std::uint8_t>(c);
      out[c] = kind == SchemeKind::e2m3   ? e4m3::encode(e2m3::decode(code & 63))
               : kind == SchemeKind::e3m2 ? e4m3::encode(e3m2::decode(code & 63))
                                          : code;
    }
    return out;
  }
  void widen(const kernels::KernelTable& isa, std::size_t first, std::size_t n, float* out) const {
    const auto load = source_.spec.scheme == SchemeKind::e5m2 ? isa.load_e5m2 : isa.load_e4m3;
    load(codes_.as<std::uint8_t>() + first, n, out);
  }
  [[nodiscard]] std::size_t panels() const { return (rows() + kernels::kPanelWidth - 1) / kernels::kPanelWidth; }
  [[nodiscard]] std::size_t code_index(std::size_t row, std::size_t col) const {
    return (row / kernels::kPanelWidth * cols() + col) * kernels::kPanelWidth + row % kernels::kPanelWidth;
  }
  [[nodiscard]] std::size_t scale_index(std::size_t row, std::size_t group) const {
    return (row / kernels::kPanelWidth * groups_ + group) * kernels::kPanelWidth + row % kernels::kPanelWidth;
  }

  QuantizedMatrix source_;  ///< Without its codes.
  std::size_t group_size_, groups_;
  Buffer codes_, scales_;
};

/// The values of both narrow formats survive in E4M3.
template <class F>
constexpr bool fits_e4m3() {
  for (std::size_t c = 0; c < std::size_t{1} << F::bits; ++c) {
    const float value = F::decode(static_cast<std::uint8_t>(c));
    if (e4m3::decode(e4m3::encode(value)) != value) return false;
  }
  return true;
}
static_assert(fits_e4m3<e2m3>() && fits_e4m3<e3m2>());

}  // namespace nibble::inline NIBBLE_ABI::detail
