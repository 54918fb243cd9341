// llama.cpp's adapter: a GGUF file of the general.type "adapter", with one adapter.lora.alpha for all layers and for
// each the matrices "<weight's name>.lora_a" [rank, in] and ".lora_b" [out, rank]. It scales by α over the rank that B
// has, or by 1 if α is 0 (llama-adapter.h).
//
// Where the architecture turns the pairs (2i, 2i + 1) of a head, the rows of a query's or key's B lie in that order, as
// the rows of its weight do. To undo that takes the heads' size, which llama.cpp's converter does not write; files from
// here state it as the model's own file does (attention.key_length).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "adapter_files.h"
#include "core/output_path.h"
#include "core/typed_buffer.h"
#include "format/gguf_fields.h"
#include "gguf_weights.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/memory.h"
#include "nibble/format/gguf.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeight = ".weight";

/// The α whose quotient by the rank is this layer's scale.
float file_alpha(const AdapterLayer& l) {
  return static_cast<float>(l.rslora ? l.alpha * std::sqrt(static_cast<double>(l.rank)) : l.alpha);
}

/// The α of all layers. Error{unsupported} names two that differ.
float common_alpha(const Adapter& adapter) {
  const AdapterLayer& first = adapter.layers.front();
  if (!std::isfinite(file_alpha(first)))
    throw Error(ErrorCode::unsupported,
                "the alpha of '" + first.name + "' is too large for the 32 bits of a GGUF file");
  bool same = true, unscaled = true;
  const AdapterLayer* other = &first;
  for (const AdapterLayer& l : adapter.layers) {
    unscaled = unscaled && l.scale() == 1;
    if (same && file_alpha(l) != file_alpha(first)) {
      same = false;
      other = &l;
    }
  }
  if (same && file_alpha(first) != 0) return file_alpha(first);
  if (unscaled) return 0;
  if (same) throw Error(ErrorCode::unsupported, "the adapter's alpha is 0, which llama.cpp takes for a scale of 1");
  throw Error(ErrorCode::unsupported, "a GGUF adapter has one alpha for all layers, and '" + first.name + "' needs " +
                                          std::to_string(file_alpha(first)) + ", '" + other->name + "' " +
                                          std::to_string(file_alpha(*other)) +
                                          "; merge the adapter into the model instead");
}

/// Rows of `width` from one order of a head's into the other.
std::vector<float> reordered(const std::vector<float>& rows, std::size_t width, std::size_t head_dim, bool to_gguf) {
  std::vector<float> out(rows.size());
  for (std::size_t r = 0; r < rows.size() / width; ++r) {
    const std::size_t ours = interleaved_row(r, head_dim);
    const std::size_t from = to_gguf ? ours : r, to = to_gguf ? r : ours;
    std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>(from * width), width,
                out.begin() + static_cast<std::ptrdiff_t>(to * width));
  }
  return out;
}

class GgufAdapterReader {
 public:
  GgufAdapterReader(const fs::path& path, const Config* model)
      : file_(path), name_(path.string()), fields_(file_.metadata(), name_), model_(model) {}

  Adapter read() {
    const Architecture& architecture = check_kind();
    std::map<std::string, LoraHalves> halves;
    for (const GgufTensor& t : file_.tensors()) halves[layer_of(architecture, t)].*half_of(t) = {t.name, t.shape, {}};
    for (const GgufTensor& t : file_.tensors())
      needing_memory([&] { return "tensor '" + t.name + "'"; }, t.bytes,
                     [&] {
                       (halves[layer_of(architecture, t)].*half_of(t)).values = file_.read_f32(t.name);
                       file_.release(t);
                     });
    file_.require_intact();
    Adapter out;
    out.base_model = fields_.text("general.base_model.0.name", "");
    out.layers = layers_of(halves, name_);
    const double alpha = read_alpha();
    for (AdapterLayer& l : out.layers) {
      l.alpha = alpha == 0 ? static_cast<double>(l.rank) : alpha;
      if (architecture.is_interleaved(l.name + std::string(kWeight)))
        l.b = reordered(l.b, l.rank, head_dim(architecture, l), false);
    }
    return out;
  }

 private:
  const Architecture& check_kind() const {
    const std::string type = fields_.text("general.type", "model"), kind = fields_.text("adapter.type", "");
    if (type != "adapter")
      fields_.refuse("general.type", "is '" + type + "'; an adapter is needed", ErrorCode::unsupported);
    if (kind != "lora") fields_.refuse("adapter.type", "is '" + kind + "'; lora is read", ErrorCode::unsupported);
    if (fields_.find("adapter.alora.invocation_tokens") != nullptr)
      fields_.refuse("adapter.alora.invocation_tokens",
                     "says that the adapter is at work only behind certain tokens, which is not read",
                     ErrorCode::unsupported);
    const std::string arch = fields_.text("general.architecture", "");
    if (model_ != nullptr) {
      const Architecture& theirs = model_->architecture();
      if (theirs.gguf_architecture != arch)
        fields_.refuse("general.architecture",
                       "is '" + arch + "', and the model's is '" + std::string(theirs.gguf_architecture) + "'",
                       ErrorCode::invalid_argument);
      return theirs;
    }
    const Architecture* found = find_gguf_architecture(arch);
    if (found == nullptr)
      fields_.refuse("general.architecture", "is '" + arch + "', which is not known here", ErrorCode::unsupported);
    return *found;
  }

  double read_alpha() const {
    const GgufValue* v = fields_.find("adapter.lora.alpha");
    if (v == nullptr) return 0;
    const auto* alpha = std::get_if<float>(v);
    if (alpha == nullptr || !std::isfinite(*alpha))
      fields_.refuse("adapter.lora.alpha", "is no finite number of 32 bits");
    return *alpha;
  }

  [[nodiscard]] LoraHalves::Matrix LoraHalves::*half_of(const GgufTensor& t) const {
    if (t.name.ends_with(".lora_a")) return &LoraHalves::a;
    if (t.name.ends_with(".lora_b")) return &LoraHalves::b;
    throw Error(ErrorCode::unsupported,
                "'" + name_ + "': tensor '" + t.name +
                    "' is neither a lora_a nor a lora_b; without it the adapter would be another");
  }

  /// "blk.3.attn_q.weight.lora_a" is model.layers.3.self_attn.q_proj's.
  [[nodiscard]] std::string layer_of(const Architecture& a, const GgufTensor& t) const {
    std::string_view rest = t.name;
    (void)half_of(t);
    rest.remove_suffix(std::string_view(".lora_a").size());
    if (rest.ends_with(kWeight)) {
      rest.remove_suffix(kWeight.size());
      if (rest == a.head.gguf_name) return std::string(a.head.name);
      if (rest.starts_with(a.gguf_block_prefix)) {
        rest.remove_prefix(a.gguf_block_prefix.size());
        const std::size_t dot = std::min(rest.size(), rest.find('.'));
        const std::string_view index = rest.substr(0, dot), module = rest.substr(std::min(rest.size(), dot + 1));
        const bool number = !index.empty() && index.find_first_not_of("0123456789") == std::string_view::npos;
        for (const Module& m : a.block)
          if (number && m.is_linear() && !m.is_expert() && m.gguf_name == module)
            return std::string(a.block_prefix) + std::string(index) + "." + std::string(m.name);
      }
    }
    throw Error(ErrorCode::unsupported, "'" + name_ + "': tensor '" + t.name + "' belongs to no linear layer of a " +
                                            std::string(a.gguf_architecture) + " model as this library knows it");
  }

  std::size_t head_dim(const Architecture& a, const AdapterLayer& l) const {
    const std::string key = std::string(a.gguf_architecture) + ".attention.key_length";
    if (model_ == nullptr && fields_.find(key) == nullptr)
      fields_.refuse(key,
                     "is missing, and without the size of a head the rows of '" + l.name +
                         "' cannot be brought in order; load the adapter with its model's configuration",
                     ErrorCode::invalid_argument);
    const std::size_t stated = fields_.find(key) == nullptr ? model_->head_dim : fields_.size(key);
    if (model_ != nullptr && stated != model_->head_dim)
      fields_.refuse(
          key, "is " + std::to_string(stated) + ", and the model's heads have " + std::to_string(model_->head_dim),
          ErrorCode::shape_mismatch);
    if (stated == 0 || stated % 2 != 0 || l.out % stated != 0)
      fields_.refuse(key, "is " + std::to_string(stated) + ", and '" + l.name + "' has " + std::to_string(l.out) +
                              " outputs, which are no whole number of heads of such an even size");
    return stated;
  }

  GgufFile file_;
  std::string name_;
  format::GgufFields fields_;
  const Config* model_;
};

BlockType block_type(DType type) {
  return type == DType::f16 ? BlockType::f16 : type == DType::bf16 ? BlockType::bf16 : BlockType::f32;
}

}  // namespace

Adapter read_gguf_adapter(const fs::path& file, const Config* model) { return GgufAdapterReader(file, model).read(); }

void Adapter::save_gguf(const fs::path& file, const Config& config, DType type) const {
  validate(*this, type);
  check(config);
  if (const AdapterLayer& first = layers.front(); !first.magnitude.empty())
    throw Error(ErrorCode::unsupported, "the adapter's layer '" + first.name +
                                            "' has a magnitude (DoRA), which a GGUF adapter has no room for; merge the "
                                            "adapter into the model instead");
  const Architecture& architecture = config.architecture();
  const std::string arch(architecture.gguf_architecture);
  GgufMetadata metadata{{"general.architecture", arch},
                        {"general.type", std::string("adapter")},
                        {"adapter.type", std::string("lora")},
                        {"adapter.lora.alpha", common_alpha(*this)},
                        {arch + ".attention.key_length", static_cast<std::uint32_t>(config.head_dim)}};
  if (!base_model.empty()) {
    metadata["general.base_model.count"] = std::uint32_t{1};
    metadata["general.base_model.0.name"] = base_model;
  }
  std::vector<GgufTensor> declared;
  for (const AdapterLayer& l : layers) {
    const std::string name = architecture.gguf_name(l.name + std::string(kWeight));
    declared.push_back({name + ".lora_a", block_type(type), {l.rank, l.in}, 0, 0});
    declared.push_back({name + ".lora_b", block_type(type), {l.out, l.rank}, 0, 0});
  }
  files::check_output({file, files::OutputKind::file, "the adapter"}, {});
  GgufWriter writer(file, metadata, declared);
  const auto write = [&](const GgufTensor& t, const std::vector<float>& values) {
    const Buffer bytes = typed_buffer(type, values, t.name, t.shape.back());
    writer.write(t.name, {bytes.data(), bytes.size()});
  };
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const AdapterLayer& l = layers[i];
    write(declared[2 * i], l.a);
    const bool other = architecture.is_interleaved(l.name + std::string(kWeight));
    write(declared[2 * i + 1], other ? reordered(l.b, l.rank, config.head_dim, true) : l.b);
  }
  writer.finish();
}

}  // namespace nibble::inline NIBBLE_ABI::model
