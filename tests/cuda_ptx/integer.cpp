// Integer, bit and predicate arithmetic, moves and selections.
#include <algorithm>
#include <bit>
#include <functional>

#include "tests/cuda_ptx/thread.h"

namespace nibble::cuda_ptx {

namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
using Wider = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, std::int32_t, std::uint32_t>,
                                 std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>>;
template <class T>
T wrap(Unsigned<T> v) {
  return static_cast<T>(v);
}

/// a·b in twice the width: the high half.
template <class T>
T multiply_high(T a, T b) {
  using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
  return static_cast<T>((static_cast<Wide>(a) * static_cast<Wide>(b)) >> (8 * sizeof(T)));
}
template <class T>
T multiply_low(T a, T b) {
  return static_cast<T>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
}
template <class T>
Wider<T> multiply_wide(T a, T b) {
  return static_cast<Wider<T>>(static_cast<Wider<T>>(a) * static_cast<Wider<T>>(b));
}

template <class T, class F>
void unary(Thread& t, const Instruction& i, F f) {
  write<T>(t, i.operands[0], static_cast<T>(f(read<T>(t, i.operands[1]))));
}
template <class T, class F>
void binary(Thread& t, const Instruction& i, F f) {
  write<T>(t, i.operands[0], static_cast<T>(f(read<T>(t, i.operands[1]), read<T>(t, i.operands[2]))));
}

/// An operation on one of the integer types, chosen by the instruction's type. Operation<T>::run(t, i).
template <template <class> class Operation>
Execute by_type(const Type& type) {
  const bool is_signed = type.kind == 's';
  switch (type.lanes == 1 ? type.bits : 0) {
    case 8: return is_signed ? &Operation<std::int8_t>::run : &Operation<std::uint8_t>::run;
    case 16: return is_signed ? &Operation<std::int16_t>::run : &Operation<std::uint16_t>::run;
    case 32: return is_signed ? &Operation<std::int32_t>::run : &Operation<std::uint32_t>::run;
    case 64: return is_signed ? &Operation<std::int64_t>::run : &Operation<std::uint64_t>::run;
    default: return nullptr;
  }
}

#define NIBBLE_PTX_BINARY(Name, expression)                                      \
  template <class T>                                                             \
  struct Name {                                                                  \
    static void run(Thread& t, const Instruction& i) {                           \
      binary<T>(t, i, [](T a, T b) -> T { return static_cast<T>(expression); }); \
    }                                                                            \
  };
NIBBLE_PTX_BINARY(Add, static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b))
NIBBLE_PTX_BINARY(Subtract, static_cast<std::uint64_t>(a) - static_cast<std::uint64_t>(b))
NIBBLE_PTX_BINARY(MultiplyLow, multiply_low(a, b))
NIBBLE_PTX_BINARY(MultiplyHigh, multiply_high(a, b))
NIBBLE_PTX_BINARY(Minimum, std::min(a, b))
NIBBLE_PTX_BINARY(Maximum, std::max(a, b))
NIBBLE_PTX_BINARY(And, a& b)
NIBBLE_PTX_BINARY(Or, a | b)
NIBBLE_PTX_BINARY(Xor, a ^ b)
#undef NIBBLE_PTX_BINARY

template <class T>
struct Not {
  static void run(Thread& t, const Instruction& i) {
    unary<T>(t, i, [](T a) { return ~a; });
  }
};
template <class T>
struct Negate {
  static void run(Thread& t, const Instruction& i) {
    unary<T>(t, i, [](T a) { return 0 - static_cast<std::uint64_t>(a); });
  }
};
template <class T>
struct Absolute {
  static void run(Thread& t, const Instruction& i) {
    unary<T>(t, i, [](T a) { return a < 0 ? 0 - static_cast<std::uint64_t>(a) : static_cast<std::uint64_t>(a); });
  }
};
/// Division by zero has no defined result; nothing here may need one.
template <class T>
struct Divide {
  static void run(Thread& t, const Instruction& i) {
    const T a = read<T>(t, i.operands[1]), b = read<T>(t, i.operands[2]);
    if (b == 0) fault(t, i, "division by zero");
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return write<T>(t, i.operands[0], static_cast<T>(0 - static_cast<std::uint64_t>(a)));
    write<T>(t, i.operands[0], static_cast<T>(a / b));
  }
};
template <class T>
struct Remainder {
  static void run(Thread& t, const Instruction& i) {
    const T a = read<T>(t, i.operands[1]), b = read<T>(t, i.operands[2]);
    if (b == 0) fault(t, i, "division by zero");
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return write<T>(t, i.operands[0], T{0});
    write<T>(t, i.operands[0], static_cast<T>(a % b));
  }
};
template <class T>
struct ShiftLeft {
  static void run(Thread& t, const Instruction& i) {
    const auto n = read<std::uint32_t>(t, i.operands[2]);
    unary<T>(t, i, [n](T a) { return n >= 8 * sizeof(T) ? 0 : static_cast<std::uint64_t>(a) << n; });
  }
};
template <class T>
struct ShiftRight {
  static void run(Thread& t, const Instruction& i) {
    const auto n = read<std::uint32_t>(t, i.operands[2]);
    const std::uint32_t most = 8 * sizeof(T);
    unary<T>(t, i, [n, most](T a) { return n >= most ? (a < 0 ? -1 : 0) : static_cast<T>(a >> n); });
  }
};
template <class T>
struct MultiplyAddLow {
  static void run(Thread& t, const Instruction& i) {
    const T product = multiply_low(read<T>(t, i.operands[1]), read<T>(t, i.operands[2]));
    write<T>(
        t, i.operands[0],
        static_cast<T>(static_cast<std::uint64_t>(product) + static_cast<std::uint64_t>(read<T>(t, i.operands[3]))));
  }
};
template <class T>
struct MultiplyAddHigh {
  static void run(Thread& t, const Instruction& i) {
    const T product = multiply_high(read<T>(t, i.operands[1]), read<T>(t, i.operands[2]));
    write<T>(
        t, i.operands[0],
        static_cast<T>(static_cast<std::uint64_t>(product) + static_cast<std::uint64_t>(read<T>(t, i.operands[3]))));
  }
};
template <class T>
struct MultiplyWide {
  static void run(Thread& t, const Instruction& i) {
    write(t, i.operands[0], multiply_wide(read<T>(t, i.operands[1]), read<T>(t, i.operands[2])));
  }
};
template <class T>
struct MultiplyAddWide {
  static void run(Thread& t, const Instruction& i) {
    using W = Wider<T>;
    const W product = multiply_wide(read<T>(t, i.operands[1]), read<T>(t, i.operands[2]));
    write(t, i.operands[0],
          static_cast<W>(static_cast<std::uint64_t>(product) + static_cast<std::uint64_t>(read<W>(t, i.operands[3]))));
  }
};
template <class T>
struct Select {
  static void run(Thread& t, const Instruction& i) {
    write<T>(t, i.operands[0], read<T>(t, i.operands[bits(t, i.operands[3]) != 0 ? 1 : 2]));
  }
};
template <class T>
struct BitInsert {  // bfi d, a, b, position, length: a's low bits into b
  static void run(Thread& t, const Instruction& i) {
    const std::uint64_t at = bits(t, i.operands[3]) & 255, length = bits(t, i.operands[4]) & 255;
    const std::uint64_t field = length >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << length) - 1;
    const std::uint64_t mask = at >= 64 ? 0 : field << at;
    const std::uint64_t moved = at >= 64 ? 0 : bits(t, i.operands[1]) << at;
    write<T>(t, i.operands[0], static_cast<T>((bits(t, i.operands[2]) & ~mask) | (moved & mask)));
  }
};
template <class T>
struct BitExtract {  // bfe d, a, position, length; of a signed type with its sign
  static void run(Thread& t, const Instruction& i) {
    constexpr int width = 8 * sizeof(T);
    const T a = read<T>(t, i.operands[1]);
    const int at = static_cast<int>(bits(t, i.operands[2]) & 255),
              length = static_cast<int>(bits(t, i.operands[3]) & 255);
    const int top = std::min(at + length, width) - 1;
    const bool sign =
        std::is_signed_v<T> && length > 0 && (static_cast<Unsigned<T>>(a) >> std::min(top, width - 1) & 1) != 0;
    Unsigned<T> out = 0;
    for (int k = 0; k < width; ++k) {
      const bool bit = k < length && at + k < width ? (static_cast<Unsigned<T>>(a) >> (at + k) & 1) != 0 : sign;
      out = static_cast<Unsigned<T>>(out | static_cast<Unsigned<T>>(Unsigned<T>{bit} << k));
    }
    write<T>(t, i.operands[0], static_cast<T>(out));
  }
};

void move(Thread& t, const Instruction& i) {
  const Operand &to = i.operands[0], &from = i.operands[1];
  const auto part_bits = [&](const Operand& o) {
    return i.type.bits * i.type.lanes / static_cast<int>(o.parts.size());
  };
  if (from.kind == Operand::vector) {
    std::uint64_t value = 0;
    const int width = part_bits(from);
    for (std::size_t k = 0; k < from.parts.size(); ++k)
      value |= (bits(t, from.parts[k]) & ((std::uint64_t{1} << width) - 1)) << (static_cast<std::size_t>(width) * k);
    return write(t, to, value);
  }
  const std::uint64_t value = bits(t, from);
  if (to.kind != Operand::vector) return write(t, to, i.type.bits == 32 ? value & 0xffffffff : value);
  const int width = part_bits(to);
  for (std::size_t k = 0; k < to.parts.size(); ++k)
    write(t, to.parts[k], value >> (static_cast<std::size_t>(width) * k) & ((std::uint64_t{1} << width) - 1));
}
/// cvta: between a space's addresses and generic ones.
void to_generic(Thread& t, const Instruction& i) {
  const std::uint64_t window = i.has("shared")  ? shared_window
                               : i.has("local") ? local_window
                               : i.has("param") ? parameter_window
                                                : 0;
  write(t, i.operands[0], bits(t, i.operands[1]) + window);
}
void from_generic(Thread& t, const Instruction& i) {
  const std::uint64_t window = i.has("shared")  ? shared_window
                               : i.has("local") ? local_window
                               : i.has("param") ? parameter_window
                                                : 0;
  const std::uint64_t address = bits(t, i.operands[1]);
  if (address >> 60 != window >> 60) fault(t, i, "a generic address of another space");
  write(t, i.operands[0], address - window);
}

void lop3(Thread& t, const Instruction& i) {
  const auto a = read<std::uint32_t>(t, i.operands[1]), b = read<std::uint32_t>(t, i.operands[2]);
  const auto c = read<std::uint32_t>(t, i.operands[3]);
  std::uint32_t out = 0;
  for (unsigned row = 0; row < 8; ++row)  // of the table: where a, b and c have these bits
    if ((i.operands[4].value >> row & 1) != 0)
      out |= ((row & 4) != 0 ? a : ~a) & ((row & 2) != 0 ? b : ~b) & ((row & 1) != 0 ? c : ~c);
  write(t, i.operands[0], out);
}
/// prmt in its default mode: nibble k of the selector names the byte, of b:a, that becomes byte k; its top bit spreads
/// that byte's sign.
void permute(Thread& t, const Instruction& i) {
  const std::uint64_t both =
      std::uint64_t{read<std::uint32_t>(t, i.operands[2])} << 32 | read<std::uint32_t>(t, i.operands[1]);
  const auto selector = read<std::uint32_t>(t, i.operands[3]);
  std::uint32_t out = 0;
  for (int k = 0; k < 4; ++k) {
    const std::uint32_t which = selector >> (4 * k) & 15;
    auto byte = static_cast<std::uint32_t>(both >> (8 * (which & 7)) & 255);
    if ((which & 8) != 0) byte = (byte & 128) != 0 ? 255 : 0;
    out |= byte << (8 * k);
  }
  write(t, i.operands[0], out);
}
/// shf: the 64 bits b:a shifted; .l keeps the high word, .r the low one.
void funnel(Thread& t, const Instruction& i) {
  const std::uint64_t both =
      std::uint64_t{read<std::uint32_t>(t, i.operands[2])} << 32 | read<std::uint32_t>(t, i.operands[1]);
  const auto n = read<std::uint32_t>(t, i.operands[3]);
  const std::uint32_t by = i.has("wrap") ? n & 31 : std::min(n, 32u);
  write(t, i.operands[0], static_cast<std::uint32_t>(i.has("l") ? (both << by) >> 32 : both >> by));
}
void count_bits(Thread& t, const Instruction& i) {
  const std::uint64_t a = i.type.bits == 64 ? bits(t, i.operands[1]) : read<std::uint32_t>(t, i.operands[1]);
  write(t, i.operands[0], static_cast<std::uint32_t>(std::popcount(a)));
}
void leading_zeros(Thread& t, const Instruction& i) {
  const std::uint64_t a = i.type.bits == 64 ? bits(t, i.operands[1]) : read<std::uint32_t>(t, i.operands[1]);
  write(t, i.operands[0], static_cast<std::uint32_t>(std::countl_zero(a) - (64 - i.type.bits)));
}
void reverse_bits(Thread& t, const Instruction& i) {
  const auto a = read<std::uint32_t>(t, i.operands[1]);
  std::uint32_t out = 0;
  for (int k = 0; k < 32; ++k) out |= (a >> k & 1) << (31 - k);
  write(t, i.operands[0], out);
}
/// dp4a: c + the products of four bytes; `detail` tells which operand's bytes are signed.
void dot_bytes(Thread& t, const Instruction& i) {
  const auto a = read<std::uint32_t>(t, i.operands[1]), b = read<std::uint32_t>(t, i.operands[2]);
  auto sum = read<std::uint32_t>(t, i.operands[3]);
  const auto byte = [](std::uint32_t word, int k, bool is_signed) {
    const auto raw = static_cast<std::uint8_t>(word >> (8 * k));
    return is_signed ? static_cast<int>(static_cast<std::int8_t>(raw)) : static_cast<int>(raw);
  };
  for (int k = 0; k < 4; ++k)
    sum += static_cast<std::uint32_t>(byte(a, k, (i.detail & 1) != 0) * byte(b, k, (i.detail & 2) != 0));
  write(t, i.operands[0], sum);
}

template <class F>
void predicate(Thread& t, const Instruction& i, F f) {
  const bool a = bits(t, i.operands[1]) != 0, b = i.operands.size() > 2 && bits(t, i.operands[2]) != 0;
  write<std::uint8_t>(t, i.operands[0], f(a, b));
}
Execute find_predicate(const std::string& operation) {
  if (operation == "and")
    return [](Thread& t, const Instruction& i) { predicate(t, i, [](bool a, bool b) { return a && b; }); };
  if (operation == "or")
    return [](Thread& t, const Instruction& i) { predicate(t, i, [](bool a, bool b) { return a || b; }); };
  if (operation == "xor")
    return [](Thread& t, const Instruction& i) { predicate(t, i, [](bool a, bool b) { return a != b; }); };
  if (operation == "not")
    return [](Thread& t, const Instruction& i) { predicate(t, i, [](bool a, bool) { return !a; }); };
  if (operation == "mov")
    return [](Thread& t, const Instruction& i) { predicate(t, i, [](bool a, bool) { return a; }); };
  return nullptr;
}

Execute find_product(const Instruction& i) {
  const bool adds = i.words[0] == "mad";
  if (i.has("lo")) return adds ? by_type<MultiplyAddLow>(i.type) : by_type<MultiplyLow>(i.type);
  if (i.has("hi")) return adds ? by_type<MultiplyAddHigh>(i.type) : by_type<MultiplyHigh>(i.type);
  if (!i.has("wide") || i.type.bits > 32) return nullptr;
  return adds ? by_type<MultiplyAddWide>(i.type) : by_type<MultiplyWide>(i.type);
}

struct Entry {
  const char* name;
  Execute (*by_type)(const Type&);
};
constexpr Entry typed[] = {{"add", by_type<Add>},       {"sub", by_type<Subtract>},   {"min", by_type<Minimum>},
                           {"max", by_type<Maximum>},   {"and", by_type<And>},        {"or", by_type<Or>},
                           {"xor", by_type<Xor>},       {"not", by_type<Not>},        {"neg", by_type<Negate>},
                           {"abs", by_type<Absolute>},  {"div", by_type<Divide>},     {"rem", by_type<Remainder>},
                           {"shl", by_type<ShiftLeft>}, {"shr", by_type<ShiftRight>}, {"bfi", by_type<BitInsert>},
                           {"bfe", by_type<BitExtract>}};
struct Plain {
  const char* name;
  Execute execute;
};
constexpr Plain plain[] = {{"mov", move},        {"lop3", lop3},         {"shf", funnel},
                           {"popc", count_bits}, {"clz", leading_zeros}, {"brev", reverse_bits}};

}  // namespace

Execute find_integer(Instruction& i) {
  const std::string& operation = i.words[0];
  if (i.type.kind == 'p') return find_predicate(operation);
  if (operation == "prmt") return i.words.size() == 2 ? permute : nullptr;
  if (operation == "cvta") return i.has("to") ? from_generic : to_generic;
  if (operation == "selp") return by_type<Select>(i.type);
  if (operation == "dp4a") {
    i.detail = (i.from.kind == 's' ? 1 : 0) | (i.type.kind == 's' ? 2 : 0);
    return dot_bytes;
  }
  for (const Plain& p : plain)
    if (operation == p.name) return p.execute;
  if (i.type.is_float()) return nullptr;
  if (operation == "mul" || operation == "mad") return find_product(i);
  // Two words: no .sat, no carry.
  for (const Entry& e : typed)
    if (operation == e.name && i.words.size() == 2) return e.by_type(i.type);
  return nullptr;
}

}  // namespace nibble::cuda_ptx
