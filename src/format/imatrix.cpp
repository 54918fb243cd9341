#include "nibble/format/imatrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/files.h"
#include "core/pending.h"
#include "nibble/core/error.h"
#include "nibble/format/gguf.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI {

namespace {

namespace fs = std::filesystem;
using Entry = ImportanceMatrix::Entry;

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";
constexpr std::size_t kMostName = 63 - kSums.size();  // ggml's names have 63 bytes
/// Tokens that a legacy count stands for: llama.cpp's, which files do not say.
constexpr double kLegacyChunk = 512;
constexpr auto kMostCalls = static_cast<double>(std::numeric_limits<std::int32_t>::max());

[[noreturn]] void refuse(const fs::path& path, const std::string& why, ErrorCode code = ErrorCode::corrupt_file) {
  throw Error(code, "'" + path.string() + "', an importance matrix: " + why);
}

/// Of an entry: numbers from 0 up, whose means fit fp32.
void check_values(const fs::path& path, const std::string& name, const Entry& e) {
  const auto check = [&](const std::vector<double>& values, const char* what) {
    for (std::size_t i = 0; i < values.size(); ++i)
      if (!(values[i] >= 0) || !std::isfinite(values[i]))
        refuse(path, std::string(what) + " " + std::to_string(i) + " of '" + name + "' is " + std::to_string(values[i]),
               ErrorCode::non_finite);
  };
  check(e.sums, "sum");
  check(e.counts, "count");
  constexpr auto most = static_cast<double>(std::numeric_limits<float>::max());
  for (std::size_t i = 0; i < e.sums.size(); ++i) {
    const double count = e.counts[i / e.columns];
    if (count > 0 && e.sums[i] / count > most)
      refuse(path,
             "sum " + std::to_string(i) + " of '" + name + "' over a count of " + std::to_string(count) +
                 " is no fp32 number",
             ErrorCode::non_finite);
  }
}

// ---- GGUF

template <class T>
const T& header_value(const fs::path& path, const GgufMetadata& metadata, const char* key) {
  const auto it = metadata.find(key);
  const T* value = it == metadata.end() ? nullptr : std::get_if<T>(&it->second);
  if (value == nullptr)
    refuse(path, std::string("the key '") + key + "' is missing or of another type; llama.cpp's imatrix writes it");
  return *value;
}

ImportanceMatrix read_gguf(const fs::path& path, std::map<std::string, Entry, std::less<>>& entries) {
  const GgufFile file(path);
  ImportanceMatrix out;
  const auto& type = header_value<std::string>(path, file.metadata(), "general.type");
  if (type != "imatrix") refuse(path, "it is a GGUF file of the type '" + type + "'; \"imatrix\" is needed");
  const auto& datasets = header_value<GgufArray>(path, file.metadata(), "imatrix.datasets");
  if (const auto* names = std::get_if<std::vector<std::string>>(&datasets.elements)) out.datasets = *names;
  out.chunk_count = header_value<std::uint32_t>(path, file.metadata(), "imatrix.chunk_count");
  out.chunk_size = header_value<std::uint32_t>(path, file.metadata(), "imatrix.chunk_size");
  for (const GgufTensor& t : file.tensors()) {
    if (!t.name.ends_with(kSums)) continue;
    const std::string name = t.name.substr(0, t.name.size() - kSums.size());
    if (!file.contains(name + std::string(kCounts))) refuse(path, "'" + name + "' has sums and no counts");
    const std::vector<float> sums = file.read_f32(t.name), counts = file.read_f32(name + std::string(kCounts));
    Entry e;
    e.sums.assign(sums.begin(), sums.end());
    e.counts.assign(counts.begin(), counts.end());
    e.columns = t.shape.empty() ? 0 : t.shape.back();
    if (e.columns == 0 || e.sums.size() != e.columns * e.counts.size())
      refuse(path, "'" + name + "' has " + std::to_string(sums.size()) + " sums of " + std::to_string(e.columns) +
                       " columns and counts of " + std::to_string(counts.size()) + " experts");
    check_values(path, name, e);
    entries.emplace(name, std::move(e));
  }
  file.require_intact();
  return out;
}

/// In fp32, all times `factor`.
std::vector<std::byte> floats(const std::vector<double>& values, double factor) {
  std::vector<std::byte> out(values.size() * sizeof(float));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto value = static_cast<float>(values[i] * factor);
    std::memcpy(out.data() + i * sizeof value, &value, sizeof value);
  }
  return out;
}

void write_gguf(const fs::path& path, const ImportanceMatrix& m) {
  const GgufMetadata metadata{{"general.type", std::string("imatrix")},
                              {"imatrix.datasets", GgufArray{m.datasets}},
                              {"imatrix.chunk_count", m.chunk_count},
                              {"imatrix.chunk_size", m.chunk_size}};
  std::vector<GgufTensor> tensors;
  const auto declare = [&](std::string name, std::size_t experts, std::size_t columns) {
    GgufTensor t;
    t.name = std::move(name);
    // ggml drops outer dimensions of 1.
    t.shape = experts == 1 ? std::vector<std::size_t>{columns} : std::vector<std::size_t>{experts, columns};
    tensors.push_back(std::move(t));
  };
  for (const auto& [name, e] : m.entries()) {
    declare(name + std::string(kSums), e.experts(), e.columns);
    declare(name + std::string(kCounts), e.experts(), 1);
  }
  GgufWriter writer(path, metadata, std::move(tensors));
  for (const auto& [name, e] : m.entries()) {
    // Sums that fp32 cannot hold are written smaller, with their counts: the means are what matters.
    double largest = 1;
    for (const double sum : e.sums) largest = std::max(largest, sum);
    for (const double count : e.counts) largest = std::max(largest, count);
    const double factor = std::min(1.0, static_cast<double>(std::numeric_limits<float>::max()) / largest);
    writer.write(name + std::string(kSums), floats(e.sums, factor));
    writer.write(name + std::string(kCounts), floats(e.counts, factor));
  }
  writer.finish();
}

// ---- The legacy form

class LegacyReader {
 public:
  LegacyReader(const fs::path& path, std::span<const std::byte> bytes) : path_(path), bytes_(bytes) {}

  [[nodiscard]] bool at_end() const { return at_ == bytes_.size(); }
  std::uint32_t count(const char* what) {
    std::int32_t n = 0;
    std::memcpy(&n, take(sizeof n, what).data(), sizeof n);
    if (n < 0) refuse(path_, std::string(what) + " at byte " + std::to_string(at_ - 4) + " is " + std::to_string(n));
    return static_cast<std::uint32_t>(n);
  }
  std::string text(const char* what) {
    const std::span<const std::byte> bytes = take(count(what), what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::vector<double> values(std::size_t n, const char* what) {
    if (n > bytes_.size() / sizeof(float)) n = bytes_.size();  // take() says that it ends before
    const std::span<const std::byte> bytes = take(n * sizeof(float), what);
    std::vector<double> out(n);
    for (std::size_t i = 0; i < n; ++i) {
      float value = 0;
      std::memcpy(&value, bytes.data() + i * sizeof value, sizeof value);
      out[i] = static_cast<double>(value);
    }
    return out;
  }

 private:
  std::span<const std::byte> take(std::size_t n, const char* what) {
    if (n > bytes_.size() - at_)
      refuse(path_, "it ends inside " + std::string(what) + " at byte " + std::to_string(at_) +
                        ", or is no importance matrix at all");
    at_ += n;
    return bytes_.subspan(at_ - n, n);
  }

  const fs::path& path_;
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

ImportanceMatrix read_legacy(const fs::path& path, std::map<std::string, Entry, std::less<>>& entries) {
  const auto map = files::map_file(path);
  LegacyReader in(path, *map);
  ImportanceMatrix out;
  const std::uint32_t count = in.count("the number of entries");
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::string name = in.text("an entry's name");
    const std::uint32_t calls = in.count("an entry's calls");
    Entry e;
    e.columns = in.count("an entry's number of values");
    e.sums = in.values(e.columns, "an entry's values");
    // Means times calls, of chunks: tokens and sums over them, so that both forms can be added up.
    e.counts = {kLegacyChunk * (calls == 0 ? 1 : calls)};
    for (double& sum : e.sums) sum *= kLegacyChunk;
    if (name.empty() || e.columns == 0) refuse(path, "entry " + std::to_string(i) + " has no name or no values");
    check_values(path, name, e);
    if (!entries.emplace(name, std::move(e)).second) refuse(path, "'" + name + "' is in it twice");
  }
  if (!in.at_end()) out.chunk_count = in.count("the number of chunks");
  if (!in.at_end()) out.datasets.push_back(in.text("the name of the text"));
  return out;
}

void write_legacy(const fs::path& path, const ImportanceMatrix& m) {
  std::string out;
  const auto number = [&](std::size_t n) {
    const auto value = static_cast<std::int32_t>(n);
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  const auto text = [&](const std::string& s) {
    number(s.size());
    out += s;
  };
  number(m.entries().size());
  for (const auto& [name, e] : m.entries()) {
    // One count for all experts, so each expert's values are its means times it.
    double most = 1;
    for (const double count : e.counts) most = std::max(most, count);
    const double calls = std::min(std::ceil(most / kLegacyChunk), kMostCalls);
    text(name);
    number(static_cast<std::size_t>(calls));
    number(e.sums.size());
    for (std::size_t i = 0; i < e.sums.size(); ++i) {
      const double tokens = e.counts[i / e.columns];
      const auto value = static_cast<float>(tokens > 0 ? e.sums[i] / tokens * calls : calls);
      out.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
  }
  number(std::min<std::size_t>(m.chunk_count, std::numeric_limits<std::int32_t>::max()));
  text(m.datasets.empty() ? std::string() : m.datasets.front());
  files::write_file(path, out);
}

std::string shape_of(std::size_t columns, std::size_t experts) {
  return std::to_string(columns) + " columns" + (experts == 1 ? "" : " and " + std::to_string(experts) + " experts");
}
std::string shape_of(const Entry& e) { return shape_of(e.columns, e.experts()); }

/// As the legacy form has experts, in a row under one count, apart again.
Entry split(const Entry& e, std::size_t experts) {
  return {e.columns / experts, e.sums, std::vector<double>(experts, e.counts.front())};
}
bool is_row_of(const Entry& row, const Entry& apart) {
  return row.experts() == 1 && apart.experts() > 1 && row.columns == apart.columns * apart.experts();
}

}  // namespace

ImportanceMatrix ImportanceMatrix::read(const fs::path& path) {
  std::map<std::string, Entry, std::less<>> entries;
  ImportanceMatrix out = is_gguf(path) ? read_gguf(path, entries) : read_legacy(path, entries);
  if (entries.empty()) refuse(path, "it has no entries");
  out.entries_ = std::move(entries);
  return out;
}

void ImportanceMatrix::write(const fs::path& path, Form form) const {
  if (entries_.empty())
    throw Error(ErrorCode::invalid_argument, "an importance matrix without an entry says nothing; none is written");
  for (const auto& [name, e] : entries_)
    if (form == Form::gguf && name.size() > kMostName)
      throw Error(ErrorCode::invalid_argument, "the weight '" + name + "' has a longer name than the " +
                                                   std::to_string(kMostName) + " bytes that a GGUF file holds here");
  form == Form::gguf ? write_gguf(path, *this) : write_legacy(path, *this);
}

void ImportanceMatrix::add(std::string_view weight, MatrixView<const float> x, std::size_t expert,
                           std::size_t experts) {
  const std::string name(weight);
  x.validate(name);
  if (expert >= experts)
    throw Error(ErrorCode::invalid_argument,
                "'" + name + "' has no expert " + std::to_string(expert) + " of " + std::to_string(experts));
  for (std::size_t t = 0; t < x.rows; ++t)
    for (std::size_t c = 0; c < x.cols; ++c)
      if (!is_finite(x(t, c)))
        throw Error(ErrorCode::non_finite, "inputs of '" + name + "': token " + std::to_string(t) + ", channel " +
                                               std::to_string(c) + " is " + std::to_string(x(t, c)));
  auto it = entries_.find(weight);
  if (it == entries_.end()) {
    Entry e;
    e.columns = x.cols;
    e.sums.resize(experts * x.cols);
    e.counts.resize(experts);
    it = entries_.emplace(name, std::move(e)).first;
  }
  Entry& e = it->second;
  if (e.columns != x.cols || e.experts() != experts)
    throw Error(ErrorCode::shape_mismatch,
                "inputs of '" + name + "' have " + shape_of(x.cols, experts) + "; those before had " + shape_of(e));
  double* sums = e.sums.data() + expert * x.cols;
  for (std::size_t t = 0; t < x.rows; ++t)
    for (std::size_t c = 0; c < x.cols; ++c) {
      const auto value = static_cast<double>(x(t, c));
      sums[c] += value * value;
    }
  e.counts[expert] += static_cast<double>(x.rows);
}

void ImportanceMatrix::merge(const ImportanceMatrix& other) {
  std::map<std::string, Entry, std::less<>> sums = entries_;
  for (const auto& [name, theirs] : other.entries_) {
    const auto [it, is_new] = sums.emplace(name, theirs);
    if (is_new) continue;
    Entry& ours = it->second;
    if (is_row_of(ours, theirs)) ours = split(ours, theirs.experts());
    const Entry also = is_row_of(theirs, ours) ? split(theirs, ours.experts()) : theirs;
    if (ours.columns != also.columns || ours.experts() != also.experts())
      throw Error(ErrorCode::shape_mismatch,
                  "'" + name + "' has " + shape_of(ours) + " here, and " + shape_of(also) + " in what is to be added");
    for (std::size_t i = 0; i < also.sums.size(); ++i) ours.sums[i] += also.sums[i];
    for (std::size_t i = 0; i < also.counts.size(); ++i) ours.counts[i] += also.counts[i];
  }
  entries_ = std::move(sums);
  datasets.insert(datasets.end(), other.datasets.begin(), other.datasets.end());
  const std::uint32_t room = std::numeric_limits<std::uint32_t>::max() - chunk_count;
  chunk_count += std::min(room, other.chunk_count);
}

const ImportanceMatrix::Entry* ImportanceMatrix::find(std::string_view weight) const {
  const auto it = entries_.find(weight);
  return it == entries_.end() ? nullptr : &it->second;
}

std::vector<float> ImportanceMatrix::mean_squares(std::string_view weight, std::size_t columns, std::size_t expert,
                                                  std::size_t experts) const {
  const Entry* e = find(weight);
  if (e == nullptr) return {};
  const bool in_a_row = e->experts() == 1;  // as the legacy form has them
  if (expert >= experts || e->sums.size() != columns * experts || !(in_a_row || e->experts() == experts))
    throw Error(ErrorCode::shape_mismatch, "the importance of '" + std::string(weight) + "' is of " + shape_of(*e) +
                                               "; the weight has " + shape_of(columns, experts) +
                                               ": it is another model's");
  std::vector<float> out(columns, 1.0f);
  const double tokens = e->counts[in_a_row ? 0 : expert];
  if (tokens > 0)
    for (std::size_t c = 0; c < columns; ++c) out[c] = static_cast<float>(e->sums[expert * columns + c] / tokens);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI
