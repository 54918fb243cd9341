#include "gguf_plan.h"

#include <algorithm>
#include <limits>

#include "gguf_chat_template.h"
#include "gguf_metadata.h"
#include "gguf_weights.h"
#include "importance_use.h"
#include "nibble/core/error.h"
#include "stored_weights.h"
#include "text/gguf_tokenizer.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

/// What llama.cpp takes instead where rows are no whole super-blocks; where they are no whole blocks, F16.
BlockType smaller_blocks(BlockType type) {
  switch (type) {
    case BlockType::q2_k:
    case BlockType::q3_k: return BlockType::q4_0;
    case BlockType::q4_k: return BlockType::q5_0;
    case BlockType::q5_k: return BlockType::q5_1;
    case BlockType::q6_k: return BlockType::q8_0;
    case BlockType::iq4_xs: return BlockType::iq4_nl;
    default: return BlockType::f16;
  }
}
BlockType fallback(BlockType type, std::size_t cols) {
  while (cols % block_size(type) != 0) type = smaller_blocks(type);
  return type;
}

}  // namespace

GgufPlan::GgufPlan(const fs::path& from, const ExportGgufOptions& options)
    : from_(from),
      options_(options),
      config_(Config::load(from)),
      architecture_(config_.architecture()),
      in_(Checkpoint::open(from)) {
  if (options.mix == nullptr && !can_encode(options.type))
    throw Error(ErrorCode::unsupported,
                "a GGUF file of " + std::string(name_of(options.type)) + " can be read, not written");
  if (options.importance != nullptr && options.mix == nullptr && options.plan == nullptr && is_float(options.type))
    throw Error(ErrorCode::invalid_argument, "an importance matrix weighs the errors of codes, and " +
                                                 std::string(name_of(options.type)) +
                                                 " has none: choose a type like q4_k, or leave it out");
  check_stored_weights(in_, config_, from.string());
  check_carried();
  std::error_code gone;  // the working directory, say: then the name is what it is
  const fs::path whole = fs::absolute(from, gone), named = (gone ? from : whole).lexically_normal();
  metadata_ =
      model_metadata(config_, (named.has_filename() ? named : named.parent_path()).filename().string(), options.type);
  if (options.mix != nullptr) metadata_["general.file_type"] = options.mix->file_type;
  metadata_.merge(text::tokenizer_metadata(from, {config_.vocab, config_.bos, config_.eos}));
  metadata_.merge(chat_templates(from, report_.notes));
  declare();
  check_plan();
  check_importance();
  report_.bits_per_weight = bits_ / weights_;
}

void GgufPlan::add(const std::string& name, Kind kind, BlockType type, std::vector<std::size_t> shape) {
  const std::string theirs = kind == Kind::factors ? name : architecture_.gguf_name(name);
  if (options_.plan != nullptr && (kind == Kind::matrix || kind == Kind::stack))
    if (const auto it = options_.plan->types.find(theirs); it != options_.plan->types.end()) type = it->second;
  const BlockType chosen = fallback(type, shape.back());
  entries_.push_back({name, kind});
  std::string why;
  if (chosen != type)
    why = "their rows of " + std::to_string(shape.back()) + " are no multiple of " + std::to_string(block_size(type)) +
          ", as " + std::string(name_of(type)) + " needs";
  declared_.push_back({theirs, chosen, std::move(shape), 0, 0});
  count(declared_.back(), std::move(why));
}

void GgufPlan::add_weight(const EndModule& end, Kind kind, BlockType type, std::vector<std::size_t> shape) {
  add(std::string(end.name) + ".weight", kind, type, std::move(shape));
}

void GgufPlan::count(const GgufTensor& t, std::string why) {
  std::size_t bytes = block_bytes(t.type);
  for (const std::size_t d : t.shape) bytes *= d;
  auto& types = report_.types;
  auto share = std::find_if(types.begin(), types.end(),
                            [&](const GgufTypeShare& s) { return s.type == t.type && s.why == why; });
  if (share == types.end()) share = types.insert(types.end(), {t.type, 0, 0, std::move(why)});
  ++share->tensors;
  share->bytes += bytes / block_size(t.type);
}

BlockType GgufPlan::wanted(std::size_t block, const Module& m) const {
  if (options_.mix == nullptr) return options_.type;
  return options_.mix->type_of({.role = m.role,
                                .block = block,
                                .blocks = config_.layers,
                                .queries_per_key = config_.heads / config_.kv_heads,
                                .experts = config_.experts,
                                .has_importance = options_.importance != nullptr});
}

void GgufPlan::add_linear(const std::string& name, BlockType type, std::size_t out, std::size_t in) {
  add(name + ".weight", Kind::matrix, type, {out, in});
  count_weights(out, in);
  if (in_.contains(name + ".bias")) add(name + ".bias", Kind::vector, BlockType::f32, {out});
}

void GgufPlan::add_stack(std::size_t block, const Module& m, BlockType type, std::size_t out, std::size_t in) {
  add(architecture_.name(block, m) + ".weight", Kind::stack, type, {config_.experts, out, in});
  for (std::size_t e = 0; e < config_.experts; ++e) {
    entries_.back().parts.push_back(architecture_.name(block, m, e) + ".weight");
    count_weights(out, in);
  }
}

void GgufPlan::count_weights(std::size_t out, std::size_t in) {
  const BlockType type = declared_.back().type;
  const double count = static_cast<double>(out) * static_cast<double>(in);
  bits_ += 8.0 * static_cast<double>(block_bytes(type)) / static_cast<double>(block_size(type)) * count;
  weights_ += count;
}

/// llama.cpp knows the scale of scores by the architecture, and takes caps for granted.
void GgufPlan::check_scores() const {
  const Config& c = config_;
  const std::size_t by = c.layers == architecture_.gguf_layers_by_hidden ? c.hidden / c.heads : c.head_dim;
  if (architecture_.query_pre_attn_scalar != 0 && c.query_pre_attn_scalar != static_cast<double>(by))
    throw Error(ErrorCode::unsupported, "\"query_pre_attn_scalar\" is " + std::to_string(c.query_pre_attn_scalar) +
                                            ", which GGUF has no place for: llama.cpp takes " + std::to_string(by));
  if (architecture_.attention_cap.value_or(0) != 0 && (c.attention_cap == 0 || c.logit_cap == 0))
    throw Error(ErrorCode::unsupported, "scores or logits are not capped, which llama.cpp always does in a " +
                                            std::string(architecture_.gguf_architecture) + " model");
}

/// What GGUF has no place for, or what llama.cpp does not read in this architecture, would come back as another
/// model.
void GgufPlan::check_carried() {
  const Config& c = config_;
  check_scores();
  if (!c.normalizes_experts)
    throw Error(ErrorCode::unsupported,
                "\"norm_topk_prob\" is false, and llama.cpp weights a token's experts by "
                "their shares of what the router gives these in every " +
                    std::string(architecture_.gguf_architecture) + " model");
  const bool pattern = architecture_.windows == Windows::pattern;
  if (pattern ? !c.windows_repeat(architecture_.window_pattern) : c.windows_differ() && c.sliding_window < c.context)
    throw Error(ErrorCode::unsupported, "some layers have a sliding window of " + std::to_string(c.sliding_window) +
                                            " tokens and others none, which GGUF cannot say of this architecture");
  if (!architecture_.gguf_rope_factors && !rope_factors(c).empty())
    throw Error(ErrorCode::unsupported,
                "rotary embeddings are scaled as in Llama 3, which llama.cpp does not read in a " +
                    std::string(architecture_.gguf_architecture) + " model");
  if (c.window_rope_theta != 0 && c.window_rope_theta != 10000)
    note("llama.cpp turns the heads of layers with a window by the base 10000 unless it is a version that reads " +
         std::string(architecture_.gguf_architecture) + ".rope.freq_base_swa");
  report_.notes.insert(report_.notes.end(), c.notes.begin(), c.notes.end());
}

void GgufPlan::declare() {
  const Config& c = config_;
  const BlockType plain = is_float(options_.type) ? options_.type : BlockType::q8_0;
  const BlockType head = options_.mix == nullptr ? plain : options_.mix->head_type(c.hidden);
  const BlockType embedding = options_.mix == nullptr || c.tied_embeddings ? head : options_.mix->base;
  add_weight(architecture_.embedding, Kind::matrix, embedding, {c.vocab, c.hidden});
  if (const auto factors = rope_factors(c); !factors.empty())
    add("rope_freqs.weight", Kind::factors, BlockType::f32, {factors.size()});
  for (std::size_t i = 0; i < c.layers; ++i)
    for (const Module& m : architecture_.block) {
      const std::string name = architecture_.name(i, m);
      const std::size_t out = c.elements(m.out), in = c.elements(m.in);
      if (m.is_expert()) add_stack(i, m, wanted(i, m), out, in);
      else if (m.is_linear()) add_linear(name, wanted(i, m), out, in);
      else if (m.is_norm()) add(name + ".weight", Kind::vector, BlockType::f32, {out});
      else add(name + ".weight", Kind::vector, BlockType::f32, {out, in});
    }
  add_weight(architecture_.final_norm, Kind::vector, BlockType::f32, {c.hidden});
  if (!c.tied_embeddings) add_weight(architecture_.head, Kind::matrix, head, {c.vocab, c.hidden});
  if (states_window(c) && architecture_.windows != Windows::pattern)
    note("llama.cpp knows no sliding window in this architecture: beyond " + std::to_string(c.sliding_window) +
         " tokens it sees more than the model was made for");
  if (c.eos.size() > 1)
    note("of " + std::to_string(c.eos.size()) + " tokens that end a text GGUF holds one, " +
         std::to_string(c.eos.front()));
}

void GgufPlan::check_plan() const {
  if (options_.plan == nullptr) return;
  for (const auto& [name, type] : options_.plan->types) {
    const auto found = std::ranges::find(declared_, name, &GgufTensor::name);
    const auto at = static_cast<std::size_t>(found - declared_.begin());
    if (found == declared_.end() || (entries_[at].kind != Kind::matrix && entries_[at].kind != Kind::stack))
      throw Error(ErrorCode::invalid_argument,
                  "the plan gives '" + name + "' a type, and the model has no such matrix: it is another model's");
  }
}

std::optional<BlockType> GgufPlan::type_of(const std::string& layer) const {
  const std::string name = layer + ".weight";
  for (std::size_t i = 0; i < entries_.size(); ++i)
    if (entries_[i].name == name || std::ranges::find(entries_[i].parts, name) != entries_[i].parts.end())
      return declared_[i].type;
  return std::nullopt;
}

/// Before anything is written. The metadata are llama.cpp's.
void GgufPlan::check_importance() {
  const ImportanceMatrix* importance = options_.importance;
  if (importance == nullptr) return;
  std::size_t known = 0, all = 0;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (is_float(declared_[i].type) || !declared_[i].name.starts_with(architecture_.gguf_block_prefix)) continue;
    ++all;
    known += importance_of(entries_[i].name, declared_[i], 0).empty() ? 0 : 1;
  }
  if (std::string text = importance_note(*importance, known, all); !text.empty()) note(std::move(text));
  const auto count = [](std::size_t n) {
    return static_cast<std::int32_t>(std::min<std::size_t>(n, std::numeric_limits<std::int32_t>::max()));
  };
  if (!options_.importance_name.empty()) metadata_["quantize.imatrix.file"] = options_.importance_name;
  if (!importance->datasets.empty()) metadata_["quantize.imatrix.dataset"] = importance->datasets.front();
  metadata_["quantize.imatrix.entries_count"] = count(importance->entries().size());
  metadata_["quantize.imatrix.chunks_count"] = count(importance->chunk_count);
}

std::vector<float> GgufPlan::importance_of(const std::string& name, const GgufTensor& t, std::size_t expert) const {
  if (options_.importance == nullptr || is_float(t.type)) return {};
  const ImportanceMatrix::Entry* entry = options_.importance->find(t.name);
  if (name == std::string(architecture_.embedding.name) + ".weight" && entry != nullptr &&
      entry->columns != t.shape.back())
    return {};
  return options_.importance->mean_squares(t.name, t.shape.back(), expert, t.shape.size() == 3 ? t.shape[0] : 1);
}

}  // namespace nibble::inline NIBBLE_ABI::model
