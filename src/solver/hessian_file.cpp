#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>

#include "core/files.h"
#include "core/pending.h"
#include "nibble/core/error.h"
#include "nibble/solver/hessian.h"

namespace nibble::inline NIBBLE_ABI {

namespace {

static_assert(std::endian::native == std::endian::little, "the file is little-endian");

constexpr std::array<char, 8> kMagic = {'N', 'I', 'B', 'H', 'E', 'S', 'S', '1'};
constexpr std::uint64_t kMaxChannels = std::uint64_t{1} << 24, kMaxName = 4096;

struct Header {
  std::array<char, 8> magic = kMagic;
  std::uint64_t channels = 0, tokens = 0, asymmetric = 0, name_length = 0;
};

}  // namespace

void Hessian::save(const std::filesystem::path& path) const {
  if (name_.size() > kMaxName)
    throw Error(ErrorCode::invalid_argument,
                "the name of a Hessian to be saved has " + std::to_string(name_.size()) + " bytes; 4096 are the most");
  files::PendingFile file(path);
  std::size_t offset = 0;
  const auto write = [&](std::span<const std::byte> bytes) {
    file.write(bytes, offset);
    offset += bytes.size();
  };
  const Header header{kMagic, channels_, tokens_, asymmetric() ? 1u : 0u, name_.size()};
  write(std::as_bytes(std::span(&header, 1)));
  write(std::as_bytes(std::span(name_)));
  write(std::as_bytes(std::span(sums_)));
  write(std::as_bytes(std::span(cross_)));
  file.commit();
}

Hessian Hessian::load(const std::filesystem::path& path) {
  const auto map = files::map_file(path);
  std::span<const std::byte> bytes = *map;
  const auto need = [&](bool ok, const std::string& why) {
    if (!ok) throw Error(ErrorCode::corrupt_file, "'" + path.string() + "' is no saved Hessian: " + why);
  };
  Header header;
  need(bytes.size() >= sizeof header, "it has only " + std::to_string(bytes.size()) + " bytes");
  std::memcpy(&header, bytes.data(), sizeof header);
  need(header.magic == kMagic, "it does not begin with NIBHESS1");
  need(header.channels >= 1 && header.channels <= kMaxChannels, "channels is " + std::to_string(header.channels));
  need(header.asymmetric <= 1, "asymmetric is " + std::to_string(header.asymmetric));
  need(header.name_length <= kMaxName, "its name has " + std::to_string(header.name_length) + " bytes");
  // No overflow: channels ≤ 2^24.
  const std::uint64_t lower = header.channels * (header.channels + 1) / 2;
  const std::uint64_t cross = header.asymmetric * header.channels * header.channels;
  const std::uint64_t wanted = sizeof header + header.name_length + 8 * (lower + cross);
  need(bytes.size() == wanted, "it has " + std::to_string(bytes.size()) + " bytes; " + std::to_string(header.channels) +
                                   " channels need " + std::to_string(wanted));
  bytes = bytes.subspan(sizeof header);
  std::string name(reinterpret_cast<const char*>(bytes.data()), header.name_length);
  bytes = bytes.subspan(header.name_length);
  Hessian out(static_cast<std::size_t>(header.channels), std::move(name), header.asymmetric == 1);
  out.tokens_ = header.tokens;
  std::memcpy(out.sums_.data(), bytes.data(), 8 * lower);
  if (cross != 0) std::memcpy(out.cross_.data(), bytes.data() + 8 * lower, 8 * cross);
  for (std::size_t i = 0, at = 0; i < out.channels_; ++i)
    for (std::size_t j = 0; j <= i; ++j, ++at)
      need(std::isfinite(out.sums_[at]) && (i != j || out.sums_[at] >= 0),
           "element (" + std::to_string(i) + ", " + std::to_string(j) + ") is " + std::to_string(out.sums_[at]));
  for (std::size_t i = 0; i < out.cross_.size(); ++i)
    need(std::isfinite(out.cross_[i]),
         "element " + std::to_string(i) + " of the cross statistic is " + std::to_string(out.cross_[i]));
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI
