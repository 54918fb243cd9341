#include "methods.h"

#include "nibble/core/error.h"

namespace nibble::cli {

Method parse_method(std::string_view name) {
  if (name == "fp32") return {"fp32", DType::f32, std::nullopt};
  if (name == "fp16") return {"fp16", DType::f16, std::nullopt};
  if (name == "bf16") return {"bf16", DType::bf16, std::nullopt};
  try {
    return {std::string(name), DType::f32, QuantSpec::parse(name)};
  } catch (const Error& e) {
    throw Error(ErrorCode::invalid_argument,
                std::string(e.what()) +
                    "\nknown methods: fp32, fp16, bf16, int8, llm-int8, int<bits>-g<size>-sym|asym (int4-g128-sym), "
                    "nf4, nf4-dq, fp4, dynamic8");
  }
}

const std::vector<std::string>& default_methods() {
  static const std::vector<std::string> names{
      "fp32",         "bf16",           "fp16",          "int8",          "llm-int8", "int4-g128-sym", "int4-g64-sym",
      "int4-g32-sym", "int4-g128-asym", "int4-g64-asym", "int4-g32-asym", "nf4",      "nf4-dq",        "fp4"};
  return names;
}

}  // namespace nibble::cli
