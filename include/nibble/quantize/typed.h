// Quantizers with the scheme as a type: for a group at compile time, or for a matrix through the same backends.
#pragma once

#include <span>
#include <string>

#include "nibble/core/error.h"
#include "nibble/matrix/scheme_registry.h"
#include "nibble/quantize/quantize.h"
#include "nibble/scheme/scheme.h"

namespace nibble::inline NIBBLE_ABI {

/// Fits S to one group of finite values and encodes each, one code per byte. The plainest quantizer there is,
/// constexpr. Error{shape_mismatch} unless codes is as long as values, Error{invalid_argument} if both are empty.
template <Scheme S>
constexpr typename S::Params quantize_group(std::span<const float> values, std::span<std::uint8_t> codes) {
  if (values.empty()) throw Error(ErrorCode::invalid_argument, "an empty group has no scale");
  if (values.size() != codes.size())
    throw Error(ErrorCode::shape_mismatch, "quantize_group: as many codes as values are needed");
  const typename S::Params params = S::fit(values);
  for (std::size_t i = 0; i < values.size(); ++i) codes[i] = S::encode(values[i], params);
  return params;
}

/// What the typed front door takes beside the scheme: the fields of QuantSpec that the type leaves open.
struct TypedOptions {
  Granularity granularity = Granularity::group;  ///< Ignored by codebook schemes (block) and LLM.int8 (channel).
  std::size_t group_size = 128;
  std::size_t block_size = 64;  ///< Codebook schemes.
  ScaleType scale_type = ScaleType::f16;
  bool double_quant = false;  ///< Codebook schemes.
};

namespace detail {

template <class S>
struct SpecOf;

template <int B, bool NarrowRange>
struct SpecOf<Symmetric<B, NarrowRange>> {
  static void set(QuantSpec& s) {
    s.scheme = SchemeKind::symmetric;
    s.bits = B;
    s.narrow_range = NarrowRange;
  }
};
template <int B, bool PreserveZero>
struct SpecOf<Asymmetric<B, PreserveZero>> {
  static void set(QuantSpec& s) {
    s.scheme = SchemeKind::asymmetric;
    s.bits = B;
    s.preserve_zero = PreserveZero;
  }
};
template <int B>
struct SpecOf<RealZero<B>> {
  static void set(QuantSpec& s) {
    s.scheme = SchemeKind::real_zero;
    s.bits = B;
  }
};
template <class Table>
struct SpecOf<Codebook<Table>> {
  static void set(QuantSpec& s) {
    const auto kind = find_scheme(Table::name);
    if (!kind)
      throw Error(ErrorCode::not_found, "no scheme '" + std::string(Table::name) +
                                            "' is registered; register_scheme(codebook_scheme<Table>()) does it, and "
                                            "quantize_group and quantize_rows take any table");
    s.scheme = *kind;
    s.bits = Codebook<Table>::bits;
  }
};
template <class F>
struct SpecOf<FloatCodes<F>> {
  static void set(QuantSpec& s) {
    const auto kind = find_scheme(F::name);
    if (!kind)
      throw Error(ErrorCode::not_found,
                  "no scheme '" + std::string(F::name) + "' is registered; register_scheme(float_scheme<F>()) does it");
    s.scheme = *kind;
    s.bits = F::bits;
  }
};
template <>
struct SpecOf<LlmInt8> {
  static void set(QuantSpec& s) {
    s.scheme = SchemeKind::llm_int8;
    s.bits = 8;
  }
};

}  // namespace detail

/// The run-time spec of a scheme and its options. Error{not_found} for a table that is not registered.
template <Scheme S>
QuantSpec spec_of(const TypedOptions& options) {
  QuantSpec s;
  detail::SpecOf<S>::set(s);
  const bool is_blockwise = s.is_codebook() && !s.has_float_codes();
  s.granularity = is_blockwise                       ? Granularity::block
                  : s.scheme == SchemeKind::llm_int8 ? Granularity::channel
                                                     : options.granularity;
  s.group_size = !s.grouping().has_size() ? 0 : is_blockwise ? options.block_size : options.group_size;
  s.scale_type = s.is_affine() || s.has_real_zeros() ? options.scale_type : ScaleType::f32;
  s.double_quant = options.double_quant;
  s.validate();
  return s;
}

/// quantize<Codebook<nf4>>(weights, {.block_size = 64, .double_quant = true})
template <Scheme S>
QuantizedMatrix quantize(FloatMatrix weights, const TypedOptions& options = {}, const QuantizeOptions& run = {}) {
  return quantize(weights, spec_of<S>(options), run);
}

}  // namespace nibble::inline NIBBLE_ABI
