#include "gguf_weights.h"

#include <unistd.h>

#include <cstring>
#include <map>
#include <set>

#include "core/files.h"
#include "format/gguf_fields.h"
#include "known_keys.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

void read_rotary_dim(const format::GgufFields& f, const std::string& arch, Config& c) {
  const std::string key = arch + ".rope.dimension_count";
  const std::size_t turned = f.size(key, c.head_dim);
  const std::string stated = "is " + std::to_string(turned), all = std::to_string(c.head_dim) + " values of a head";
  if (c.architecture().partial_rotary_factor == 0) {
    if (turned != c.head_dim)
      f.refuse(key, stated + "; this engine rotates all " + all + " in this architecture", ErrorCode::unsupported);
    return;
  }
  if (turned > c.head_dim || turned % 2 != 0)
    f.refuse(key, stated + "; of the " + all + " an even number can be turned");
  c.rotary_dim = turned;
}

void read_rope(const GgufFile& file, const format::GgufFields& f, const std::string& arch, Config& c) {
  const Architecture& architecture = c.architecture();
  c.rope_theta = f.positive(arch + ".rope.freq_base", 10000.0);
  if (architecture.window_rope_theta != 0)
    c.window_rope_theta = f.positive(arch + ".rope.freq_base_swa", architecture.window_rope_theta);
  read_rotary_dim(f, arch, c);
  // As llama.cpp takes it: the older key counts where there is no other, and a factor without a type is linear.
  const double factor = f.positive(arch + ".rope.scaling.factor", f.positive(arch + ".rope.scale_linear", 1.0));
  const std::string kind = f.text(arch + ".rope.scaling.type", factor == 1 ? "none" : "linear");
  RopeScaling s;
  for (const char* by_length : {"rope_factors_long.weight", "rope_factors_short.weight"})
    if (file.contains(by_length))
      throw Error(ErrorCode::unsupported, "tensor '" + std::string(by_length) +
                                              "' scales rotary embeddings by the length of the text (longrope), which "
                                              "this engine does not");
  if (file.contains("rope_freqs.weight")) {
    if (kind != "none" && factor != 1)
      f.refuse(arch + ".rope.scaling.type", "is '" + kind + "' beside the factors of 'rope_freqs.weight'",
               ErrorCode::unsupported);
    if (!architecture.gguf_rope_factors)
      throw Error(ErrorCode::unsupported, "tensor 'rope_freqs.weight' counts for nothing in the architecture " + arch);
    s.kind = RopeScaling::Kind::factors;
    s.factors = file.read_f32("rope_freqs.weight");
    bool good = s.factors.size() == c.turned_dim() / 2;
    for (const float factor : s.factors) good = good && factor > 0;
    if (!good)
      throw Error(ErrorCode::corrupt_file, "tensor 'rope_freqs.weight' must hold " +
                                               std::to_string(c.turned_dim() / 2) + " positive factors, half a head's");
    c.rope_scaling = s;
  } else if (kind == "linear") {
    s.factor = factor;
    c.rope_scaling = s;
  } else if (kind != "none") {
    f.refuse(arch + ".rope.scaling.type", "is '" + kind + "'; none and linear are known", ErrorCode::unsupported);
  }
}

std::optional<std::int32_t> read_token(const format::GgufFields& f, const std::string& key) {
  const auto id = f.number(key);
  if (!id) return std::nullopt;
  if (*id > 0x7fffffff) f.refuse(key, "is " + std::to_string(*id) + ", which is no token");
  return static_cast<std::int32_t>(*id);
}

/// Nothing for a key that is not there.
std::optional<PlainValue> plain(const GgufValue* value) {
  if (value == nullptr) return std::nullopt;
  return std::visit(
      [](const auto& v) -> PlainValue {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, std::string>) return v;
        else if constexpr (std::is_arithmetic_v<T>) return static_cast<double>(v);
        else return v.size() == 0 ? PlainValue(false) : PlainValue(std::string("an array"));
      },
      *value);
}

/// Sizes against the tensors that there are, before anything of such a size is allocated.
void check_sizes(const GgufFile& file, const format::GgufFields& f, const std::string& arch, const Config& c) {
  const Architecture& a = c.architecture();
  const auto weight = [&](std::size_t block, const Module& m) { return a.gguf_name(a.name(block, m) + ".weight"); };
  const Module& query = a.query_module();
  const std::string last = weight(c.layers - 1, a.module(Role::attention_norm)), q = weight(0, query);
  if (!file.contains(last))
    f.refuse(arch + ".block_count", "is " + std::to_string(c.layers) + ", and there is no tensor '" + last + "'",
             ErrorCode::not_found);
  const std::size_t rows = file.info(q).shape.front();
  const std::size_t heads = query.role == Role::query ? c.heads : c.heads + 2 * c.kv_heads;
  if (c.head_dim != rows / heads || rows % heads != 0)
    f.refuse(arch + ".attention.key_length", "is " + std::to_string(c.head_dim) + " for " + std::to_string(c.heads) +
                                                 " heads, and tensor '" + q + "' has " + std::to_string(rows) +
                                                 " rows");
}

/// Of a mixture of experts, whose weights llama.cpp normalizes in every architecture that is known here.
void read_experts(const GgufFile& file, const format::GgufFields& f, const std::string& arch, Config& c) {
  const Architecture& a = c.architecture();
  if (!a.has_experts()) return;
  const std::string count = arch + ".expert_count", used = arch + ".expert_used_count";
  c.experts = f.size(count);
  c.experts_per_token = f.size(used);
  if (c.experts_per_token > c.experts)
    f.refuse(used, "is " + std::to_string(c.experts_per_token) + ", of " + std::to_string(c.experts) + " experts");
  if (a.expert_intermediate != 0) c.expert_intermediate = f.size(arch + ".expert_feed_forward_length");
  for (const GgufTensor& t : file.tensors())
    if (t.shape.size() == 3 && (t.shape[0] != c.experts || t.bytes == 0))
      f.refuse(count, "is " + std::to_string(c.experts) + ", and tensor '" + t.name + "' is a stack of " +
                          std::to_string(t.shape[0]));
}

/// Windows, scales and caps, which llama.cpp knows by the architecture where the file says nothing.
void read_scores(const format::GgufFields& f, const std::string& arch, Config& c) {
  const Architecture& a = c.architecture();
  const std::string window = arch + ".attention.sliding_window", pattern = window + "_pattern";
  if (f.number(window).value_or(0) > 0) c.sliding_window = f.size(window);
  if (a.windows == Windows::pattern) {
    c.sliding_window = f.size(window);  // where it is missing some versions of llama.cpp take none, some a size
    const std::size_t every = f.size(pattern, a.window_pattern);
    for (std::size_t i = 0; i < c.layers; ++i) c.full_attention.push_back((i + 1) % every == 0);
  }
  if (a.query_pre_attn_scalar != 0)
    c.query_pre_attn_scalar =
        static_cast<double>(c.layers == a.gguf_layers_by_hidden ? c.hidden / c.heads : c.head_dim);
  const auto cap = [&](const char* key, std::optional<double> otherwise) {
    const std::string name = arch + "." + key;
    return !otherwise || (*otherwise == 0 && f.find(name) == nullptr) ? 0 : f.positive(name, *otherwise);
  };
  c.attention_cap = cap("attn_logit_softcapping", a.attention_cap);
  c.logit_cap = cap("final_logit_softcapping", a.logit_cap);
}

/// The architectures of GGUF files, each once.
std::string known_names() {
  std::string out;
  std::set<std::string_view> seen;
  for (const Architecture* a : architectures())
    if (seen.insert(a->gguf_architecture).second) out += (out.empty() ? "" : ", ") + std::string(a->gguf_architecture);
  return out;
}

/// Which of those that share a name it is shows by whether there are experts.
const Architecture& architecture_of(const format::GgufFields& f, const std::string& arch) {
  const std::string count = arch + ".expert_count";
  const bool experts = f.number(count).value_or(0) > 0;
  if (const Architecture* found = find_gguf_architecture(arch, experts)) return *found;
  if (find_gguf_architecture(arch, !experts) == nullptr)
    f.refuse("general.architecture", "is '" + arch + "'; this engine knows " + known_names(), ErrorCode::unsupported);
  f.refuse(count,
           experts ? "says that this is a mixture of experts, which this engine does not know in this architecture"
                   : "names no experts, which every model of this architecture has",
           ErrorCode::unsupported);
}

Config read_config(const GgufFile& file, const std::string& name) {
  const format::GgufFields f(file.metadata(), name);
  Config c;
  if (f.text("general.type", "") == "imatrix")
    f.refuse("general.type", "says that this is an importance matrix; a model is needed", ErrorCode::unsupported);
  const std::string arch = f.text("general.architecture", "");
  const Architecture& architecture = architecture_of(f, arch);
  check_known_keys(
      KeyStyle::gguf, architecture, [&](std::string_view key) { return plain(f.find(arch + "." + std::string(key))); },
      [&](std::string_view key, const std::string& why) {
        f.refuse(arch + "." + std::string(key), why, ErrorCode::unsupported);
      });
  c.model_type = architecture.model_type;
  c.layers = f.size(arch + ".block_count");
  c.hidden = f.size(arch + ".embedding_length");
  c.intermediate = f.size(arch + ".feed_forward_length");
  c.heads = f.size(arch + ".attention.head_count");
  c.kv_heads = f.size(arch + ".attention.head_count_kv", c.heads);
  if (c.heads % c.kv_heads != 0) f.refuse(arch + ".attention.head_count_kv", "must divide the number of heads");
  const std::string key_length = arch + ".attention.key_length";
  if (f.find(key_length) == nullptr && c.hidden % c.heads != 0)
    f.refuse(arch + ".attention.head_count", "must divide embedding_length");
  c.head_dim = f.size(key_length, c.hidden / c.heads);
  if (c.head_dim % 2 != 0) f.refuse(key_length, "must be even: rotary embeddings turn pairs");
  check_sizes(file, f, arch, c);
  read_experts(file, f, arch, c);
  if (f.size(arch + ".attention.value_length", c.head_dim) != c.head_dim)
    f.refuse(arch + ".attention.value_length", "is not the key's", ErrorCode::unsupported);
  c.context = f.size(arch + ".context_length");
  c.rms_eps = f.positive(arch + ".attention.layer_norm_rms_epsilon");
  read_scores(f, arch, c);
  const GgufTensor& embedding = file.info(std::string(architecture.embedding.gguf_name) + ".weight");
  c.vocab = embedding.shape.empty() ? 0 : embedding.shape.front();
  c.tied_embeddings = !file.contains(std::string(architecture.head.gguf_name) + ".weight");
  read_rope(file, f, arch, c);
  c.bos = read_token(f, "tokenizer.ggml.bos_token_id");
  if (const auto eos = read_token(f, "tokenizer.ggml.eos_token_id")) c.eos = {*eos};
  return c;
}

}  // namespace

GgufWeights::GgufWeights(const std::filesystem::path& path)
    : file_(path), config_(read_config(file_, path.string())), architecture_(config_.architecture()) {}

std::vector<std::string> GgufWeights::names() const {
  /// A module of a block, or one outside.
  struct Place {
    std::size_t block;
    const Module* module;
    std::string name;
  };
  std::map<std::string, Place> known;
  const auto add = [&](const Place& place) {
    for (const char* kind : {".weight", ".bias"})
      known.emplace(gguf_name(place.name + kind), Place{place.block, place.module, place.name + kind});
  };
  for (const EndModule& end : {architecture_.embedding, architecture_.final_norm, architecture_.head})
    add({0, nullptr, std::string(end.name)});
  for (std::size_t i = 0; i < config_.layers; ++i)
    for (const Module& m : architecture_.block) add({i, &m, architecture_.name(i, m)});
  std::vector<std::string> out;
  for (const GgufTensor& t : file_.tensors()) {
    if (t.name == "rope_freqs.weight" || t.name.ends_with(".attn_rot_embd.weight")) continue;  // in the configuration
    const auto it = known.find(t.name);
    if (it == known.end())
      throw Error(ErrorCode::unsupported, "tensor '" + t.name + "' has no place in a " + config_.model_type +
                                              " model of " + std::to_string(config_.layers) +
                                              " blocks as this library knows it");
    const auto& [block, module, name] = it->second;
    if (module == nullptr || !module->is_expert()) out.push_back(name);
    else
      for (std::size_t e = 0; e < config_.experts; ++e)
        out.push_back(architecture_.name(block, *module, e) + name.substr(name.rfind('.')));
  }
  return out;
}

GgufTensor GgufWeights::info(const std::string& name) const {
  GgufTensor t = file_.info(gguf_name(name));
  const auto expert = architecture_.expert_of(name);
  if (!expert) return t;
  if (t.shape.size() != 3 || *expert >= t.shape[0])
    throw Error(ErrorCode::shape_mismatch,
                "tensor '" + t.name + "' is no stack of " + std::to_string(config_.experts) + " experts' matrices");
  t.bytes /= t.shape[0];
  t.offset += *expert * t.bytes;
  t.shape.erase(t.shape.begin());
  return t;
}

std::vector<float> GgufWeights::read_f32(const std::string& name) const {
  std::vector<float> theirs = file_.read_f32(gguf_name(name));
  if (architecture_.norm_plus_one && architecture_.is_norm_weight(name))
    for (float& w : theirs) w -= 1;
  if (!architecture_.is_interleaved(name) || theirs.size() % config_.head_dim != 0) return theirs;
  std::vector<float> ours(theirs.size());
  for (std::size_t r = 0; r < ours.size(); ++r) ours[interleaved_row(r, config_.head_dim)] = theirs[r];
  return ours;
}

BlockMatrix GgufWeights::matrix(const std::string& name) const {
  if (architecture_.expert_of(name)) {
    const GgufTensor t = info(name);
    if (t.unread != nullptr) (void)file_.read_f32(t.name);  // says so
    const BlockMatrix part{t.type, t.shape[0], t.shape[1], file_.data(t)};
    part.validate(t.name);
    return is_float(t.type) ? part.aligned() : part;
  }
  BlockMatrix theirs = file_.matrix(gguf_name(name));
  // One of the wrong shape stays as it is: whoever asked looks at that.
  if (!architecture_.is_interleaved(name) || theirs.rows % config_.head_dim != 0)
    return is_float(theirs.type) ? theirs.aligned() : theirs;
  BlockMatrix ours = BlockMatrix::allocate(theirs.type, theirs.rows, theirs.cols);
  for (std::size_t r = 0; r < ours.rows; ++r)
    std::memcpy(ours.blocks.writable<std::byte>() + interleaved_row(r, config_.head_dim) * ours.row_bytes(),
                theirs.row(r), ours.row_bytes());
  return ours;
}

}  // namespace nibble::inline NIBBLE_ABI::model
