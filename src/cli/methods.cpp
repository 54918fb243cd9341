#include "methods.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "nibble/core/error.h"
#include "nibble/model/gguf_mix.h"
#include "nibble/scheme/gguf_blocks.h"

namespace nibble::cli {

std::string_view stored_name(std::string_view name) {
  constexpr std::string_view suffix = "+a8";
  return name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : name;
}

namespace {

bool is_spec(std::string_view name) {
  try {
    (void)QuantSpec::parse(name);
    return true;
  } catch (const Error&) {
    return false;
  }
}

struct RotationSuffix {
  std::string_view text;
  Rotation rotation;
};
constexpr RotationSuffix kRotations[] = {{"+fold", Rotation::fold}, {"+rot", Rotation::rot}};

const RotationSuffix* rotation_of(std::string_view stored) {
  for (const RotationSuffix& r : kRotations)
    if (stored.ends_with(r.text)) return &r;
  return nullptr;
}

/// Fills in what the name says of a GGUF file; false: it is of none.
bool parse_gguf(std::string_view name, Method& method) {
  constexpr std::string_view own = "gguf-", gptq = "gptq-", imatrix = "-imatrix", mix = "mix-", plan = "plan-";
  const bool says_so = name.starts_with(own);
  if (says_so) name.remove_prefix(own.size());
  const bool solves = name.starts_with(gptq), weighs = name.ends_with(imatrix);
  if (solves && weighs) return false;
  if (solves) name.remove_prefix(gptq.size());
  if (weighs) name.remove_suffix(imatrix.size());
  const char* correction = nullptr;
  for (const char* option : {"--qronos", "--gptaq"}) {
    const std::string_view word(option + 1);  // "-qronos"
    if (correction != nullptr || !solves || !name.ends_with(word)) continue;
    name.remove_suffix(word.size());
    correction = option;
  }
  const auto told = [&](const char* option, std::string_view value) {
    method.gguf = {option, std::string(value)};
    if (solves) method.gguf.emplace_back("--gptq");
    if (correction != nullptr) method.gguf.emplace_back(correction);
    method.gguf_needs_text = solves || weighs || option == std::string_view("--target-bits");
    return true;
  };
  if (name.starts_with(mix)) {
    name.remove_prefix(mix.size());
    return model::find_gguf_mix(name) != nullptr && told("--mix", name);
  }
  if (name.starts_with(plan)) return !weighs && told("--target-bits", name.substr(plan.size()));
  // "mxfp4" is the scheme of that name, of which a directory is made.
  if (!says_so && !solves && !weighs && is_spec(name)) return false;
  if (const auto type = parse_block_type(name)) return can_encode(*type) && !is_float(*type) && told("--type", name);
  return model::find_gguf_mix(name) != nullptr && told("--mix", name);
}

}  // namespace

std::string_view unrotated_name(std::string_view stored) {
  const RotationSuffix* r = rotation_of(stored);
  return r == nullptr ? stored : stored.substr(0, stored.size() - r->text.size());
}

Method parse_compared_method(std::string_view name) {
  const std::string_view stored = stored_name(name), plain = unrotated_name(stored);
  Method method = parse_method(std::string(plain) + std::string(name.substr(stored.size())));
  method.name = name;
  if (plain == stored) return method;
  if (!method.gguf.empty())
    throw Error(ErrorCode::invalid_argument,
                "'" + method.name +
                    "': rotations are not offered for GGUF's types, whose small blocks have scales of "
                    "their own; `nibble rotate` makes the model all the same");
  method.rotation = rotation_of(stored)->rotation;
  return method;
}

Method parse_method(std::string_view name) {
  Method method;
  method.name = name;
  if (rotation_of(stored_name(name)) != nullptr)
    throw Error(
        ErrorCode::invalid_argument,
        "'" + method.name + "' is a row of compare; elsewhere make the model first: nibble rotate MODEL -o OUT");
  if (name == "fp32") return method;
  if (name == "fp16" || name == "bf16") {
    method.dense = name == "fp16" ? DType::f16 : DType::bf16;
    return method;
  }
  method.int8_activations = stored_name(name) != name;
  if (parse_gguf(stored_name(name), method)) return method;
  try {
    if (model::CalibratedMethod::is_calibrated(name)) {
      method.calibrated = model::CalibratedMethod::parse(stored_name(name));
      method.spec = method.calibrated->spec;
    } else if (hqq::Options::is_hqq(name)) {
      method.hqq = hqq::Options::parse(stored_name(name));
      method.spec = method.hqq->spec;
    } else {
      method.spec = QuantSpec::parse(stored_name(name));
    }
    const bool has_small_codes = method.spec->bits == 4 || (method.spec->has_real_zeros() && method.spec->bits <= 5);
    if (method.int8_activations && !method.spec->is_affine() && !has_small_codes)
      throw Error(ErrorCode::invalid_argument, "'" + std::string(name) +
                                                   "': 8-bit activations need integer weights, of 5 bits at most where "
                                                   "zero points are real, or a codebook of 4 bits");
    return method;
  } catch (const Error& e) {
    throw Error(
        ErrorCode::invalid_argument,
        std::string(e.what()) +
            "; known methods: fp32, fp16, bf16, int8, llm-int8, int<bits>-g<size>-sym|asym (int4-g128-sym), "
            "nf4, nf4-dq, fp4, dynamic8, fp8, mxfp4, mxfp6, mxfp8, nvfp4, gptq-<bits>-g<size> (gptq-4-g128-act, "
            "gptq-3-g128-qronos), awq-<bits>-g<size> (awq-4-g128), hqq-<bits>-g<size>[-asym|-sym] (hqq-4-g64); of GGUF "
            "a type or a mix (q4_k, q4_k_m; mix-q2_k; gguf-mxfp4), with -imatrix behind or gptq- before it, and "
            "plan-<bits>; an integer or a 4-bit one with +a8 (int4-g32-sym+a8, nf4+a8) multiplies by 8-bit "
            "activations; in compare +fold or +rot (int3-g128-asym+rot) quantizes the model with its norms folded, or "
            "rotated");
  }
}

Method parse_loading_method(std::string_view name) {
  Method method = parse_method(name);
  if (!method.gguf.empty())
    throw Error(ErrorCode::invalid_argument,
                "'" + method.name + "' is of a GGUF file; make it first: nibble export-gguf MODEL OUT.gguf " +
                    fmt::format("{}", fmt::join(method.gguf, " ")));
  if (method.calibrated || method.hqq)
    throw Error(ErrorCode::invalid_argument,
                "'" + method.name + "' " +
                    (method.hqq ? "solves for its scales" : "needs a calibration run, not only a look at the weights") +
                    "; make the model first: nibble quantize MODEL -o OUT --method " + std::string(stored_name(name)));
  return method;
}

const std::vector<std::string>& default_methods() {
  static const std::vector<std::string> names{"fp32",           "bf16",
                                              "fp16",           "int8",
                                              "int8+a8",        "llm-int8",
                                              "int4-g128-sym",  "int4-g64-sym",
                                              "int4-g32-sym",   "int4-g32-sym+a8",
                                              "int4-g128-asym", "int4-g64-asym",
                                              "int4-g32-asym",  "nf4",
                                              "nf4-dq",         "fp4",
                                              "gptq-4-g128",    "gptq-4-g128-act",
                                              "awq-4-g128",     "int3-g128-asym",
                                              "gptq-3-g128",    "awq-3-g128",
                                              "int2-g32-asym",  "gptq-2-g32"};
  return names;
}

}  // namespace nibble::cli
