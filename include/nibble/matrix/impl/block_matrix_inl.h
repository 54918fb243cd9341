// What matrix/block_matrix.h declares.
#pragma once

#include "nibble/matrix/block_matrix.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "nibble/core/error.h"
#include "nibble/core/impl/shape.h"
#include "nibble/matrix/impl/importance.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

/// Row r in fp32: in place, or in `scratch`.
inline const float* load_row(FloatMatrix m, std::size_t r, float* scratch) {
  if (m.type == DType::f32) return static_cast<const float*>(m.row(r));
  upcast_floats(m.type, m.row(r), m.cols, scratch);
  return scratch;
}

[[noreturn]] inline void refuse(std::string_view name, std::size_t row, std::size_t col, const std::string& why) {
  throw Error(ErrorCode::non_finite, "tensor '" + std::string(name) + "', row " + std::to_string(row) + ", column " +
                                         std::to_string(col) + ": " + why);
}

inline void check_finite(std::string_view name, std::size_t row, const float* x, std::size_t n) {
  for (std::size_t c = 0; c < n; ++c)
    if (!is_finite(x[c])) {
      const char* value = x[c] != x[c] ? "NaN" : x[c] > 0 ? "+infinity" : "-infinity";
      refuse(name, row, c, std::string("the value is ") + value + "; only finite values can be quantized");
    }
}

/// Blocks that are symmetric codes and one f16 scale.
template <class Block>
concept OneScale =
    std::is_same_v<Block, blocks::Q4_0> || std::is_same_v<Block, blocks::Q5_0> || std::is_same_v<Block, blocks::Q8_0>;

/// The codes of one block, unsigned around a zero point of 2^(B−1), and its scales.
template <OneScale Block>
void take_apart(const Block& b, std::uint8_t* codes, f16* scales) {
  for (std::size_t j = 0; j < b.size; ++j) codes[j] = b.code(j);
  *scales = b.d;
}
template <class Block>
  requires requires(const Block& b) { b.step(std::size_t{0}); }
void take_apart(const Block& b, std::uint8_t* codes, float* scales) {
  for (std::size_t j = 0; j < b.size; ++j) codes[j] = b.code(j);
  for (std::size_t g = 0; g < b.size / b.group; ++g) scales[g] = b.step(g);
}
inline void take_apart(const blocks::Q8_K& b, std::uint8_t* codes, float* scales) {
  for (std::size_t j = 0; j < b.size; ++j) codes[j] = static_cast<std::uint8_t>(b.codes[j] + 128);
  *scales = b.d;
}

template <OneScale Block>
void put_together(const std::uint8_t* codes, f16 scale, Block& b) {
  b.d = scale;
  b.set_codes(codes);
}

template <class Block, class Scale>
void take_all(const BlockMatrix& m, QuantizedMatrix& q) {
  const std::size_t per_row = m.cols / Block::size, groups = Block::size / q.spec.group_size;
  std::uint8_t codes[Block::size];
  Block block;
  for (std::size_t i = 0; i < m.rows * per_row; ++i) {
    std::memcpy(&block, m.blocks.data() + i * sizeof(Block), sizeof(Block));
    take_apart(block, codes, q.scales.writable<Scale>() + i * groups);
    std::uint8_t* row = q.codes.writable<std::uint8_t>() + i / per_row * q.row_bytes();
    pack_codes(codes, Block::size, q.spec.bits, row + packed_bytes(i % per_row * Block::size, q.spec.bits));
  }
}

template <class Block>
void put_all(const QuantizedMatrix& q, BlockMatrix& m) {
  const std::size_t per_row = q.cols / Block::size;
  std::uint8_t codes[Block::size];
  for (std::size_t i = 0; i < q.rows * per_row; ++i) {
    Block block{};
    const std::uint8_t* row = q.row_codes(i / per_row);
    unpack_codes(row + packed_bytes(i % per_row * Block::size, q.spec.bits), Block::size, q.spec.bits, codes);
    put_together(codes, q.scales.as<f16>()[i], block);
    std::memcpy(m.blocks.writable<std::byte>() + i * sizeof(Block), &block, sizeof(Block));
  }
}

inline bool uses_lowest_code(const QuantizedMatrix& q) {
  const auto* codes = q.codes.as<std::uint8_t>();
  return std::find(codes, codes + q.codes.size(), std::uint8_t{0}) != codes + q.codes.size();
}

}  // namespace detail

NIBBLE_INLINE BlockMatrix BlockMatrix::allocate(BlockType type, std::size_t rows, std::size_t cols) {
  std::size_t bytes = 0;
  if (rows == 0 || cols == 0 || cols % block_size(type) != 0 || __builtin_mul_overflow(rows, cols, &bytes) ||
      __builtin_mul_overflow(bytes, block_bytes(type), &bytes))
    throw Error(ErrorCode::invalid_argument, "a matrix of " + detail::shape(rows, cols) + " cannot be " +
                                                 std::string(name_of(type)) + ": rows are whole blocks of " +
                                                 std::to_string(block_size(type)) + " values, as many as memory holds");
  BlockMatrix m{type, rows, cols, {}};
  m.blocks = Buffer::allocate(rows * m.row_bytes());
  return m;
}

NIBBLE_INLINE BlockMatrix BlockMatrix::encode(FloatMatrix weights, BlockType type, std::string_view name,
                                              Executor& executor, std::span<const float> importance) {
  if (!can_encode(type))
    throw Error(ErrorCode::unsupported,
                "tensor '" + std::string(name) + "': " + std::string(name_of(type)) + " can be read, not written");
  weights.validate(name);
  detail::check_importance(name, importance, weights.cols);
  BlockMatrix m = allocate(type, weights.rows, weights.cols);
  auto* to = m.blocks.writable<std::byte>();
  const std::size_t size = block_size(type), bytes = block_bytes(type);
  parallel_for(executor, m.rows, std::max<std::size_t>(1, 16384 / m.cols), [&](std::size_t begin, std::size_t end) {
    std::vector<float> scratch(m.cols), errors_count(importance.size());
    for (std::size_t r = begin; r < end; ++r) {
      const float* x = detail::load_row(weights, r, scratch.data());
      detail::check_finite(name, r, x, m.cols);
      if (!importance.empty()) detail::weigh(x, importance, errors_count.data());
      for (std::size_t c = 0; c < m.cols; c += size)
        if (std::byte* block = to + r * m.row_bytes() + c / size * bytes;
            !(importance.empty() ? encode_block(type, x + c, block)
                                 : encode_block(type, x + c, errors_count.data() + c, block)))
          detail::refuse(name, r, c,
                         "f16 cannot hold the scale that these values need as " + std::string(name_of(type)));
    }
  });
  return m;
}

NIBBLE_INLINE void BlockMatrix::validate(const std::string& name) const {
  const auto refuse_file = [&](const std::string& why) {
    throw Error(ErrorCode::corrupt_file, "tensor '" + name + "' (" + std::string(name_of(type)) + ", " +
                                             detail::shape(rows, cols) + "): " + why);
  };
  if (rows == 0 || cols == 0) refuse_file("it is empty");
  if (cols % block_size(type) != 0)
    refuse_file("a row is no whole number of blocks of " + std::to_string(block_size(type)));
  std::size_t need = 0;
  if (__builtin_mul_overflow(cols / block_size(type), block_bytes(type), &need) ||
      __builtin_mul_overflow(need, rows, &need) || blocks.size() != need)
    refuse_file("it has " + std::to_string(blocks.size()) + " bytes, which is not " + std::to_string(rows) + " × " +
                std::to_string(row_bytes()));
}

NIBBLE_INLINE void BlockMatrix::decode_row(std::size_t r, std::size_t first, std::size_t last, float* out) const {
  const std::size_t size = block_size(type), bytes = block_bytes(type);
  const std::byte* from = row(r);
  float values[blocks::kSuper];
  while (first < last) {
    const std::size_t skip = first % size, whole = (last - first) / size * size;
    if (skip == 0 && whole > 0) {
      decode_blocks(type, from + first / size * bytes, whole, out);
      first += whole, out += whole;
      continue;
    }
    const std::size_t n = std::min(size - skip, last - first);
    decode_blocks(type, from + first / size * bytes, size, values);
    std::copy_n(values + skip, n, out);
    first += n, out += n;
  }
}

NIBBLE_INLINE FloatMatrix BlockMatrix::as_floats() const {
  const DType element = type == BlockType::f16 ? DType::f16 : type == BlockType::bf16 ? DType::bf16 : DType::f32;
  if (!is_float(type) || reinterpret_cast<std::uintptr_t>(blocks.data()) % size_of(element) != 0)
    throw Error(ErrorCode::unsupported, std::string(name_of(type)) + " blocks " +
                                            (is_float(type) ? "at an odd address" : "") +
                                            " are no float matrix in place");
  return {blocks.data(), element, rows, cols, cols};
}

NIBBLE_INLINE BlockMatrix BlockMatrix::aligned() const {
  if (reinterpret_cast<std::uintptr_t>(blocks.data()) % alignof(float) == 0) return *this;
  BlockMatrix out = *this;
  out.blocks = Buffer::allocate(blocks.size());
  std::memcpy(out.blocks.writable<std::byte>(), blocks.data(), blocks.size());
  return out;
}

NIBBLE_INLINE std::optional<QuantSpec> exact_spec(BlockType type) {
  switch (type) {
    case BlockType::q4_0: return QuantSpec::parse("int4-g32-sym");
    case BlockType::q5_0: return QuantSpec::parse("int5-g32-sym");
    case BlockType::q8_0: return QuantSpec::parse("int8-g32-sym");
    case BlockType::q3_k: return QuantSpec::parse("int3-g16-sym-f32");
    case BlockType::q6_k: return QuantSpec::parse("int6-g16-sym-f32");
    case BlockType::q8_k: return QuantSpec::parse("int8-g256-sym-f32");
    default: return std::nullopt;
  }
}

NIBBLE_INLINE QuantizedMatrix to_quantized(const BlockMatrix& m) {
  const auto spec = exact_spec(m.type);
  if (!spec)
    throw Error(ErrorCode::unsupported,
                std::string(name_of(m.type)) + " blocks have no exact form with one scale and zero point a group");
  m.validate("blocks");
  QuantizedMatrix q = QuantizedMatrix::allocate(*spec, m.rows, m.cols);
  visit_block(m.type, [&](auto block) {
    using Block = decltype(block);
    if constexpr (requires(f16 * s) { detail::take_apart(block, nullptr, s); }) detail::take_all<Block, f16>(m, q);
    else if constexpr (requires(float* s) { detail::take_apart(block, nullptr, s); })
      detail::take_all<Block, float>(m, q);
  });
  if (spec->bits == 8 && detail::uses_lowest_code(q)) q.spec.narrow_range = false;
  return q;
}

NIBBLE_INLINE std::optional<BlockType> exact_block_type(const QuantizedMatrix& q) {
  const QuantSpec& s = q.spec;
  if (s.scheme != SchemeKind::symmetric || s.granularity != Granularity::group || s.group_size != blocks::kGroup ||
      s.scale_type != ScaleType::f16 || !q.g_idx.empty() || q.cols % blocks::kGroup != 0)
    return std::nullopt;
  switch (s.bits) {
    case 4: return BlockType::q4_0;
    case 5: return BlockType::q5_0;
    case 8: return BlockType::q8_0;
    default: return std::nullopt;
  }
}

NIBBLE_INLINE BlockMatrix to_blocks(const QuantizedMatrix& q) {
  const auto type = exact_block_type(q);
  if (!type)
    throw Error(ErrorCode::unsupported, "a matrix of " + detail::shape(q.rows, q.cols) + " in " + q.spec.to_string() +
                                            " has no exact form in GGUF's blocks: symmetric codes of 4, 5 or 8 bits in "
                                            "groups of 32 with f16 scales, columns in their order, have one");
  q.validate_layout("matrix");
  BlockMatrix m = BlockMatrix::allocate(*type, q.rows, q.cols);
  visit_block(*type, [&](auto block) {
    if constexpr (requires { detail::put_together(nullptr, f16(), block); }) detail::put_all<decltype(block)>(q, m);
  });
  return m;
}

}  // namespace nibble::inline NIBBLE_ABI
