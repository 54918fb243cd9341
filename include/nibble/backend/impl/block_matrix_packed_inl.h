// GGUF blocks as weights: integer codes, interleaved. Those with an exact canonical form of about their own size become
// it; the others are taken from their blocks with what their groups share.
#pragma once

#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "nibble/backend/impl/code_layout.h"
#include "nibble/backend/impl/cpu_matmul.h"
#include "nibble/backend/impl/cpu_matrix.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

/// How a block type lies in an InterleavedMatrix: a value of a group is
///   (code − zero_point)·(scale·scale_step) + offset·offset_step.
struct BlockForm {
  int code_bits = 0;  ///< As InterleavedPanel's; 0: as its canonical form.
  std::int32_t zero_point = 0;
  bool has_steps = false, has_offset = false;
};
template <class Block>
inline constexpr BlockForm block_form{};
template <>
inline constexpr BlockForm block_form<blocks::Q4_1>{4, 0, false, true};
template <>
inline constexpr BlockForm block_form<blocks::Q5_1>{5, 0, false, true};
template <>
inline constexpr BlockForm block_form<blocks::Q4_K>{4, 0, true, true};
template <>
inline constexpr BlockForm block_form<blocks::Q5_K>{5, 0, true, true};
template <>
inline constexpr BlockForm block_form<blocks::Q6_K>{6, 32, true, false};
template <>
inline constexpr BlockForm block_form<blocks::IQ4_NL>{kernels::kTableBits, 128, false, false};

inline BlockForm form_of(BlockType type) {
  return visit_block(type, [](auto block) { return block_form<decltype(block)>; });
}

struct GroupNumbers {
  f16 scale, offset;
  std::int8_t scale_step = 1, offset_step = 1;
};
template <class Block>
GroupNumbers numbers_of(const Block& b, std::size_t group) {
  if constexpr (requires { b.dmin; }) {  // a minimum is subtracted; its sign is the offset's
    return {b.d, f16::from_bits(b.dmin.bits ^ 0x8000), static_cast<std::int8_t>(b.scales.scale(group)),
            static_cast<std::int8_t>(b.scales.min(group))};
  } else if constexpr (requires { b.scales; }) {
    return {b.d, {}, b.scales[group]};
  } else if constexpr (requires { b.m; }) {
    return {b.d, b.m};
  } else {
    return {b.d, {}};
  }
}

/// Unrolled, so that where a code lies is known when this is compiled.
template <class Block, std::size_t... Index>
void copy_codes(const Block& block, std::uint8_t* to, std::index_sequence<Index...>) {
  ((to[Index] = block.code(Index)), ...);
}

/// The canonical spec of the blocks' values, or of their codes alone.
inline QuantSpec spec_of(BlockType type) {
  if (const auto exact = exact_spec(type)) return *exact;
  return QuantSpec::parse("int" + std::to_string(kernels::held_bits(form_of(type).code_bits)) + "-g32-sym");
}

}  // namespace detail

NIBBLE_INLINE InterleavedMatrix::InterleavedMatrix(const Packer& by, const BlockMatrix& m)
    : CpuMatrix(by.backend, m.rows, m.cols),
      spec_(detail::spec_of(m.type)),
      code_bits_(detail::form_of(m.type).code_bits),
      scale_type_(ScaleType::f16),
      zero_point_(detail::form_of(m.type).zero_point),
      depth_(m.cols),
      group_size_(spec_.group_size),
      groups_(m.cols / group_size_) {
  for (std::size_t i = 0; i < 16; ++i) {
    if (code_bits_ == kernels::kTableBits)
      table_[i] = static_cast<std::uint8_t>(blocks::iq4_nl_table()[i] + zero_point_);
    values_[i] =
        static_cast<float>((code_bits_ == kernels::kTableBits ? table_[i] : static_cast<int>(i)) - zero_point_);
  }
  visit_block(m.type, [&](auto block) {
    if constexpr (detail::block_form<decltype(block)>.code_bits != 0) pack_blocks<decltype(block)>(by, m);
  });
}

template <class Block>
NIBBLE_INLINE void InterleavedMatrix::pack_blocks(const Packer& by, const BlockMatrix& m) {
  constexpr detail::BlockForm form = detail::block_form<Block>;
  constexpr std::size_t groups = Block::size / Block::group;
  static_assert(std::has_single_bit(groups) &&
                Block::group % CodeLayout(kernels::held_bits(form.code_bits)).step_columns() == 0);
  span_shift_ = std::countr_zero(groups);
  const std::size_t numbers = panels() * kernels::kInterleavedRows;
  scales_ = Buffer::allocate(numbers * spans() * sizeof(f16));
  if (form.has_offset) offsets_ = Buffer::allocate(scales_.size());
  if (form.has_steps) scale_steps_ = Buffer::allocate(numbers * groups_);
  if (form.has_steps && form.has_offset) offset_steps_ = Buffer::allocate(numbers * groups_);
  pack_panels(by, [&](std::size_t r, std::uint8_t* codes) {
    Block block;
    for (std::size_t s = 0; s < spans(); ++s, codes += Block::size) {
      std::memcpy(&block, m.row(r) + s * sizeof block, sizeof block);
      detail::copy_codes(block, codes, std::make_index_sequence<Block::size>());
      for (std::size_t g = 0; g < groups; ++g) {
        const detail::GroupNumbers n = detail::numbers_of(block, g);
        const std::size_t span = param_index(r, s, spans()), group = param_index(r, s * groups + g, groups_);
        scales_.writable<f16>()[span] = n.scale;
        if (form.has_offset) offsets_.writable<f16>()[span] = n.offset;
        if (form.has_steps) scale_steps_.writable<std::int8_t>()[group] = n.scale_step;
        if (form.has_steps && form.has_offset) offset_steps_.writable<std::int8_t>()[group] = n.offset_step;
      }
    }
  });
}

NIBBLE_INLINE PackedMatrixPtr cpu_pack(const Packer& by, BlockMatrix m) {
  m.validate("weights");
  if (is_float(m.type)) return cpu_pack(by, m.aligned().as_floats());
  if (detail::form_of(m.type).code_bits != 0) return std::make_shared<InterleavedMatrix>(by, m);
  return cpu_pack(by, to_quantized(m));
}

}  // namespace nibble::inline NIBBLE_ABI
