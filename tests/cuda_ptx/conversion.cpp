// cvt: between integers and floats of every width.
#include <cfenv>
#include <cmath>
#include <limits>

#include "tests/cuda_ptx/number_formats.h"
#include "tests/cuda_ptx/thread.h"

namespace nibble::cuda_ptx {

namespace {

enum Rounding { nearest, towards_zero, down, up };

/// A value of any source type: an integer, or a float, which a double holds exactly.
struct Value {
  bool is_float = false;
  bool is_negative = false;   ///< integers
  std::uint64_t integer = 0;  ///< Sign-extended.
  double real = 0;
};

Value load(const Thread& t, const Operand& o, const Type& type) {
  Value v;
  v.is_float = type.is_float();
  if (v.is_float) {
    if (type.bits == 16) v.real = value_of(read<std::uint16_t>(t, o), type.kind == 'f' ? f16_format : bf16_format);
    else v.real = type.bits == 32 ? static_cast<double>(read<float>(t, o)) : read<double>(t, o);
    return v;
  }
  const int unused = 64 - type.bits;
  const std::uint64_t raw = bits(t, o) << unused;
  if (type.kind == 's') {
    v.integer = static_cast<std::uint64_t>(static_cast<std::int64_t>(raw) >> unused);
    v.is_negative = static_cast<std::int64_t>(v.integer) < 0;
  } else {
    v.integer = raw >> unused;
  }
  return v;
}

double round_to_integer(double x, Rounding how) {
  switch (how) {
    case nearest: return std::nearbyint(x);
    case towards_zero: return std::trunc(x);
    case down: return std::floor(x);
    case up: return std::ceil(x);
  }
  return x;
}

/// Out of range: the nearest end. NaN: 0.
std::uint64_t to_integer(double x, const Type& to) {
  if (std::isnan(x)) return 0;
  const bool is_signed = to.kind == 's';
  const double low = is_signed ? -std::ldexp(1.0, to.bits - 1) : 0,
               end = std::ldexp(1.0, is_signed ? to.bits - 1 : to.bits);
  if (x < low) return is_signed ? ~std::uint64_t{0} << (to.bits - 1) : 0;
  if (x >= end)
    return (is_signed ? (std::uint64_t{1} << (to.bits - 1)) : (to.bits == 64 ? 0 : std::uint64_t{1} << to.bits)) - 1;
  return is_signed ? static_cast<std::uint64_t>(static_cast<std::int64_t>(x)) : static_cast<std::uint64_t>(x);
}

/// To the nearest float, or the neighbour on the side that is asked for.
float to_float(double x, Rounding how) {
  const auto f = static_cast<float>(x);
  const double got = static_cast<double>(f);
  if (how == nearest || got == x || std::isnan(x)) return f;
  const bool is_too_large = got > x;
  const bool wants_smaller = how == down || (how == towards_zero && x > 0);
  if (wants_smaller == is_too_large) return std::nextafter(f, is_too_large ? -INFINITY : INFINITY);
  return f;
}

void store_float(Thread& t, const Operand& o, const Value& v, const Type& to, Rounding how) {
  if (to.bits == 64) {
    const double d = v.is_float      ? v.real
                     : v.is_negative ? static_cast<double>(static_cast<std::int64_t>(v.integer))
                                     : static_cast<double>(v.integer);
    return write(t, o, d);
  }
  if (to.bits == 32) {
    if (v.is_float) return write(t, o, to_float(v.real, how));
    return write(
        t, o, v.is_negative ? static_cast<float>(static_cast<std::int64_t>(v.integer)) : static_cast<float>(v.integer));
  }
  const double d = v.is_float      ? v.real
                   : v.is_negative ? static_cast<double>(static_cast<std::int64_t>(v.integer))
                                   : static_cast<double>(v.integer);
  write(t, o, downcast(d, to.kind == 'f' ? f16_format : bf16_format));
}

void store_integer(Thread& t, const Operand& o, std::uint64_t value, const Type& to) {
  const int unused = 64 - to.bits;
  const std::uint64_t raw = value << unused;
  write(t, o, to.kind == 's' ? static_cast<std::uint64_t>(static_cast<std::int64_t>(raw) >> unused) : raw >> unused);
}

constexpr int rounds_to_integral = 8, saturates = 16;

std::uint64_t saturated(const Value& v, const Type& to) {
  const int width = to.kind == 's' ? to.bits - 1 : to.bits;
  const std::uint64_t most = width == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << width) - 1;
  if (!v.is_negative) return v.integer > most ? most : v.integer;
  if (to.kind != 's') return 0;
  const std::int64_t least = -static_cast<std::int64_t>(most) - 1, n = static_cast<std::int64_t>(v.integer);
  return static_cast<std::uint64_t>(n < least ? least : n);
}

void convert(Thread& t, const Instruction& i) {
  const Type &to = i.from, &source = i.type;
  const auto how = static_cast<Rounding>(i.detail & 3);
  Value v = load(t, i.operands[1], source);
  if (v.is_float && (i.detail & rounds_to_integral) != 0) v.real = round_to_integer(v.real, how);
  if (to.is_float()) {
    if (v.is_float && (i.detail & saturates) != 0) v.real = std::isnan(v.real) ? 0 : std::fmin(std::fmax(v.real, 0), 1);
    return store_float(t, i.operands[0], v, to, how);
  }
  const std::uint64_t value = v.is_float                    ? to_integer(v.real, to)
                              : (i.detail & saturates) != 0 ? saturated(v, to)
                                                            : v.integer;
  store_integer(t, i.operands[0], value, to);
}
/// cvt.rn.f16x2.f32 d, a, b: a in the high half.
void convert_pair(Thread& t, const Instruction& i) {
  const Format format = i.from.kind == 'f' ? f16_format : bf16_format;
  const std::uint32_t high = downcast(static_cast<double>(read<float>(t, i.operands[1])), format);
  write(t, i.operands[0], high << 16 | downcast(static_cast<double>(read<float>(t, i.operands[2])), format));
}

}  // namespace

Execute find_conversion(Instruction& i) {
  if (i.words[0] != "cvt" || i.from.bits == 0 || i.has("ftz") || i.has("relu") || i.has("satfinite")) return nullptr;
  if (i.from.lanes == 2)
    return i.has("rn") && i.type == Type{'f', 32} && i.operands.size() == 3 ? convert_pair : nullptr;
  if (i.type.lanes == 2) return nullptr;
  for (std::size_t k = 1; k < i.words.size(); ++k) {
    const std::string& word = i.words[k];
    if (word == "sat") i.detail |= saturates;
    if (word[0] != 'r') continue;
    i.detail |= word[1] == 'z' ? towards_zero : word[1] == 'm' ? down : word[1] == 'p' ? up : nearest;
    if (word.size() == 3) i.detail |= rounds_to_integral;
  }
  const bool is_directed = (i.detail & 3) != nearest && (i.detail & rounds_to_integral) == 0;
  if (is_directed && !(i.from == Type{'f', 32} && i.type.is_float())) return nullptr;
  return convert;
}

}  // namespace nibble::cuda_ptx
