// The schemes that a spec can name beside the integer ones and LLM.int8: NF4, FP4, the dynamic map, the small floats
// (FP8, MX, NVFP4), and those that a program registers. A row says what the generic paths need: its name, its bits, the
// value of each code, and how a block is quantized. With it a scheme is parsed and printed, quantized, dequantized,
// multiplied by (of 4 bits by the fast kernels, of others a panel at a time), written and read in our own file layout,
// and compared.
//
//   struct my_table { static constexpr std::string_view name = "mine3";
//                     static constexpr std::array<float, 8> values() { return {-1, …, 1}; } };
//   nibble::register_scheme(nibble::codebook_scheme<my_table>());              // once, when the program starts
//   auto q = nibble::quantize(weights, "mine3-b64-dq");
//
// A scheme with a rule of its own for parameters and codes is a type that meets the concept Scheme:
// own_scheme<S>("mine"). What its blocks share must be one float, and what a code is worth in proportion to it.
//
// A float format of eight bits or fewer is float_scheme<F>(): its scales may be of any granularity and type.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "nibble/matrix/quant_spec.h"
#include "nibble/scheme/rank_keys.h"
#include "nibble/scheme/scheme.h"
#include "nibble/scheme/small_float.h"

namespace nibble::inline NIBBLE_ABI {

/// A row of the registry. What it points to lives as long as the process: a template below makes it.
struct SchemeEntry {
  std::string_view name;  ///< How the text of a spec begins: lower-case letters and digits, not "int…" or "llm".
  int bits = 4;           ///< 2 … 8.
  std::size_t block_size = 64;  ///< Of a spec that says none.
  /// 2^bits finite values: what a code is worth times the block's absmax. Of float_scheme times its scale, and NaN for
  /// a code that is no number.
  std::span<const float> codebook;
  /// The code of a scaled value, by its rank among thresholds (CodebookOrder), 2^bits of each; or null, and
  /// quantize_group.
  const float* thresholds = nullptr;
  const std::uint8_t* code_of_rank = nullptr;
  bool ranks_are_codes = false;  ///< code_of_rank[r] = r: the look-up can be left out.
  /// For 256 thresholds: their RankKeys (scheme/rank_keys.h), or null where a key has several. Quantizing is faster.
  const float* rank_keys = nullptr;
  /// Fits a block of finite values, at least one, and writes a code for each: returns what they share, as stored.
  float (*quantize_group)(std::span<const float> values, std::uint8_t* codes) = nullptr;
  /// Of float_scheme; the other rows have none of these. fit_scale<F>, fit_tensor_divisor<F>, and F::encode of each
  /// x / scale.
  float (*fit_scale)(std::span<const float> values, float absmax, const ScaleFit& fit) = nullptr;
  float (*fit_tensor_divisor)(float absmax) = nullptr;
  void (*encode_floats)(std::span<const float> values, float scale, std::uint8_t* codes) = nullptr;
};

/// The row of a table: value = codebook[code] · absmax, codes by the nearest value (scheme/codebook.h).
template <class Table>
constexpr SchemeEntry codebook_scheme(std::size_t block_size = 64) {
  using S = Codebook<Table>;
  const auto& order = S::order();
  SchemeEntry row{Table::name, S::bits, block_size, S::values(), order.threshold.data(), order.code.data()};
  row.ranks_are_codes = order.ranks == S::size;
  for (std::size_t r = 0; r < order.ranks; ++r) row.ranks_are_codes = row.ranks_are_codes && order.code[r] == r;
  if constexpr (S::size == 256)
    if (kRankKeys<Table>.holds()) row.rank_keys = kRankKeys<Table>.entries().data();
  return row;
}

namespace detail {

template <class F>
inline constexpr auto kFloatValues = F::values();

}  // namespace detail

/// The row of a float format (scheme/small_float.h).
template <class F>
constexpr SchemeEntry float_scheme() {
  SchemeEntry row{F::name, F::bits, 0, detail::kFloatValues<F>};
  row.fit_scale = fit_scale<F>;
  row.fit_tensor_divisor = fit_tensor_divisor<F>;
  row.encode_floats = [](std::span<const float> values, float scale, std::uint8_t* codes) {
    for (std::size_t i = 0; i < values.size(); ++i) codes[i] = F::encode(values[i] / scale);
  };
  return row;
}

namespace detail {

/// What the codes of S are worth where its blocks share `scale`.
template <Scheme S>
constexpr std::array<float, (std::size_t{1} << S::bits)> values_at(float scale) {
  typename S::Params p{};
  if constexpr (requires { p.scale; }) p.scale = scale;
  else p.absmax = scale;
  std::array<float, (std::size_t{1} << S::bits)> out{};
  for (std::size_t c = 0; c < out.size(); ++c) out[c] = S::decode(static_cast<std::uint8_t>(c), p);
  return out;
}
template <Scheme S>
inline constexpr auto kUnitValues = values_at<S>(1.0f);

template <Scheme S>
constexpr bool is_in_proportion() {
  for (const float scale : {0.7f, 0x1.8p-100f, 3e7f}) {
    const auto values = values_at<S>(scale);
    for (std::size_t c = 0; c < values.size(); ++c)
      if (values[c] != kUnitValues<S>[c] * scale) return false;
  }
  return true;
}

}  // namespace detail

/// The row of a scheme with a rule of its own. Its Params hold one float, named `scale` or `absmax`.
template <Scheme S>
constexpr SchemeEntry own_scheme(std::string_view name, std::size_t block_size = 64) {
  static_assert(sizeof(typename S::Params) == sizeof(float), "blocks of a registered scheme share one float");
  static_assert(detail::is_in_proportion<S>(), "decode(code, p) must be decode(code, 1) times what the block shares");
  SchemeEntry row{name, S::bits, block_size, detail::kUnitValues<S>};
  row.quantize_group = [](std::span<const float> values, std::uint8_t* codes) {
    const typename S::Params p = S::fit(values);
    for (std::size_t i = 0; i < values.size(); ++i) codes[i] = S::encode(values[i], p);
    return detail::scale_of(p);
  };
  return row;
}

/// Makes a scheme known by its name, and returns the kind that stands for it in a QuantSpec. Thread safe; rows are
/// never taken back. Error{invalid_argument} names what is wrong: a name that is taken or is none, bits outside 2 … 8,
/// a codebook of another size or with a value that is not finite, no way to quantize, more schemes than a kind can
/// number. (A float format's NaN is allowed.)
SchemeKind register_scheme(const SchemeEntry& row);

/// The row of a codebook's kind; null for the integer schemes, LLM.int8, and a kind that was never registered.
const SchemeEntry* scheme_entry(SchemeKind kind) noexcept;
/// The kind of that name.
std::optional<SchemeKind> find_scheme(std::string_view name);
/// Every name, in the order of registration, the built-in ones first.
std::vector<std::string_view> scheme_names();

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/matrix/impl/quant_spec_inl.h"
#include "nibble/matrix/impl/scheme_registry_inl.h"
#endif
