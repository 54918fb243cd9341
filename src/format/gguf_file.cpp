#include <unistd.h>

#include <array>
#include <cstring>
#include <string_view>
#include <system_error>

#include "core/files.h"
#include "core/mapped_files.h"
#include "gguf_internal.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/memory.h"
#include "pending_file.h"
#include "recognise.h"

namespace nibble::inline NIBBLE_ABI {

GgufFile::GgufFile(const std::filesystem::path& path)
    : map_(files::map_file((format::refuse_no_model(path), path))),
      name_(path.string()),
      header_(needing_memory([&] { return "the header of '" + name_ + "'"; }, map_->size(),
                             [&] { return parse_gguf_header(*map_, name_); })) {
  for (std::size_t i = 0; i < header_.tensors.size(); ++i) where_.emplace(header_.tensors[i].name, i);
}

const GgufTensor& GgufFile::info(std::string_view tensor) const {
  const auto it = where_.find(tensor);
  if (it == where_.end())
    throw Error(ErrorCode::not_found, "there is no tensor '" + std::string(tensor) + "' in the GGUF file");
  return header_.tensors[it->second];
}

void GgufFile::require_intact() const { files::require_intact(map_->data()); }

const GgufTensor& GgufFile::readable(std::string_view tensor) const {
  const GgufTensor& t = info(tensor);
  if (t.unread == nullptr) return t;
  std::string known;
  for (const BlockType type : kBlockTypes) known += (known.empty() ? "" : ", ") + std::string(name_of(type));
  throw Error(ErrorCode::unsupported, "'" + name_ + "': tensor '" + t.name + "' is " + std::string(t.type_name()) +
                                          ", which this library does not decode; it reads " + known);
}

Buffer GgufFile::data(const GgufTensor& tensor) const {
  require_intact();
  return Buffer::view(map_->subspan(header_.data_start + tensor.offset, tensor.bytes), map_);
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

void GgufFile::release(const GgufTensor& tensor) const {
  files::release_pages(map_->subspan(header_.data_start + tensor.offset, tensor.bytes));
}

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

GgufWriter::GgufWriter(std::filesystem::path path, const GgufMetadata& metadata, std::vector<GgufTensor> tensors) {
  const std::size_t alignment = alignment_of(metadata), data_bytes = lay_out(tensors, alignment);
  const Output header = header_of(metadata, tensors);
  const std::size_t data_start = format::round_up(header.bytes().size(), alignment);
  file_ = std::make_unique<format::PendingTensors>(std::move(path));
  for (const GgufTensor& t : tensors) file_->declare(t.name, data_start + t.offset, t.bytes);
  file_->file().write(std::as_bytes(std::span(header.bytes())), 0);
  file_->file().resize(data_start + data_bytes);
}

std::size_t GgufWriter::file_bytes(const GgufMetadata& metadata, std::vector<GgufTensor> tensors) {
  const std::size_t alignment = alignment_of(metadata), data_bytes = lay_out(tensors, alignment);
  return format::round_up(header_of(metadata, tensors).bytes().size(), alignment) + data_bytes;
}

GgufWriter::~GgufWriter() = default;

void GgufWriter::write(const std::string& name, std::span<const std::byte> bytes) { file_->write(name, bytes); }

void GgufWriter::finish() { file_->finish(); }

bool is_gguf(const std::filesystem::path& path) {
  std::error_code error;
  if (path.extension() == ".gguf") return true;
  if (!std::filesystem::is_regular_file(path, error)) return false;
  const files::Descriptor file = files::open_input(path);
  std::array<char, 4> magic{};
  return ::pread(file.get(), magic.data(), magic.size(), 0) == 4 && std::string_view(magic.data(), 4) == "GGUF";
}

}  // namespace nibble::inline NIBBLE_ABI
