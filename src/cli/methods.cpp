#include "methods.h"

#include "nibble/core/error.h"

namespace nibble::cli {

Method parse_method(std::string_view name) {
  if (name == "fp32") return {"fp32", DType::f32, std::nullopt, false};
  if (name == "fp16") return {"fp16", DType::f16, std::nullopt, false};
  if (name == "bf16") return {"bf16", DType::bf16, std::nullopt, false};
  const bool int8_activations = name.ends_with("+a8");
  try {
    const QuantSpec spec = QuantSpec::parse(name.substr(0, name.size() - (int8_activations ? 3 : 0)));
    if (int8_activations && !spec.is_affine())
      throw Error(ErrorCode::invalid_argument, "'" + std::string(name) + "': 8-bit activations need integer weights");
    return {std::string(name), DType::f32, spec, int8_activations};
  } catch (const Error& e) {
    throw Error(
        ErrorCode::invalid_argument,
        std::string(e.what()) +
            "\nknown methods: fp32, fp16, bf16, int8, llm-int8, int<bits>-g<size>-sym|asym (int4-g128-sym), "
            "nf4, nf4-dq, fp4, dynamic8; an integer one with +a8 (int4-g32-sym+a8) multiplies by 8-bit activations");
  }
}

const std::vector<std::string>& default_methods() {
  static const std::vector<std::string> names{"fp32",           "bf16",
                                              "fp16",           "int8",
                                              "int8+a8",        "llm-int8",
                                              "int4-g128-sym",  "int4-g64-sym",
                                              "int4-g32-sym",   "int4-g32-sym+a8",
                                              "int4-g128-asym", "int4-g64-asym",
                                              "int4-g32-asym",  "nf4",
                                              "nf4-dq",         "fp4"};
  return names;
}

}  // namespace nibble::cli
