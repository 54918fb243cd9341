#include "nibble/format/checkpoint.h"

#include <cstring>
#include <mutex>
#include <set>

#include "core/files.h"
#include "core/json.h"
#include "recognise.h"
#include "undecoded.h"

namespace nibble::inline NIBBLE_ABI {

struct Checkpoint::AlignedCopies {
  std::mutex mutex;
  std::map<std::string, Buffer> by_name;
};

namespace {

bool is_aligned(const Buffer& bytes, DType type) {
  return reinterpret_cast<std::uintptr_t>(bytes.data()) % size_of(type) == 0;
}

template <class T>
void convert(const Buffer& from, std::vector<float>& to) {
  for (std::size_t i = 0; i < to.size(); ++i) {
    T value;
    std::memcpy(&value, from.data() + i * sizeof(T), sizeof(T));
    to[i] = static_cast<float>(value);
  }
}

/// The shards of an index, by tensor. Shard names are file names and nothing more: an index must not reach elsewhere.
std::map<std::string, std::string> read_index(const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::corrupt_file, "'" + path.string() + "': " + why);
  };
  const json::Document document = json::parse(files::read_text(path), path.string());
  if (!document->is_object() || !document->contains("weight_map") || !document->at("weight_map").is_object())
    refuse("there is no \"weight_map\"");
  if (document->at("weight_map").empty()) refuse("its \"weight_map\" names no tensor");
  std::map<std::string, std::string> out;
  for (const auto& [tensor, shard] : document->at("weight_map").items()) {
    if (!shard.is_string()) refuse("the shard of tensor '" + tensor + "' is not a file name");
    const auto name = shard.get<std::string>();
    if (name.empty() || name != printable(name) || name.starts_with('.') ||
        name.find_first_of("/\\") != std::string::npos)
      refuse("the shard '" + name + "' of tensor '" + tensor + "' is not a plain file name");
    out[tensor] = name;
  }
  return out;
}

/// The file or index that a directory means: the usual names, else the only one of another name.
std::filesystem::path file_of_directory(const std::filesystem::path& path) {
  for (const char* usual : {"model.safetensors", "model.safetensors.index.json"})
    if (files::exists(path / usual)) return path / usual;
  for (const std::string_view end : {".safetensors.index.json", ".safetensors"}) {
    std::vector<std::filesystem::path> found;
    for (const std::filesystem::path& entry : files::list_folder(path))
      if (entry.filename().string().ends_with(end)) found.push_back(entry);
    if (found.size() == 1) return found.front();
    if (found.size() > 1)
      throw Error(ErrorCode::not_found, "'" + path.string() + "' holds " + std::to_string(found.size()) + " files *" +
                                            std::string(end) + ", and no model" + std::string(end) +
                                            " to say which is meant");
  }
  throw Error(ErrorCode::not_found,
              "'" + path.string() + "' holds neither model.safetensors nor model.safetensors.index.json");
}

}  // namespace

void Checkpoint::add(SafetensorsFile file, const std::string& shown) {
  for (std::size_t i = 0; i < file.tensors().size(); ++i) {
    const TensorInfo& t = file.tensors()[i];
    if (!where_.emplace(t.name, Place{files_.size(), i}).second)
      throw Error(ErrorCode::corrupt_file, "tensor '" + t.name + "' of '" + shown + "' is in another shard too");
    all_.push_back(t);
  }
  files_.push_back(std::move(file));
}

Checkpoint Checkpoint::open(const std::filesystem::path& path) {
  format::refuse_no_model(path);
  Checkpoint out;
  out.copies_ = std::make_shared<AlignedCopies>();
  const bool is_directory = files::is_directory(path);
  out.config_ = QuantizationConfig::find(is_directory ? path : path.parent_path());
  const auto file = is_directory ? file_of_directory(path) : path;
  if (file.extension() != ".json") {
    out.add(SafetensorsFile(file), file.string());
    return out;
  }
  const auto weight_map = read_index(file);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : weight_map) shards.insert(shard);
  for (const auto& shard : shards) {
    if (!files::exists(file.parent_path() / shard))
      throw Error(ErrorCode::not_found,
                  "'" + file.string() + "' names the shard '" + shard + "', which is not beside it; download it, too");
    out.add(SafetensorsFile(file.parent_path() / shard), shard);
  }
  for (const auto& [tensor, shard] : weight_map)
    if (!out.contains(tensor))
      throw Error(ErrorCode::corrupt_file, "tensor '" + tensor + "' is in the index but not in '" + shard + "'");
  return out;
}

Checkpoint Checkpoint::over(std::shared_ptr<const TensorProvider> provider, std::optional<QuantizationConfig> config) {
  Checkpoint out;
  out.copies_ = std::make_shared<AlignedCopies>();
  out.provider_ = std::move(provider);
  out.config_ = std::move(config);
  out.all_ = out.provider_->tensors();
  for (std::size_t i = 0; i < out.all_.size(); ++i) out.where_.emplace(out.all_[i].name, Place{0, i});
  return out;
}

const TensorInfo& Checkpoint::info(const std::string& name) const {
  const auto it = where_.find(name);
  if (it == where_.end()) throw Error(ErrorCode::not_found, "there is no tensor '" + name + "' in the checkpoint");
  if (provider_) return all_[it->second.tensor];
  return files_[it->second.file].tensors()[it->second.tensor];
}

Buffer Checkpoint::data(const std::string& name) const {
  const TensorInfo& t = info(name);
  return provider_ ? provider_->data(t) : files_[where_.at(name).file].data(t);
}

Buffer Checkpoint::aligned_data(const std::string& name) const {
  Buffer bytes = data(name);
  if (is_aligned(bytes, info(name).type)) return bytes;
  Buffer copy = Buffer::allocate(bytes.size());
  std::memcpy(copy.writable<std::byte>(), bytes.data(), bytes.size());
  return copy;
}

void Checkpoint::release(const std::string& name) const {
  const TensorInfo& t = info(name);
  if (provider_) provider_->release(t);
  else files_[where_.at(name).file].release(t);
  const std::lock_guard lock(copies_->mutex);
  copies_->by_name.erase(name);
}

void Checkpoint::require_intact() const {
  if (provider_) provider_->require_intact();
  for (const SafetensorsFile& file : files_) file.require_intact();
}

const TensorInfo& Checkpoint::float_info(const std::string& name, std::size_t dimensions) const {
  const TensorInfo& t = info(name);
  format::check_plain_weight(*this, name);
  if (t.shape.size() != dimensions)
    throw Error(ErrorCode::shape_mismatch, "tensor '" + name + "' has " + std::to_string(t.shape.size()) +
                                               " dimensions; a " +
                                               (dimensions == 2 ? "matrix has 2" : "stack of matrices has 3"));
  if (!is_matrix_type(t.type))
    throw Error(ErrorCode::unsupported,
                "tensor '" + name + "' is " + std::string(name_of(t.type)) + "; F32, F16 or BF16 is needed");
  return t;
}

const TensorInfo& Checkpoint::matrix_info(const std::string& name) const { return float_info(name, 2); }
const TensorInfo& Checkpoint::stack_info(const std::string& name) const { return float_info(name, 3); }

const std::byte* Checkpoint::aligned(const TensorInfo& t) const {
  Buffer bytes = data(t.name);
  if (!is_aligned(bytes, t.type)) {
    const std::lock_guard lock(copies_->mutex);
    Buffer& copy = copies_->by_name[t.name];
    if (copy.data() == nullptr) copy = aligned_data(t.name);
    bytes = copy;
  }
  return bytes.data();
}

FloatMatrix Checkpoint::matrix(const std::string& name) const {
  const TensorInfo& t = matrix_info(name);
  return {aligned(t), t.type, t.shape[0], t.shape[1], t.shape[1]};
}

FloatMatrix Checkpoint::stack(const std::string& name) const {
  const TensorInfo& t = stack_info(name);
  return {aligned(t), t.type, t.shape[0] * t.shape[1], t.shape[2], t.shape[2]};
}

std::vector<float> Checkpoint::read_f32(const std::string& name) const {
  const TensorInfo& t = info(name);
  format::check_plain_weight(*this, name);
  const Buffer bytes = data(name);
  std::vector<float> out(t.bytes / size_of(t.type));
  switch (t.type) {
    case DType::f32: convert<float>(bytes, out); break;
    case DType::f64: convert<double>(bytes, out); break;
    case DType::f16: convert<f16>(bytes, out); break;
    case DType::bf16: convert<bf16>(bytes, out); break;
    case DType::f8_e4m3:
    case DType::f8_e5m2:
    case DType::f8_e8m0:
      throw Error(ErrorCode::unsupported, "tensor '" + name + "' is " + std::string(name_of(t.type)) +
                                              ": codes of 8 bits, which mean nothing without the scale they were made "
                                              "with");
    default:
      throw Error(ErrorCode::unsupported,
                  "tensor '" + name + "' is " + std::string(name_of(t.type)) + ", not floating point");
  }
  return out;
}

std::optional<NamedTensor> Checkpoint::find(const std::string& name) const {
  if (!contains(name)) return std::nullopt;
  const TensorInfo& t = info(name);
  return NamedTensor{t.name, t.type, t.shape, aligned_data(name)};
}

std::optional<std::vector<std::string>> Checkpoint::names_under(const std::string& layer) const {
  const std::string prefix = layer + ".";
  std::vector<std::string> out;
  for (auto it = where_.lower_bound(prefix); it != where_.end() && it->first.starts_with(prefix); ++it)
    out.push_back(it->first);
  return out;
}

std::optional<NamedTensor> Checkpoint::describe(const std::string& name) const {
  if (!contains(name)) return std::nullopt;
  const TensorInfo& t = info(name);
  return NamedTensor{t.name, t.type, t.shape, {}};
}

std::optional<std::string> Checkpoint::find_metadata(const std::string& key) const {
  if (provider_) return provider_->find_metadata(key);
  for (const auto& file : files_)
    if (const auto it = file.metadata().find(key); it != file.metadata().end()) return it->second;
  return std::nullopt;
}

}  // namespace nibble::inline NIBBLE_ABI
