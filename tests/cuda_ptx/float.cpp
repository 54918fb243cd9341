// Floating-point arithmetic and comparisons: IEEE, each operation rounded once to the nearest. A NaN keeps an operand's
// bits, as in the emulation; a device gives each the same ones.
#include <array>
#include <cmath>
#include <functional>

#include "tests/cuda_ptx/number_formats.h"
#include "tests/cuda_ptx/thread.h"

namespace nibble::cuda_ptx {

namespace {

/// min and max return the operand that is a number; −0 is less than 0.
template <class T>
T smaller(T a, T b) {
  if (std::isnan(a)) return b;
  if (std::isnan(b)) return a;
  return a < b || (a == b && std::signbit(a)) ? a : b;
}
template <class T>
T larger(T a, T b) {
  return -smaller(-a, -b);
}

enum class Operation { add, sub, mul, fma, div, rcp, sqrt, rsqrt, neg, abs, min, max, ex2, lg2, sin, cos, tanh, none };

Operation operation_of(const std::string& word) {
  constexpr std::array<const char*, 17> names{"add", "sub", "mul", "fma", "div", "rcp", "sqrt", "rsqrt", "neg",
                                              "abs", "min", "max", "ex2", "lg2", "sin", "cos",  "tanh"};
  for (std::size_t k = 0; k < names.size(); ++k)
    if (word == names[k]) return static_cast<Operation>(k);
  return Operation::none;
}

/// One operation in float or double.
template <class T>
T compute(Operation operation, T a, T b, T c) {
  switch (operation) {
    case Operation::add: return a + b;
    case Operation::sub: return a - b;
    case Operation::mul: return a * b;
    case Operation::fma: return std::fma(a, b, c);
    case Operation::div: return a / b;
    case Operation::rcp: return T{1} / a;
    case Operation::sqrt: return std::sqrt(a);
    case Operation::rsqrt: return static_cast<T>(1 / std::sqrt(static_cast<double>(a)));
    case Operation::neg: return -a;
    case Operation::abs: return std::fabs(a);
    case Operation::min: return smaller(a, b);
    case Operation::max: return larger(a, b);
    case Operation::ex2: return static_cast<T>(std::exp2(static_cast<double>(a)));
    case Operation::lg2: return static_cast<T>(std::log2(static_cast<double>(a)));
    case Operation::sin: return static_cast<T>(std::sin(static_cast<double>(a)));
    case Operation::cos: return static_cast<T>(std::cos(static_cast<double>(a)));
    case Operation::tanh: return static_cast<T>(std::tanh(static_cast<double>(a)));
    case Operation::none: break;
  }
  return a;
}
/// One operation on 16-bit floats in double, so that rounding to 16 bits is the only rounding: sums to odd; products
/// are exact; the others have no ties or lie far enough from them.
double compute_wide(Operation operation, double a, double b, double c) {
  if (operation == Operation::add) return add_to_odd(a, b);
  if (operation == Operation::sub) return add_to_odd(a, -b);
  if (operation == Operation::fma) return add_to_odd(a * b, c);
  return compute(operation, a, b, c);
}

template <class T>
void scalar(Thread& t, const Instruction& i) {
  std::array<T, 3> x{};
  for (std::size_t k = 1; k < i.operands.size(); ++k) x[k - 1] = read<T>(t, i.operands[k]);
  write<T>(t, i.operands[0], compute(static_cast<Operation>(i.detail), x[0], x[1], x[2]));
}
void half(Thread& t, const Instruction& i) {
  const Format format = i.type.kind == 'f' ? f16_format : bf16_format;
  std::uint32_t out = 0;
  for (int lane = 0; lane < i.type.lanes; ++lane) {
    std::array<double, 3> x{};
    std::array<std::uint16_t, 3> code{};
    for (std::size_t k = 1; k < i.operands.size(); ++k) {
      code[k - 1] = static_cast<std::uint16_t>(bits(t, i.operands[k]) >> (16 * lane));
      x[k - 1] = value_of(code[k - 1], format);
    }
    const auto operation = static_cast<Operation>(i.detail);
    std::uint16_t result = 0;
    if (operation == Operation::neg) result = code[0] ^ 0x8000;
    else if (operation == Operation::abs) result = code[0] & 0x7fff;
    else result = downcast(compute_wide(operation, x[0], x[1], x[2]), format);
    out |= std::uint32_t{result} << (16 * lane);
  }
  write(t, i.operands[0], out);
}

enum class Compare { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan, none };
Compare compare_of(const std::string& word) {
  constexpr std::array<const char*, 14> names{"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                                              "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
  for (std::size_t k = 0; k < names.size(); ++k)
    if (word == names[k]) return static_cast<Compare>(k);
  // Names of unsigned comparisons.
  if (word == "lo") return Compare::lt;
  if (word == "ls") return Compare::le;
  if (word == "hi") return Compare::gt;
  if (word == "hs") return Compare::ge;
  return Compare::none;
}
template <class T>
bool compare(Compare how, T a, T b) {
  const bool unordered = a != a || b != b;
  switch (how) {
    case Compare::eq: return a == b;
    case Compare::ne: return !unordered && a != b;
    case Compare::lt: return a < b;
    case Compare::le: return a <= b;
    case Compare::gt: return a > b;
    case Compare::ge: return a >= b;
    case Compare::equ: return unordered || a == b;
    case Compare::neu: return a != b;
    case Compare::ltu: return unordered || a < b;
    case Compare::leu: return unordered || a <= b;
    case Compare::gtu: return unordered || a > b;
    case Compare::geu: return unordered || a >= b;
    case Compare::num: return !unordered;
    case Compare::nan: return unordered;
    case Compare::none: break;
  }
  return false;
}
double wide(const Thread& t, const Operand& o, Format format) { return value_of(read<std::uint16_t>(t, o), format); }

bool compare_operands(const Thread& t, const Instruction& i) {
  const auto how = static_cast<Compare>(i.detail);
  const Operand &a = i.operands[1], &b = i.operands[2];
  const auto as = [&]<class T>(T) { return compare(how, read<T>(t, a), read<T>(t, b)); };
  const bool is_signed = i.type.kind == 's';
  if (i.type.is_float()) {
    if (i.type.bits == 32) return as(float{});
    if (i.type.bits == 64) return as(double{});
    const Format format = i.type.kind == 'f' ? f16_format : bf16_format;
    return compare(how, wide(t, a, format), wide(t, b, format));
  }
  if (i.type.bits == 16) return is_signed ? as(std::int16_t{}) : as(std::uint16_t{});
  if (i.type.bits == 32) return is_signed ? as(std::int32_t{}) : as(std::uint32_t{});
  return is_signed ? as(std::int64_t{}) : as(std::uint64_t{});
}
/// setp p[|q], a, b[, c]: the comparison, and its opposite, each joined to c.
void set_predicate(Thread& t, const Instruction& i) {
  const bool holds = compare_operands(t, i);
  const auto join = [&](bool value) {
    if (i.operands.size() < 4) return value;
    const bool c = bits(t, i.operands[3]) != 0;
    return i.has("and") ? value && c : i.has("or") ? value || c : value != c;
  };
  if (i.operands[0].kind != Operand::vector) return write<std::uint8_t>(t, i.operands[0], join(holds));
  write<std::uint8_t>(t, i.operands[0].parts[0], join(holds));
  write<std::uint8_t>(t, i.operands[0].parts[1], join(!holds));
}

}  // namespace

Execute find_float(Instruction& i) {
  if (i.words[0] == "setp") {
    i.detail = static_cast<int>(compare_of(i.words[1]));
    return static_cast<Compare>(i.detail) != Compare::none && i.type.lanes == 1 && !i.has("ftz") ? set_predicate
                                                                                                 : nullptr;
  }
  if (!i.type.is_float()) return nullptr;
  const Operation operation = operation_of(i.words[0]);
  for (const char* unknown : {"rz", "rm", "rp", "ftz", "sat", "NaN", "relu", "xorsign"})
    if (i.has(unknown)) return nullptr;
  if (operation == Operation::none || i.operands.size() > 4) return nullptr;
  i.detail = static_cast<int>(operation);
  if (i.type.bits == 16) return half;
  return i.type.bits == 32 ? scalar<float> : scalar<double>;
}

}  // namespace nibble::cuda_ptx
