#include "reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/files.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

/// What precedes the codes of a row.
struct RowScale {
  float top, step;
};

bool agrees(const ReferenceHeader& a, const ReferenceHeader& b) {
  return std::memcmp(a.magic, b.magic, sizeof a.magic) == 0 && a.vocab == b.vocab && a.tokens == b.tokens &&
         a.window == b.window && a.stride == b.stride && a.text_hash == b.text_hash;
}

/// Codes of a row, and the top that makes them a distribution.
RowScale encode(std::span<const float> x, std::uint16_t* codes) {
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  if (!std::isfinite(*low) || !std::isfinite(*high))
    throw Error(ErrorCode::non_finite, "a log-probability is not finite; it cannot be a reference");
  constexpr float most = 65535;
  const float step = std::max((*high - *low) / most, 1e-30f);
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float code = std::min(std::nearbyint((*high - x[i]) / step), most);
    codes[i] = static_cast<std::uint16_t>(code);
    sum += std::exp(-static_cast<double>(step) * static_cast<double>(code));
  }
  return {static_cast<float>(-std::log(sum)), step};
}

}  // namespace

ReferenceWriter::ReferenceWriter(const std::filesystem::path& path, const ReferenceHeader& header)
    : file_(path), header_(header), codes_(header.vocab), row_(reference_row_bytes(header.vocab)) {}

void ReferenceWriter::add(std::span<const float> log_probabilities) {
  if (written_ == header_.rows) return;
  const RowScale scale = encode(log_probabilities, codes_.data());
  std::memcpy(row_.data(), &scale, sizeof scale);
  std::memcpy(row_.data() + sizeof scale, codes_.data(), codes_.size() * sizeof codes_[0]);
  file_.write(row_, sizeof header_ + written_++ * row_.size());
}

void ReferenceWriter::finish() {
  header_.rows = written_;
  file_.write(std::as_bytes(std::span(&header_, 1)), 0);
  file_.commit();
}

ReferenceReader::ReferenceReader(const std::filesystem::path& path, const ReferenceHeader& wanted)
    : path_(path), file_(files::open_input(path)), row_(reference_row_bytes(wanted.vocab)) {
  const auto refuse = [&](const char* why) {
    throw Error(ErrorCode::corrupt_file, "'" + path.string() + "' " + why + "; make it again");
  };
  ReferenceHeader theirs;
  const std::uintmax_t size = files::size(path);
  if (size < sizeof theirs) refuse("is not a reference");
  files::read_at(file_.get(), std::as_writable_bytes(std::span(&theirs, 1)), 0, path);
  if (!agrees(theirs, wanted)) refuse("is not a reference for this text, vocabulary and window");
  const std::uintmax_t bytes = size - sizeof theirs;
  if (theirs.rows == 0 || bytes % row_.size() != 0 || bytes / row_.size() != theirs.rows) refuse("ends early");
  rows_ = theirs.rows;
}

std::optional<ReferenceReader::Prediction> ReferenceReader::compare(std::span<const float> other, std::size_t token) {
  if (next_ == rows_) return std::nullopt;
  files::read_at(file_.get(), row_, sizeof(ReferenceHeader) + next_++ * row_.size(), path_);
  RowScale scale;
  std::memcpy(&scale, row_.data(), sizeof scale);
  Prediction out;
  for (std::size_t i = 0; i < other.size(); ++i) {
    std::uint16_t code;
    std::memcpy(&code, row_.data() + sizeof scale + i * sizeof code, sizeof code);
    const double r = static_cast<double>(scale.top) - static_cast<double>(scale.step) * code;
    out.kl += std::exp(r) * (r - static_cast<double>(other[i]));
    if (i == token) out.log_probability = r;
  }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::engine
