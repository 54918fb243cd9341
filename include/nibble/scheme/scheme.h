// The concept every scheme meets: the only definition of its arithmetic, constexpr and free of state.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include "nibble/scheme/affine.h"
#include "nibble/scheme/codebook.h"
#include "nibble/scheme/llm_int8.h"
#include "nibble/scheme/real_zero.h"
#include "nibble/scheme/small_float.h"

namespace nibble::inline NIBBLE_ABI {

/// bits: width of a code, 2 … 8. fit: parameters for a group of finite values. encode: finite x → code, total and
/// monotone in x (in decoded value). decode: its inverse on codes. Kernels, CUDA code and tests all check against it.
template <class S>
concept Scheme = requires(float x, std::uint8_t code, std::span<const float> values, typename S::Params p) {
  { S::bits } -> std::convertible_to<int>;
  { S::fit(values) } -> std::same_as<typename S::Params>;
  { S::encode(x, p) } -> std::same_as<std::uint8_t>;
  { S::decode(code, p) } -> std::same_as<float>;
};

namespace detail {

/// The one float of what a group shares, its scale or absmax; 0 for parameters that have neither by that name.
template <class Params>
constexpr float scale_of(const Params& p) {
  if constexpr (requires { p.scale; }) return p.scale;
  else if constexpr (requires { p.absmax; }) return p.absmax;
  else return 0;
}

}  // namespace detail

static_assert(Scheme<Symmetric<4>> && Scheme<Asymmetric<3>> && Scheme<RealZero<4>> && Scheme<Codebook<nf4>> &&
              Scheme<LlmInt8> && Scheme<FloatCodes<e4m3>>);

}  // namespace nibble::inline NIBBLE_ABI
