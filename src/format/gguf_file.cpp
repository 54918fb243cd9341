#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <limits>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/files.h"
#include "core/mapped_files.h"
#include "gguf_fields.h"
#include "gguf_internal.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/memory.h"
#include "pending_file.h"
#include "recognise.h"

namespace nibble::inline NIBBLE_ABI {

namespace {

/// "-00002-of-00003.gguf".
std::string part_ending(std::size_t index, std::size_t count) {
  std::array<char, 64> out{};
  std::snprintf(out.data(), out.size(), "-%05zu-of-%05zu.gguf", index + 1, count);
  return out.data();
}

}  // namespace

std::filesystem::path gguf_part_path(const std::filesystem::path& whole, std::size_t index, std::size_t count) {
  std::filesystem::path out = whole;
  out.replace_filename(whole.stem().string() + part_ending(index, count));
  return out;
}

GgufFile::GgufFile(const std::filesystem::path& path) {
  format::refuse_no_model(path);
  header_ = add(path);
  const std::uint64_t count = format::GgufFields(header_.metadata, path.string()).number("split.count").value_or(1);
  if (count > 1) add_others(path, count);
  for (std::size_t i = 0; i < header_.tensors.size(); ++i)
    if (!where_.emplace(header_.tensors[i].name, i).second)
      throw Error(ErrorCode::corrupt_file,
                  "tensor '" + header_.tensors[i].name + "' is in two of the files of '" + parts_.front().name + "'");
}

GgufHeader GgufFile::add(const std::filesystem::path& path) {
  Part part{files::map_file(path), path.string()};
  GgufHeader header = needing_memory([&] { return "the header of '" + part.name + "'"; }, part.map->size(),
                                     [&] { return parse_gguf_header(*part.map, part.name); });
  part.data_start = header.data_start;
  for (GgufTensor& t : header.tensors) t.part = parts_.size();
  parts_.push_back(std::move(part));
  return header;
}

void GgufFile::add_others(const std::filesystem::path& first, std::uint64_t count) {
  const std::string name = first.filename().string();
  const auto refuse = [&](ErrorCode code, const std::string& why) {
    throw Error(code, "'" + first.string() + "' is one of " + std::to_string(count) + " files of a model" + why);
  };
  const format::GgufFields of_first(header_.metadata, first.string());
  const std::uint64_t index = of_first.number("split.no").value_or(0);
  const std::string ending = index < count ? part_ending(index, count) : std::string();
  if (ending.empty() || !name.ends_with(ending))
    refuse(ErrorCode::not_found, ", and its name does not end in '" + (ending.empty() ? "-00001-of-…" : ending) +
                                     "', from which the others' follow: give it the name that it had");
  const std::string stem = name.substr(0, name.size() - ending.size());
  const auto beside = [&](std::size_t i) { return first.parent_path() / (stem + part_ending(i, count)); };
  if (index != 0)
    refuse(ErrorCode::invalid_argument, "; give the first, '" + beside(0).string() + "', which says what the model is");
  for (std::size_t i = 1; i < count; ++i) {
    if (!files::exists(beside(i)))
      refuse(ErrorCode::not_found, ", and '" + beside(i).string() + "' is not beside it; download it, too");
    GgufHeader header = add(beside(i));
    const format::GgufFields says(header.metadata, beside(i).string());
    if (says.number("split.no") != i || says.number("split.count") != count)
      refuse(ErrorCode::corrupt_file, ", and '" + beside(i).string() + "' says that it is another part or of another");
    std::ranges::move(header.tensors, std::back_inserter(header_.tensors));
  }
  if (const auto all = of_first.number("split.tensors.count"); all && *all != header_.tensors.size())
    refuse(ErrorCode::corrupt_file,
           " of " + std::to_string(*all) + " tensors, and they hold " + std::to_string(header_.tensors.size()));
}

std::span<const std::byte> GgufFile::bytes_of(const GgufTensor& tensor) const {
  const Part& part = parts_.at(tensor.part);
  return part.map->subspan(part.data_start + tensor.offset, tensor.bytes);
}

const GgufTensor& GgufFile::info(std::string_view tensor) const {
  const auto it = where_.find(tensor);
  if (it == where_.end())
    throw Error(ErrorCode::not_found, "there is no tensor '" + std::string(tensor) + "' in the GGUF file");
  return header_.tensors[it->second];
}

void GgufFile::require_intact() const {
  for (const Part& part : parts_) files::require_intact(part.map->data());
}

const GgufTensor& GgufFile::readable(std::string_view tensor) const {
  const GgufTensor& t = info(tensor);
  if (t.unread == nullptr) return t;
  std::string known;
  for (const BlockType type : kBlockTypes) known += (known.empty() ? "" : ", ") + std::string(name_of(type));
  throw Error(ErrorCode::unsupported, "'" + parts_.at(t.part).name + "': tensor '" + t.name + "' is " +
                                          std::string(t.type_name()) +
                                          ", which this library does not decode; it reads " + known);
}

Buffer GgufFile::data(const GgufTensor& tensor) const {
  require_intact();
  return Buffer::view(bytes_of(tensor), parts_.at(tensor.part).map);
}

BlockMatrix GgufFile::matrix(std::string_view tensor) const {
  const GgufTensor& t = readable(tensor);
  if (t.shape.size() != 2)
    throw Error(ErrorCode::shape_mismatch,
                "tensor '" + t.name + "' has " + std::to_string(t.shape.size()) + " dimensions; a matrix has 2");
  BlockMatrix m{t.type, t.shape[0], t.shape[1], data(t)};
  m.validate(t.name);
  return m;
}

std::vector<float> GgufFile::read_f32(std::string_view tensor) const {
  const GgufTensor& t = readable(tensor);
  std::vector<float> out(t.bytes / block_bytes(t.type) * block_size(t.type));
  decode_blocks(t.type, data(t).data(), out.size(), out.data());
  return out;
}

void GgufFile::release(const GgufTensor& tensor) const { files::release_pages(bytes_of(tensor)); }

namespace {

/// The header's bytes, as they grow.
class Output {
 public:
  template <class T>
  void put(const T& value, int depth = 1) {
    if constexpr (std::is_same_v<T, std::string>) {
      put(std::uint64_t{value.size()});
      bytes_ += value;
    } else if constexpr (std::is_same_v<T, bool>) {
      put(std::uint8_t{value});
    } else if constexpr (std::is_same_v<T, GgufArray>) {
      if (depth > format::kMaxGgufNesting) throw Error(ErrorCode::invalid_argument, "arrays nest more than 4 deep");
      put(static_cast<std::uint32_t>(value.type()));
      put(std::uint64_t{value.size()});
      std::visit(
          [&](const auto& elements) {
            using Element = typename std::decay_t<decltype(elements)>::value_type;
            for (const auto& e : elements) put<Element>(e, depth + 1);
          },
          value.elements);
    } else {
      bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

std::size_t alignment_of(const GgufMetadata& metadata) {
  const auto it = metadata.find("general.alignment");
  if (it == metadata.end()) return format::kGgufAlignment;
  const auto* value = std::get_if<std::uint32_t>(&it->second);
  if (value == nullptr || *value == 0 || (*value & (*value - 1)) != 0)
    throw Error(ErrorCode::invalid_argument, "general.alignment must be a u32 power of two");
  return *value;
}

/// What a tensor takes of a header, the most; and what a part's header takes beside them.
constexpr std::size_t kTensorEntryBytes = 8 + 63 + 4 + 4 * 8 + 4 + 8, kPartHeaderBytes = 512;

/// Sets offsets and sizes; returns the bytes of all the data, padded.
std::size_t lay_out(std::vector<GgufTensor>& tensors, std::size_t alignment) {
  constexpr std::size_t most_name = 63;
  std::size_t at = 0;
  for (GgufTensor& t : tensors) {
    if (t.name.empty() || t.name.size() > most_name)
      throw Error(ErrorCode::invalid_argument, "the tensor name '" + t.name + "' has " + std::to_string(t.name.size()) +
                                                   " bytes; 1 to 63 are allowed");
    if (t.unread != nullptr)
      throw Error(ErrorCode::invalid_argument,
                  "tensor '" + t.name + "' is " + std::string(t.type_name()) + ", which this library does not write");
    if (t.shape.size() > 4)
      throw Error(ErrorCode::invalid_argument,
                  "tensor '" + t.name + "' has " + std::to_string(t.shape.size()) + " dimensions; 4 are the most");
    const std::string problem = format::gguf_tensor_bytes(t, t.bytes);
    if (!problem.empty()) throw Error(ErrorCode::invalid_argument, "tensor '" + t.name + "' " + problem);
    t.offset = at;
    at = format::round_up(at + t.bytes, alignment);
  }
  return at;
}

/// All that comes before the tensors' data.
Output header_of(const GgufMetadata& metadata, std::span<const GgufTensor> tensors) {
  Output out;
  out.put(std::uint32_t{0x46554747});
  out.put(std::uint32_t{3});
  out.put(std::uint64_t{tensors.size()});
  out.put(std::uint64_t{metadata.size()});
  for (const auto& [key, value] : metadata) {
    if (key.empty() || key.size() > 65535)
      throw Error(ErrorCode::invalid_argument,
                  "a key has " + std::to_string(key.size()) + " bytes; 1 to 65535 are allowed");
    out.put(key);
    out.put(static_cast<std::uint32_t>(value.index()));
    std::visit([&](const auto& v) { out.put(v); }, value);
  }
  for (const GgufTensor& t : tensors) {
    out.put(t.name);
    out.put(static_cast<std::uint32_t>(t.shape.size()));
    for (auto d = t.shape.rbegin(); d != t.shape.rend(); ++d) out.put(std::uint64_t{*d});
    out.put(static_cast<std::uint32_t>(t.type));
    out.put(std::uint64_t{t.offset});
  }
  return out;
}

}  // namespace

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, std::vector<GgufTensor> tensors,
                       std::size_t part_bytes) {
  const std::size_t alignment = alignment_of(metadata);
  lay_out(tensors, alignment);
  if (part_bytes == 0 || file_bytes(metadata, tensors) <= part_bytes) {
    begin(path, metadata, std::move(tensors));
    return;
  }
  // A part begins where the one before has no room; the first holds the metadata besides.
  std::vector<std::vector<GgufTensor>> parts(1);
  const std::size_t total = tensors.size();
  std::size_t used = header_of(metadata, tensors).bytes().size() + alignment;  // the data begin at a multiple of it
  for (GgufTensor& t : tensors) {
    const std::size_t bytes = format::round_up(t.bytes, alignment) + kTensorEntryBytes;
    if (!parts.back().empty() && used + bytes > part_bytes) {
      parts.emplace_back();
      used = kPartHeaderBytes + alignment;
    }
    used += bytes;
    parts.back().push_back(std::move(t));
  }
  if (parts.size() > std::numeric_limits<std::uint16_t>::max())
    throw Error(ErrorCode::invalid_argument, "files of " + std::to_string(part_bytes) + " bytes would be " +
                                                 std::to_string(parts.size()) + "; 65535 are the most");
  for (std::size_t i = 0; i < parts.size(); ++i) {
    GgufMetadata of_part = i == 0 ? metadata : GgufMetadata{};
    if (i > 0 && metadata.contains("general.alignment"))
      of_part.emplace("general.alignment", metadata.at("general.alignment"));
    of_part["split.no"] = static_cast<std::uint16_t>(i);
    of_part["split.count"] = static_cast<std::uint16_t>(parts.size());
    of_part["split.tensors.count"] = static_cast<std::int32_t>(total);
    begin(gguf_part_path(path, i, parts.size()), of_part, std::move(parts[i]));
  }
}

void GgufWriter::begin(const std::filesystem::path& path, const GgufMetadata& metadata,
                       std::vector<GgufTensor> tensors) {
  const std::size_t alignment = alignment_of(metadata), data_bytes = lay_out(tensors, alignment);
  const Output header = header_of(metadata, tensors);
  const std::size_t data_start = format::round_up(header.bytes().size(), alignment);
  format::PendingTensors& file = *files_.emplace_back(std::make_unique<format::PendingTensors>(path));
  for (const GgufTensor& t : tensors) {
    if (!part_of_.emplace(t.name, paths_.size()).second)
      throw Error(ErrorCode::invalid_argument, "two tensors are named '" + t.name + "'");
    file.declare(t.name, data_start + t.offset, t.bytes);
  }
  paths_.push_back(path);
  file.file().write(std::as_bytes(std::span(header.bytes())), 0);
  file.file().resize(data_start + data_bytes);
}

std::size_t GgufWriter::file_bytes(const GgufMetadata& metadata, std::vector<GgufTensor> tensors) {
  const std::size_t alignment = alignment_of(metadata), data_bytes = lay_out(tensors, alignment);
  return format::round_up(header_of(metadata, tensors).bytes().size(), alignment) + data_bytes;
}

GgufWriter::~GgufWriter() = default;

void GgufWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const auto it = part_of_.find(name);
  files_.at(it == part_of_.end() ? 0 : it->second)->write(name, bytes);
}

void GgufWriter::finish() {
  for (auto file = files_.rbegin(); file != files_.rend(); ++file) (*file)->finish();
}

bool is_gguf(const std::filesystem::path& path) {
  std::error_code error;
  if (path.extension() == ".gguf") return true;
  if (!std::filesystem::is_regular_file(path, error)) return false;
  const files::Descriptor file = files::open_input(path);
  std::array<char, 4> magic{};
  return ::pread(file.get(), magic.data(), magic.size(), 0) == 4 && std::string_view(magic.data(), 4) == "GGUF";
}

}  // namespace nibble::inline NIBBLE_ABI
