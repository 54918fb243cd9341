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
  ScaleType scale_type = ScaleType::f16;  ///< What holds every scale exactly.
  bool own_scales = false;                ///< Of each group; else the block has one.
};
template <class Block>
inline constexpr BlockForm block_form{};
template <>
inline constexpr BlockForm block_form<blocks::Q4_1>{4, 0, false, true};
template <>
inline constexpr BlockForm block_form<blocks::Q5_1>{5, 0, false, true};
template <>
inline constexpr BlockForm block_form<blocks::Q2_K>{2, 0, true, true};
template <>
inline constexpr BlockForm block_form<blocks::Q3_K>{4, 4, true, false};  // whole words of 3 bits take 32 columns
template <>
inline constexpr BlockForm block_form<blocks::Q4_K>{4, 0, true, true};
template <>
inline constexpr BlockForm block_form<blocks::Q5_K>{5, 0, true, true};
template <>
inline constexpr BlockForm block_form<blocks::Q6_K>{6, 32, true, false};
template <>
inline constexpr BlockForm block_form<blocks::IQ4_NL>{kernels::kTableBits, 128, false, false};
template <>
inline constexpr BlockForm block_form<blocks::IQ4_XS>{kernels::kTableBits, 128, true, false};
template <>
inline constexpr BlockForm block_form<blocks::MXFP4>{kernels::kTableBits, 128, false, false, ScaleType::bf16};
template <>
inline constexpr BlockForm block_form<blocks::NVFP4>{kernels::kTableBits, 128, false, false, ScaleType::f16, true};
template <>
inline constexpr BlockForm block_form<blocks::Q1_0>{2, 1, false, false};
template <>
inline constexpr BlockForm block_form<blocks::Q2_0>{2, 1, false, false};
template <>
inline constexpr BlockForm block_form<blocks::TQ1_0>{2, 1, false, false};
template <>
inline constexpr BlockForm block_form<blocks::TQ2_0>{2, 1, false, false};
/// Points of a lattice become their levels, in a byte each.
template <class Block>
  requires requires(const Block& b) { b.level(std::size_t{0}); }
inline constexpr BlockForm block_form<Block>{8, 128, true, false, ScaleType::f32};

inline BlockForm form_of(BlockType type) {
  return visit_block(type, [](auto block) { return block_form<decltype(block)>; });
}

struct GroupNumbers {
  float scale = 0;
  f16 offset = {};
  std::int8_t scale_step = 1, offset_step = 1;
};
/// What the scales of all groups are multiples of, or that of a group.
template <class Block>
float scale_of(const Block& b, std::size_t group) {
  if constexpr (requires { b.scale(group); }) return b.scale(group);
  else if constexpr (requires { b.scale(); }) return b.scale();
  else return static_cast<float>(b.d);
}
template <class Block>
GroupNumbers numbers_of(const Block& b, std::size_t group) {
  if constexpr (requires { b.dmin; }) {  // a minimum is subtracted; its sign is the offset's
    return {scale_of(b, group), f16::from_bits(b.dmin.bits ^ 0x8000), static_cast<std::int8_t>(b.scales.scale(group)),
            static_cast<std::int8_t>(b.scales.min(group))};
  } else if constexpr (requires { b.group_scale(group); }) {
    return {scale_of(b, group), {}, b.group_scale(group)};
  } else if constexpr (requires { b.m; }) {
    return {scale_of(b, group), b.m};
  } else {
    return {scale_of(b, group), {}};
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
  const std::size_t group = visit_block(type, [](auto block) { return decltype(block)::group; });
  return QuantSpec::parse("int" + std::to_string(kernels::held_bits(form_of(type).code_bits)) + "-g" +
                          std::to_string(group) + "-sym");
}

}  // namespace detail

NIBBLE_INLINE InterleavedMatrix::InterleavedMatrix(const Packer& by, const BlockMatrix& m)
    : CpuMatrix(by.backend, m.rows, m.cols),
      spec_(detail::spec_of(m.type)),
      code_bits_(detail::form_of(m.type).code_bits),
      scale_type_(detail::form_of(m.type).scale_type),
      zero_point_(detail::form_of(m.type).zero_point),
      depth_(m.cols),
      group_size_(spec_.group_size),
      groups_(m.cols / group_size_) {
  is_canonical_ = exact_spec(m.type).has_value();
  visit_block(m.type, [&](auto block) {
    if constexpr (requires { block.table(); })
      for (std::size_t i = 0; i < 16; ++i) table_[i] = static_cast<std::uint8_t>(block.table()[i] + zero_point_);
  });
  const bool has_table = code_bits_ == kernels::kTableBits;
  const std::size_t top = has_table || code_bits_ >= 4 ? 15 : (std::size_t{1} << code_bits_) - 1;
  for (std::size_t i = 0; i < 16; ++i)  // a look-up reads four bits, of narrower codes some of the next one's
    values_[i] = static_cast<float>((has_table ? table_[i] : static_cast<int>(i & top)) - zero_point_);
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
  span_shift_ = form.own_scales ? 0 : std::countr_zero(groups);
  const std::size_t numbers = panels() * kernels::kInterleavedRows;
  scales_ = Buffer::allocate(numbers * spans() * static_cast<std::size_t>(scale_bytes(form.scale_type)));
  if (form.has_offset) offsets_ = Buffer::allocate(scales_.size());
  static_assert(!form.has_offset || form.scale_type == ScaleType::f16);
  if (form.has_steps) scale_steps_ = Buffer::allocate(numbers * groups_);
  if (form.has_steps && form.has_offset) offset_steps_ = Buffer::allocate(numbers * groups_);
  pack_panels(by, [&](std::size_t r, std::uint8_t* codes) {
    Block block;
    for (std::size_t s = 0; s < m.cols / Block::size; ++s, codes += Block::size) {
      std::memcpy(static_cast<void*>(&block), m.row(r) + s * sizeof block, sizeof block);
      if constexpr (!is_host_only<Block>) detail::copy_codes(block, codes, std::make_index_sequence<Block::size>());
      else  // look-ups: nothing of them is known beforehand
        for (std::size_t i = 0; i < Block::size; ++i) codes[i] = block.code(i);
      for (std::size_t g = 0; g < groups; ++g) {
        const detail::GroupNumbers n = detail::numbers_of(block, g);
        const std::size_t group = param_index(r, s * groups + g, groups_),
                          span = form.own_scales ? group : param_index(r, s, spans());
        store_scale(form.scale_type, scales_.writable<std::byte>(), span, n.scale);
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
