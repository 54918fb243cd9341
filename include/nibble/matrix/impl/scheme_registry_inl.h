// What matrix/scheme_registry.h declares.
#pragma once

#include "nibble/matrix/scheme_registry.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string>
#include <type_traits>

#include "nibble/core/error.h"
#include "nibble/matrix/impl/spec_aliases.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

inline constexpr std::size_t kKinds = 256;

constexpr std::size_t index_of(SchemeKind kind) { return static_cast<std::size_t>(kind); }

inline constexpr SchemeEntry kNf4Row = codebook_scheme<nf4>(), kFp4Row = codebook_scheme<fp4>(),
                             kDynamic8Row = codebook_scheme<dynamic_map<true>>(256), kE4m3Row = float_scheme<e4m3>(),
                             kE5m2Row = float_scheme<e5m2>(), kE2m3Row = float_scheme<e2m3>(),
                             kE3m2Row = float_scheme<e3m2>(), kE2m1Row = float_scheme<e2m1>();

/// The built-in rows by kind; a null one is no codebook's. One that no kernel and no file format knows by its kind
/// needs no enumerator: register_scheme(row).
inline constexpr auto kBuiltInSchemes = [] {
  std::array<const SchemeEntry*, index_of(SchemeKind::real_zero) + 1> rows{};
  rows[index_of(SchemeKind::nf4)] = &kNf4Row;
  rows[index_of(SchemeKind::fp4)] = &kFp4Row;
  rows[index_of(SchemeKind::dynamic8)] = &kDynamic8Row;
  rows[index_of(SchemeKind::e4m3)] = &kE4m3Row;
  rows[index_of(SchemeKind::e5m2)] = &kE5m2Row;
  rows[index_of(SchemeKind::e2m3)] = &kE2m3Row;
  rows[index_of(SchemeKind::e3m2)] = &kE3m2Row;
  rows[index_of(SchemeKind::e2m1)] = &kE2m1Row;
  return rows;
}();

/// Those that a program added, never taken back. Read without the lock, which is for those who add, and allocates
/// nothing: what asks for a row may be out of memory.
struct SchemeRegistry {
  std::mutex mutex;
  std::array<std::atomic<const SchemeEntry*>, kKinds - kBuiltInSchemes.size()> added{};
  std::atomic<std::size_t> count{0};
};
// So its rows outlive whatever a program quantizes while it ends.
static_assert(std::is_trivially_destructible_v<SchemeRegistry>);

inline constinit SchemeRegistry scheme_registry;

inline void check_scheme(const SchemeEntry& row) {
  const auto need = [&](bool ok, const std::string& why) {
    if (!ok)
      throw Error(ErrorCode::invalid_argument,
                  "the scheme '" + std::string(row.name) + "' cannot be registered: " + why);
  };
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  need(!row.name.empty() && std::ranges::all_of(row.name, is_letter), "its name must be lower-case letters and digits");
  const bool is_alias =
      std::ranges::any_of(kSpecAliases, [&](const SpecAlias& alias) { return alias.name == row.name; });
  need(!row.name.starts_with("int") && row.name != "llm" && !is_alias, "a spec that begins so is another scheme's");
  need(row.bits >= 2 && row.bits <= 8, "its codes have " + std::to_string(row.bits) + " bits; 2 to 8 are possible");
  const bool is_float = row.encode_floats != nullptr && row.fit_scale != nullptr && row.fit_tensor_divisor != nullptr;
  need(row.block_size > 0 || is_float, "its block size is 0");
  need(row.codebook.size() == std::size_t{1} << row.bits, "its codebook has " + std::to_string(row.codebook.size()) +
                                                              " values; a code of " + std::to_string(row.bits) +
                                                              " bits needs " + std::to_string(1 << row.bits));
  for (std::size_t i = 0; i < row.codebook.size(); ++i)
    need(is_finite(row.codebook[i]) || is_float, "value " + std::to_string(i) + " of its codebook is not finite");
  need(is_float || row.quantize_group != nullptr || (row.thresholds != nullptr && row.code_of_rank != nullptr),
       "it has neither thresholds nor quantize_group");
}

}  // namespace detail

NIBBLE_INLINE SchemeKind register_scheme(const SchemeEntry& row) {
  detail::check_scheme(row);
  detail::SchemeRegistry& r = detail::scheme_registry;
  const std::lock_guard lock(r.mutex);
  if (find_scheme(row.name))
    throw Error(ErrorCode::invalid_argument, "a scheme named '" + std::string(row.name) + "' is registered already");
  const std::size_t place = r.count.load();
  if (place == r.added.size())
    throw Error(ErrorCode::invalid_argument, "the scheme '" + std::string(row.name) + "' is one too many: there are " +
                                                 std::to_string(detail::kKinds) + " kinds");
  r.added[place].store(new SchemeEntry(row));
  ++r.count;
  return static_cast<SchemeKind>(detail::kBuiltInSchemes.size() + place);
}

NIBBLE_INLINE const SchemeEntry* scheme_entry(SchemeKind kind) noexcept {
  const std::size_t i = detail::index_of(kind), built_in = detail::kBuiltInSchemes.size();
  return i < built_in ? detail::kBuiltInSchemes[i] : detail::scheme_registry.added[i - built_in].load();
}

NIBBLE_INLINE std::optional<SchemeKind> find_scheme(std::string_view name) {
  const std::size_t end = detail::kBuiltInSchemes.size() + detail::scheme_registry.count.load();
  for (std::size_t i = 0; i < end; ++i) {
    const auto kind = static_cast<SchemeKind>(i);
    if (const SchemeEntry* row = scheme_entry(kind); row != nullptr && row->name == name) return kind;
  }
  return std::nullopt;
}

NIBBLE_INLINE std::vector<std::string_view> scheme_names() {
  std::vector<std::string_view> out;
  const std::size_t end = detail::kBuiltInSchemes.size() + detail::scheme_registry.count.load();
  for (std::size_t i = 0; i < end; ++i)
    if (const SchemeEntry* row = scheme_entry(static_cast<SchemeKind>(i))) out.push_back(row->name);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI
