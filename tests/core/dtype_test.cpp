#include "nibble/core/dtype.h"

#include <gtest/gtest.h>

#include <set>
#include <string_view>

namespace nibble {
namespace {

constexpr DType kAll[] = {DType::f64,     DType::f32, DType::f16, DType::bf16, DType::f8_e4m3,
                          DType::f8_e5m2, DType::i64, DType::i32, DType::i16,  DType::i8,
                          DType::u64,     DType::u32, DType::u16, DType::u8,   DType::boolean};

TEST(DType, HasTheNamesOfSafetensors) {
  std::set<std::string_view> names;
  for (const DType type : kAll) names.insert(name_of(type));
  EXPECT_EQ(names, (std::set<std::string_view>{"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16",
                                               "I8", "U64", "U32", "U16", "U8", "BOOL"}));
}

// The name says how many bits.
TEST(DType, ItsSizeIsThatOfItsName) {
  for (const DType type : kAll) {
    const std::string_view name = name_of(type);
    const std::size_t bits = name == "BOOL" ? 8
                             : name.starts_with("F8")
                                 ? 8
                                 : std::stoul(std::string(name.substr(name.find_first_of("0123456789"))));
    EXPECT_EQ(size_of(type) * 8, bits) << name;
    EXPECT_EQ(is_float(type), name[0] == 'F' || name == "BF16") << name;
  }
}

}  // namespace
}  // namespace nibble
