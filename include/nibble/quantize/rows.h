// Rows quantized and dequantized by a scheme that is a type, one's own included: headers alone, no allocation, no
// exceptions, in memory that the caller owns. Results are, bit for bit, those of the compiled library.
//
//   std::vector<std::uint8_t> codes(rows * nibble::packed_bytes(cols, 4));
//   std::vector<nibble::CodebookParams> params(groups.count(rows, cols));       // groups: {Granularity::block, 64}
//   if (auto r = nibble::quantize_rows<nibble::Codebook<nibble::nf4>>(x, groups, codes, params); !r) return report(r);
//
// `codes` are rows of packed_bytes(cols, S::bits) bytes, each an LSB-first stream (core/bit_pack.h) whose last byte
// ends in zeros: the codes of a QuantizedMatrix. `params` hold what each group shares, in the order of Grouping, with
// the scale as its type stores it: f16(p.scale) loses nothing after fitting with ScaleType::f16. Absmax values may be
// quantized in turn (scheme/double_quant.h).
//
// GGUF's blocks have no packed codes beside them: a row is cols/Block::size structs, and the overloads below take
// those.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "nibble/core/bit_pack.h"
#include "nibble/core/error_code.h"
#include "nibble/core/matrix_view.h"
#include "nibble/scheme/gguf_encode.h"
#include "nibble/scheme/granularity.h"
#include "nibble/scheme/scheme.h"

namespace nibble::inline NIBBLE_ABI {

/// How a call on rows ended: true if all is well. An error of sizes says what the call has and what it needs; one of
/// values says where the first such value lies, group by group. throw_on_error() makes it an exception.
struct [[nodiscard]] RowsResult {
  const char* why = nullptr;  ///< Null: all is well. Else what is wrong and what to do, for people.
  ErrorCode code = ErrorCode::invalid_argument;
  std::size_t have = 0, need = 0;  ///< Sizes, where they are what is wrong: need is not 0 then.
  std::size_t row = 0, col = 0;    ///< Else a place, where a value is what is wrong.
  float value = 0;                 ///< That value; of a scale that does not fit, the scale.

  constexpr explicit operator bool() const { return why == nullptr; }
};

namespace detail {
template <class T>
inline constexpr bool is_float_element = false;
template <>
inline constexpr bool is_float_element<float> = true;
template <>
inline constexpr bool is_float_element<f16> = true;
template <>
inline constexpr bool is_float_element<bf16> = true;
}  // namespace detail

/// What rows are made of: fp32, fp16 or bf16.
template <class T>
concept FloatElement = detail::is_float_element<std::remove_const_t<T>>;

#if NIBBLE_EXCEPTIONS
/// Throws Error for a result that is one: its code, and a message that names the tensor `name`, the place and the
/// value, or the sizes.
inline void throw_on_error(const RowsResult& r, std::string_view name) {
  if (r) return;
  const std::string tensor = "tensor '" + std::string(name) + "'";
  if (r.code == ErrorCode::non_finite)
    throw Error(r.code, tensor + ", row " + std::to_string(r.row) + ", column " + std::to_string(r.col) + ": " + r.why +
                            " (it is " + std::to_string(r.value) + ")");
  const std::string sizes =
      r.need == 0 ? "" : " (" + std::to_string(r.have) + " given, " + std::to_string(r.need) + " needed)";
  throw Error(r.code, tensor + ": " + r.why + sizes);
}
#endif

namespace detail {

constexpr RowsResult wrong_size(const char* why, std::size_t have, std::size_t need) {
  return {why, ErrorCode::shape_mismatch, have, need, 0, 0, 0};
}
constexpr RowsResult bad_value(const char* why, std::size_t row, std::size_t col, float value) {
  return {why, ErrorCode::non_finite, 0, 0, row, col, value};
}

/// What both directions ask of a matrix and of the memory that goes with it.
template <Scheme S, class T>
constexpr RowsResult check_rows(MatrixView<T> x, Grouping groups, std::size_t codes, std::size_t params) {
  if (x.rows == 0 || x.cols == 0) return {"the matrix is empty; a group needs a value to be fitted to"};
  if (x.data == nullptr) return {"the matrix has no address: its data is null"};
  if (x.stride < x.cols)
    return wrong_size("the rows overlap; the stride must be at least the columns", x.stride, x.cols);
  if (!is_view(x.data, x.rows, x.cols, x.stride, sizeof(T))) return {"the matrix is larger than memory can be"};
  if (groups.has_size() && groups.size == 0) return {"groups of 0 elements; give a size of at least 1"};
  const std::size_t need = x.rows * packed_bytes(x.cols, S::bits), count = groups.count(x.rows, x.cols);
  if (codes != need) return wrong_size("codes need rows × packed_bytes(cols, bits) bytes", codes, need);
  if (params != count) return wrong_size("params need Grouping::count(rows, cols) elements", params, count);
  return {};
}

/// Schemes that are fitted to a range alone need no copy of a group; of those, some round what they share to a type.
template <class S>
concept FitsRange = requires(Range r) {
  { S::fit(r) } -> std::same_as<typename S::Params>;
};
template <class S>
concept FitsScaleType = requires(Range r, ScaleType type) {
  { S::fit(r, type) } -> std::same_as<typename S::Params>;
};

template <FitsRange S>
constexpr typename S::Params fit_range(Range r, ScaleType type) {
  if constexpr (FitsScaleType<S>) return S::fit(r, type);
  else return S::fit(r);
}

/// The range of a group's values, or the first that is not finite.
template <class T>
constexpr RowsResult range_of_group(MatrixView<T> x, Grouping groups, std::size_t group, Range& range) {
  RowsResult result;
  bool first = true;
  groups.for_each_piece(group, x.rows, x.cols, [&](std::size_t row, std::size_t begin, std::size_t end) {
    for (std::size_t c = begin; c < end && result; ++c) {
      const auto v = static_cast<float>(x(row, c));
      if (!is_finite(v)) result = bad_value("the value is not finite; only finite values can be quantized", row, c, v);
      if (first || v < range.min) range.min = v;
      if (first || v > range.max) range.max = v;
      first = false;
    }
  });
  range = {range.min == 0 ? 0.0f : range.min, range.max == 0 ? 0.0f : range.max};
  return result;
}

/// Codes [begin, end) of a row, each the successor of one that was written before: bytes need not be zero beforehand.
template <int Bits, class Encode>
constexpr void write_codes(std::uint8_t* row, std::size_t begin, std::size_t end, const Encode& encode) {
  for (std::size_t i = begin; i < end;) {
    if (i % 8 == 0 && end - i >= 8) {
      std::uint8_t codes[8]{};
      for (std::size_t j = 0; j < 8; ++j) codes[j] = encode(i + j);
      pack_codes(codes, 8, Bits, row + i / 8 * Bits);
      i += 8;
      continue;
    }
    const std::size_t bit = i % 8 * Bits;
    std::uint8_t* byte = row + i / 8 * Bits + bit / 8;
    if (bit % 8 == 0) byte[0] = 0;
    if (bit % 8 + Bits > 8) byte[1] = 0;
    set_code(row, i, Bits, encode(i));
    ++i;
  }
}

/// Calls body(index, code) for codes [begin, end) of a row, in order.
template <int Bits, class Body>
constexpr void read_codes(const std::uint8_t* row, std::size_t begin, std::size_t end, const Body& body) {
  for (std::size_t i = begin; i < end;) {
    if (i % 8 != 0 || end - i < 8) {
      body(i, get_code(row, i, Bits));
      ++i;
      continue;
    }
    std::uint8_t codes[8]{};
    unpack_codes(row + i / 8 * Bits, 8, Bits, codes);
    for (const std::uint8_t code : codes) body(i++, code);
  }
}

/// The parameters of one group, and the place where it begins, which an error names.
template <Scheme S, class T>
constexpr RowsResult fit_group(MatrixView<T> x, Grouping groups, std::size_t group, ScaleType type,
                               typename S::Params& params) {
  Range range;
  if (const RowsResult r = range_of_group(x, groups, group, range); !r) return r;
  std::size_t first_row = x.rows, first_col = 0, count = 0;
  groups.for_each_piece(group, x.rows, x.cols, [&](std::size_t row, std::size_t begin, std::size_t end) {
    if (first_row == x.rows) first_row = row, first_col = begin;
    count += end - begin;
  });
  if constexpr (FitsRange<S>) {
    params = fit_range<S>(range, type);
  } else {
    static_assert(std::same_as<std::remove_const_t<T>, float>, "a scheme without fit(Range) takes fp32 values");
    if (!groups.within_rows(x.cols) && x.rows > 1 && x.stride != x.cols)
      return {"this scheme needs the values of a group in one piece; use groups within rows, or rows without gaps",
              ErrorCode::unsupported};
    params = S::fit(std::span<const float>(&x(first_row, first_col), count));
  }
  if (const float scale = scale_of(params); !is_finite(scale))
    return bad_value("the scale of the group that begins here does not fit its type; choose f32 or bf16", first_row,
                     first_col, scale);
  return {};
}

}  // namespace detail

/// Fits S to each group of x and encodes every value: rows rounded to nearest. `scale_type`: what scales will be stored
/// as, which encoding takes into account (symmetric and asymmetric schemes; others must be left at f32). A scheme of
/// one's own that cannot be fitted to a Range alone takes fp32 whose groups lie in one piece: within rows, or of rows
/// without gaps.
///
/// Errors, nothing useful is written then: invalid_argument (an empty matrix, no address, group size 0), shape_mismatch
/// (a stride below the columns, codes or params of another size), unsupported (a scale type that S does not take, a
/// group in pieces), non_finite (NaN or infinity, or a scale that its type cannot hold).
template <Scheme S, FloatElement T>
constexpr RowsResult quantize_rows(MatrixView<T> x, Grouping groups, std::span<std::uint8_t> codes,
                                   std::span<typename S::Params> params, ScaleType scale_type = ScaleType::f32) {
  if (const RowsResult r = detail::check_rows<S>(x, groups, codes.size(), params.size()); !r) return r;
  if (!detail::FitsScaleType<S> && scale_type != ScaleType::f32)
    return {"this scheme does not round what a group shares; its scale type is f32", ErrorCode::unsupported};
  for (std::size_t g = 0; g < params.size(); ++g) {
    if (const RowsResult r = detail::fit_group<S>(x, groups, g, scale_type, params[g]); !r) return r;
    groups.for_each_piece(g, x.rows, x.cols, [&](std::size_t row, std::size_t begin, std::size_t end) {
      detail::write_codes<S::bits>(codes.data() + row * packed_bytes(x.cols, S::bits), begin, end,
                                   [&](std::size_t c) { return S::encode(static_cast<float>(x(row, c)), params[g]); });
    });
  }
  return {};
}

/// The inverse: out [rows, cols] of any float type, each value rounded to it once, half to even. Errors as above, and
/// non_finite names the first value that the type cannot hold.
template <Scheme S, FloatElement T>
constexpr RowsResult dequantize_rows(std::span<const std::uint8_t> codes, std::span<const typename S::Params> params,
                                     Grouping groups, MatrixView<T> out) {
  if (const RowsResult r = detail::check_rows<S>(out, groups, codes.size(), params.size()); !r) return r;
  RowsResult result;
  for (std::size_t row = 0; row < out.rows && result; ++row) {
    const std::uint8_t* from = codes.data() + row * packed_bytes(out.cols, S::bits);
    groups.for_each_run(out.cols, row, 0, out.cols, [&](std::size_t begin, std::size_t end, std::size_t group) {
      detail::read_codes<S::bits>(from, begin, end, [&](std::size_t c, std::uint8_t code) {
        const float value = S::decode(code, params[group]);
        out(row, c) = T(value);
        if (!is_finite(static_cast<float>(out(row, c))) && result)
          result = detail::bad_value("the value is not finite in the type it is decoded to; choose f32", row, c, value);
      });
    });
  }
  return result;
}

/// A struct of GGUF's (scheme/gguf_blocks.h).
template <class B>
concept BlockStruct = requires(const B& block, float* out) {
  { B::size } -> std::convertible_to<std::size_t>;
  block.template decode_run<B::group>(std::size_t{0}, out);
};

namespace detail {

template <class Block, class T>
constexpr RowsResult check_blocks(MatrixView<T> x, std::size_t blocks) {
  if (x.rows == 0 || x.cols == 0) return {"the matrix is empty"};
  if (x.data == nullptr) return {"the matrix has no address: its data is null"};
  if (x.stride < x.cols)
    return wrong_size("the rows overlap; the stride must be at least the columns", x.stride, x.cols);
  if (!is_view(x.data, x.rows, x.cols, x.stride, sizeof(T))) return {"the matrix is larger than memory can be"};
  if (x.cols % Block::size != 0)
    return wrong_size("a row must be whole blocks; the columns leave a rest", x.cols,
                      (x.cols / Block::size + 1) * Block::size);
  const std::size_t need = x.rows * (x.cols / Block::size);
  if (blocks != need) return wrong_size("as many blocks as rows × cols/size are needed", blocks, need);
  return {};
}

}  // namespace detail

/// Encodes rows of x as GGUF's blocks, [rows][cols/Block::size]: those that scheme/gguf_encode.h knows. Errors as
/// above; invalid_argument and shape_mismatch for what check the shapes, non_finite for a value that is none and for a
/// block whose scale f16 cannot hold.
template <BlockStruct Block, FloatElement T>
  requires requires(const float* x, Block& b) { blocks::encode(x, b); }
RowsResult quantize_rows(MatrixView<T> x, std::span<Block> to) {
  if (const RowsResult r = detail::check_blocks<Block>(x, to.size()); !r) return r;
  float values[Block::size];
  Block* block = to.data();
  for (std::size_t row = 0; row < x.rows; ++row)
    for (std::size_t first = 0; first < x.cols; first += Block::size, ++block) {
      for (std::size_t i = 0; i < Block::size; ++i) {
        values[i] = static_cast<float>(x(row, first + i));
        if (!is_finite(values[i]))
          return detail::bad_value("the value is not finite; only finite values can be quantized", row, first + i,
                                   values[i]);
      }
      if (!blocks::encode(values, *block))
        return detail::bad_value("f16 cannot hold the scale that the block which begins here needs", row, first,
                                 values[0]);
    }
  return {};
}

/// Decodes rows of GGUF's blocks, all of them. Errors as above.
template <BlockStruct Block, FloatElement T>
constexpr RowsResult dequantize_rows(std::span<const Block> from, MatrixView<T> out) {
  if (const RowsResult r = detail::check_blocks<Block>(out, from.size()); !r) return r;
  float values[Block::size]{};
  const Block* block = from.data();
  for (std::size_t row = 0; row < out.rows; ++row)
    for (std::size_t first = 0; first < out.cols; first += Block::size, ++block) {
      blocks::decode(*block, values);
      for (std::size_t i = 0; i < Block::size; ++i) {
        out(row, first + i) = T(values[i]);
        if (!is_finite(static_cast<float>(out(row, first + i))))
          return detail::bad_value("the value is not finite in the type it is decoded to; choose f32", row, first + i,
                                   values[i]);
      }
    }
  return {};
}

}  // namespace nibble::inline NIBBLE_ABI
