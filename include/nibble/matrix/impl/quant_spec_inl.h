// What matrix/quant_spec.h declares.
#pragma once

#include "nibble/matrix/quant_spec.h"

#include <charconv>
#include <optional>
#include <vector>

#include "nibble/core/error.h"
#include "nibble/matrix/impl/spec_aliases.h"
#include "nibble/matrix/scheme_registry.h"
#include "nibble/scheme/double_quant.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

[[noreturn]] inline void refuse(std::string_view text, const std::string& why) {
  throw Error(ErrorCode::invalid_argument, "quantization spec '" + std::string(text) + "': " + why);
}

inline std::optional<std::size_t> to_number(std::string_view digits) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

inline std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> parts;
  for (std::size_t dash; (dash = text.find('-')) != std::string_view::npos; text.remove_prefix(dash + 1))
    parts.push_back(text.substr(0, dash));
  parts.push_back(text);
  return parts;
}

inline std::string known_schemes() {
  std::string out = "int2 … int8, ";
  for (const std::string_view name : scheme_names()) out += std::string(name) + ", ";
  for (const SpecAlias& alias : kSpecAliases) out += std::string(alias.name) + ", ";
  return out + "llm-int8";
}

/// Of 8 bits a scale for each row, of fewer MX.
inline QuantSpec float_spec(SchemeKind kind) {
  QuantSpec s;
  s.scheme = kind;
  s.bits = scheme_entry(kind)->bits;
  s.granularity = s.bits == 8 ? Granularity::channel : Granularity::group;
  s.group_size = s.bits == 8 ? 0 : 32;
  s.scale_type = s.bits == 8 ? ScaleType::f32 : ScaleType::e8m0;
  return s;
}

/// The defaults that go with a name, before options.
inline QuantSpec spec_of_name(std::string_view text, std::string_view name) {
  QuantSpec s;
  if (const auto kind = find_scheme(name); kind && scheme_entry(*kind)->encode_floats != nullptr)
    return float_spec(*kind);
  if (const auto kind = find_scheme(name)) {
    s.scheme = *kind;
    s.bits = scheme_entry(*kind)->bits;
    s.granularity = Granularity::block;
    s.group_size = scheme_entry(*kind)->block_size;
    s.scale_type = ScaleType::f32;
    return s;
  }
  if (!name.starts_with("int"))
    refuse(text, "unknown scheme '" + std::string(name) + "'; known are " + known_schemes());
  const auto bits = to_number(name.substr(3));
  if (!bits || *bits < 2 || *bits > 8) refuse(text, "bits must be 2 to 8, not '" + std::string(name.substr(3)) + "'");
  s.bits = static_cast<int>(*bits);
  s.granularity = s.bits == 8 ? Granularity::channel : Granularity::group;
  s.group_size = s.bits == 8 ? 0 : 128;
  s.narrow_range = s.bits == 8;
  return s;
}

inline QuantSpec llm_int8_spec() {
  QuantSpec s;
  s.scheme = SchemeKind::llm_int8;
  s.bits = 8;
  s.granularity = Granularity::channel;
  s.group_size = 0;
  s.scale_type = ScaleType::f32;
  return s;
}

/// What a text said itself, so that no default takes its place.
struct Said {
  bool scale_type = false, scale_rule = false;
};

/// One option after the name.
inline void apply_option(std::string_view text, std::string_view option, QuantSpec& s, Said& said) {
  const auto sized = [&](Granularity granularity) {
    const auto size = to_number(option.substr(1));
    if (!size || *size == 0) refuse(text, "'" + std::string(option) + "' needs a positive number");
    s.granularity = granularity;
    s.group_size = *size;
  };
  const auto whole = [&](Granularity granularity) {
    s.granularity = granularity;
    s.group_size = 0;
  };
  for (const ScaleType type : kScaleTypes)
    if (option == name_of(type)) {
      s.scale_type = type;
      said.scale_type = true;
      return;
    }
  for (const ScaleRule rule : kScaleRules)
    if (option == name_of(rule)) {
      s.scale_rule = rule;
      said.scale_rule = true;
      return;
    }
  if (option == "sym") s.scheme = SchemeKind::symmetric;
  else if (option == "asym" || option == "asymraw") {
    s.scheme = SchemeKind::asymmetric;
    s.preserve_zero = option == "asym";
  } else if (option == "asymreal") {
    s.scheme = SchemeKind::real_zero;
  } else if (option == "tensor") whole(Granularity::tensor);
  else if (option == "channel") whole(Granularity::channel);
  else if (option == "dq") s.double_quant = true;
  else if (option == "full") s.narrow_range = false;
  else if (option == "restricted") s.narrow_range = true;
  else if (option.starts_with('g')) sized(Granularity::group);
  else if (option.starts_with('b')) sized(Granularity::block);
  else if (option.starts_with('t')) sized(Granularity::tile);
  else refuse(text, "unknown option '" + std::string(option) + "'");
}

/// "channel", "g128", "t128"
inline std::string text_of(const Grouping& groups) {
  switch (groups.granularity) {
    case Granularity::tensor: return "tensor";
    case Granularity::channel: return "channel";
    case Granularity::group: break;
    case Granularity::block: return "b" + std::to_string(groups.size);
    case Granularity::tile: return "t" + std::to_string(groups.size);
  }
  return "g" + std::to_string(groups.size);
}

/// Of a scheme of small floats, by its alias where it has one.
inline std::string float_text(const QuantSpec& s) {
  std::string out(scheme_entry(s.scheme)->name);
  out += "-" + text_of(s.grouping());
  if (s.scale_type != ScaleType::f32) out += "-" + std::string(name_of(s.scale_type));
  for (const SpecAlias& alias : kSpecAliases)
    if (out == alias.meaning) out = alias.name;
  if (s.scale_rule != s.default_scale_rule()) out += "-" + std::string(name_of(s.scale_rule));
  return out;
}

inline ScaleType default_scale_type(const QuantSpec& s) {
  return s.granularity == Granularity::group || s.granularity == Granularity::block ? ScaleType::f16 : ScaleType::f32;
}

/// The part of validate() that is for small floats.
inline void validate_floats(const QuantSpec& s) {
  const auto need = [](bool ok, const char* why) {
    if (!ok) throw Error(ErrorCode::invalid_argument, why);
  };
  need(s.bits == scheme_entry(s.scheme)->bits, "the bits of a float cannot be chosen");
  need(s.granularity != Granularity::block, "floats share scales within rows or tiles: give -gN, -tN, -channel");
  need(!s.narrow_range, "-restricted is of symmetric integers");
  need(!s.double_quant, "double quantization is of absmax values; the scales of floats are -e8m0 or -e4m3 instead");
  const bool power = s.scale_type == ScaleType::e8m0, nested = s.scale_type == ScaleType::e4m3;
  const bool is_search = s.scale_rule == ScaleRule::search;
  need(power || is_search || s.scale_rule == ScaleRule::largest,
       "-floor, -even and -ceil are of scales that are powers of two: give -e8m0");
  need(!is_search || power || (nested && s.scheme == SchemeKind::e2m1),
       "-search is of powers of two (-e8m0) and of NVFP4");
  need(!is_search || s.granularity == Granularity::channel || s.granularity == Granularity::group,
       "-search looks at the values of groups that lie in a row: give -gN or -channel");
  need(!nested || s.granularity == Granularity::group, "E4M3 scales are of groups within rows: give -g16");
}

}  // namespace detail

NIBBLE_INLINE bool QuantSpec::has_float_codes() const noexcept {
  const SchemeEntry* row = is_codebook() ? scheme_entry(scheme) : nullptr;
  return row != nullptr && row->encode_floats != nullptr;
}

NIBBLE_INLINE ScaleRule QuantSpec::default_scale_rule() const noexcept {
  if (scale_type == ScaleType::e8m0) return ScaleRule::even;
  return scale_type == ScaleType::e4m3 && scheme == SchemeKind::e2m1 ? ScaleRule::search : ScaleRule::largest;
}

NIBBLE_INLINE QuantSpec QuantSpec::parse(std::string_view text) {
  auto parts = detail::split(text);
  if (parts.size() >= 2 && parts[0] == "llm" && parts[1] == "int8") {
    QuantSpec s = detail::llm_int8_spec();
    for (std::size_t i = 2; i < parts.size(); ++i) {
      const auto t = parts[i].starts_with('t') ? detail::to_number(parts[i].substr(1)) : std::nullopt;
      if (!t) detail::refuse(text, "llm-int8 takes only a threshold, -t6 say, not '" + std::string(parts[i]) + "'");
      s.threshold = static_cast<float>(*t);
    }
    s.validate();
    return s;
  }
  for (const detail::SpecAlias& alias : detail::kSpecAliases)
    if (parts[0] == alias.name) {
      auto meant = detail::split(alias.meaning);
      meant.insert(meant.end(), parts.begin() + 1, parts.end());
      parts = std::move(meant);
      break;
    }
  QuantSpec s = detail::spec_of_name(text, parts[0]);
  const bool integer = s.is_affine();  // the name's; an option may give it real zero points
  detail::Said said;
  for (std::size_t i = 1; i < parts.size(); ++i) detail::apply_option(text, parts[i], s, said);
  if (!integer && (s.is_affine() || s.has_real_zeros()))
    detail::refuse(text, "a codebook is neither symmetric nor asymmetric");
  if (integer && !said.scale_type) s.scale_type = detail::default_scale_type(s);
  if (!said.scale_rule && s.has_float_codes()) s.scale_rule = s.default_scale_rule();
  try {
    s.validate();
  } catch (const Error& e) {
    detail::refuse(text, e.what());
  }
  return s;
}

NIBBLE_INLINE std::string QuantSpec::to_string() const {
  if (scheme == SchemeKind::llm_int8)
    return threshold == 6.0f ? "llm-int8" : "llm-int8-t" + std::to_string(static_cast<int>(threshold));
  if (has_float_codes()) return detail::float_text(*this);
  const SchemeEntry* row = scheme_entry(scheme);
  const bool is_integer = is_affine() || has_real_zeros();
  std::string out = is_integer       ? "int" + std::to_string(bits)
                    : row != nullptr ? std::string(row->name)
                                     : "unregistered";
  out += "-" + detail::text_of(grouping());
  if (scheme == SchemeKind::symmetric) {
    out += "-sym";
    if (narrow_range != (bits == 8)) out += narrow_range ? "-restricted" : "-full";
  }
  if (scheme == SchemeKind::asymmetric) out += preserve_zero ? "-asym" : "-asymraw";
  if (has_real_zeros()) out += "-asymreal";
  if (is_integer && scale_type != detail::default_scale_type(*this)) out += "-" + std::string(name_of(scale_type));
  if (double_quant) out += "-dq";
  return out;
}

NIBBLE_INLINE void QuantSpec::validate() const {
  const auto need = [](bool ok, const std::string& why) {
    if (!ok) throw Error(ErrorCode::invalid_argument, why);
  };
  need(bits >= 2 && bits <= 8, "bits is " + std::to_string(bits) + "; it must be 2 to 8");
  need(!grouping().has_size() || group_size > 0, "group size is 0; it must be at least 1");
  if (has_float_codes()) return detail::validate_floats(*this);
  need(granularity != Granularity::tile, "only floats (e4m3, …) have a scale for a tile of rows and columns");
  need(scale_type != ScaleType::e8m0 && scale_type != ScaleType::e4m3,
       std::string(name_of(scale_type)) + " scales are for codes that are floats (e4m3, e2m1, …)");
  need(scale_rule == ScaleRule::largest,
       "-" + std::string(name_of(scale_rule)) + " is how the scales of floats are fitted (e4m3, e2m1, …)");
  if (is_codebook()) {
    const SchemeEntry* row = scheme_entry(scheme);
    need(row != nullptr, "no scheme of kind " + std::to_string(static_cast<int>(scheme)) + " is registered");
    need(granularity == Granularity::block, "a codebook scheme is blockwise: give -bN");
    need(bits == row->bits, "the codebook's bits cannot be chosen");
  }
  if (!is_affine() && !has_real_zeros()) need(scale_type == ScaleType::f32, "absmax values are fp32");
  need(!double_quant || is_codebook(),
       "double quantization is of absmax values: only codebook schemes (nf4, fp4, dynamic8, …) have them");
  if (scheme == SchemeKind::llm_int8) {
    need(granularity == Granularity::channel && bits == 8, "LLM.int8 quantizes rows to 8 bits");
    need(threshold >= 0 && is_finite(threshold), "the outlier threshold must be 0 (none) or positive");
  }
}

NIBBLE_INLINE double QuantSpec::bits_per_weight(std::size_t rows, std::size_t cols) const {
  const auto groups = static_cast<double>(group_count(rows, cols));
  double total = static_cast<double>(rows) * static_cast<double>(cols) * bits;
  if (double_quant) {
    const auto nested = static_cast<double>(nested_count(group_count(rows, cols)));
    total += groups * 8 + nested * 32;
  } else {
    total += groups * 8 * scale_bytes(scale_type) + (has_tensor_scale() ? 32 : 0);
  }
  if (has_zero_points()) total += groups * (preserve_zero ? bits : 32);
  if (has_real_zeros()) total += groups * 8 * scale_bytes(scale_type);
  return total / (static_cast<double>(rows) * static_cast<double>(cols));
}

}  // namespace nibble::inline NIBBLE_ABI
