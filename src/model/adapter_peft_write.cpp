// A PEFT folder written. adapter_config.json has the keys that PEFT has had for years: an old one refuses to read what
// it does not know.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "adapter_files.h"
#include "adapter_patterns.h"
#include "core/pending.h"
#include "core/typed_buffer.h"
#include "nibble/core/error.h"
#include "nibble/format/safetensors.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Whole numbers as such: PEFT declares α an int.
Json number(double value) {
  if (std::fabs(value) < 1e15 && value == std::floor(value)) return static_cast<std::int64_t>(value);
  return value;
}

/// That which most layers have; of equally many the least.
template <class Get>
double most_frequent(const Adapter& adapter, const Get& get) {
  std::map<double, std::size_t> count;
  for (const AdapterLayer& l : adapter.layers) ++count[get(l)];
  return std::max_element(count.begin(), count.end(), [](const auto& x, const auto& y) { return x.second < y.second; })
      ->first;
}

/// The layers that have another value, by their names, which older versions of PEFT look up as they are. Longer names
/// come first: "lm_head" would hold for "model.lm_head", too. Then it is read as PEFT reads it, for a name may hold
/// letters that mean something in an expression, and so hold for other layers, or not for its own.
template <class Get>
Json pattern(const Adapter& adapter, const char* key, double usual, const Get& get) {
  std::vector<const AdapterLayer*> others;
  for (const AdapterLayer& l : adapter.layers)
    if (get(l) != usual) others.push_back(&l);
  std::stable_sort(others.begin(), others.end(),
                   [](const auto* x, const auto* y) { return x->name.size() > y->name.size(); });
  Json out = Json::object();
  for (const AdapterLayer* l : others) out[l->name] = number(get(*l));
  if (others.empty()) return out;
  const std::string place = std::string("\"") + key + "\" of the adapter";
  const AdapterPatterns read(out, place);
  std::size_t bytes = 0;
  for (const AdapterLayer& l : adapter.layers) bytes += l.name.size();
  read.check_work(adapter.layers.size(), bytes, place);
  for (const AdapterLayer& l : adapter.layers)
    if (read.find(l.name).value_or(usual) != get(l))
      throw Error(ErrorCode::unsupported, place + " cannot say that of the layer '" + l.name +
                                              "' alone: its name, or " +
                                              "another's, holds for more than one layer as an expression");
  return out;
}

/// "model.layers." "3" "self_attn.q_proj"; nothing for a layer outside of blocks.
struct InBlock {
  std::string_view prefix, index, rest;
};
std::optional<InBlock> in_block(std::string_view name) {
  for (std::size_t start = 0; start < name.size();) {
    const std::size_t end = std::min(name.size(), name.find('.', start));
    const std::string_view part = name.substr(start, end - start);
    if (end < name.size() && !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos)
      return InBlock{name.substr(0, start), part, name.substr(end + 1)};
    start = end + 1;
  }
  return std::nullopt;
}

/// The layers' last parts, as PEFT's users write them, if the same layers have an adapter in all blocks from the first
/// on: then that is what was meant. Otherwise each layer's whole name.
Json target_modules(const Adapter& adapter) {
  std::set<std::string> whole, last;
  std::map<std::string, std::set<std::string_view>> blocks;
  std::set<std::string_view> prefixes;
  bool regular = true;
  for (const AdapterLayer& l : adapter.layers) {
    whole.insert(l.name);
    const auto part = in_block(l.name);
    if (!part) {
      regular = false;
      continue;
    }
    last.insert(l.name.substr(l.name.rfind('.') + 1));
    prefixes.insert(part->prefix);
    blocks[std::string(part->index)].insert(part->rest);
  }
  regular = regular && prefixes.size() == 1;
  for (std::size_t i = 0; regular && i < blocks.size(); ++i) {
    const auto block = blocks.find(std::to_string(i));
    regular = block != blocks.end() && block->second == blocks.begin()->second;
  }
  return regular ? Json(last) : Json(whole);
}

Json config_json(const Adapter& adapter) {
  const auto rank = [](const AdapterLayer& l) { return static_cast<double>(l.rank); };
  const auto alpha = [](const AdapterLayer& l) { return l.alpha; };
  const double usual_rank = most_frequent(adapter, rank), usual_alpha = most_frequent(adapter, alpha);
  Json out;  // in alphabetical order, as PEFT's
  out["alpha_pattern"] = pattern(adapter, "alpha_pattern", usual_alpha, alpha);
  out["auto_mapping"] = nullptr;
  out["base_model_name_or_path"] = adapter.base_model.empty() ? Json() : Json(adapter.base_model);
  out["bias"] = "none";
  out["fan_in_fan_out"] = false;
  out["inference_mode"] = true;
  out["init_lora_weights"] = true;
  out["lora_alpha"] = number(usual_alpha);
  out["lora_dropout"] = adapter.dropout;
  out["modules_to_save"] = nullptr;
  out["peft_type"] = "LORA";
  out["r"] = number(usual_rank);
  out["rank_pattern"] = pattern(adapter, "rank_pattern", usual_rank, rank);
  out["target_modules"] = target_modules(adapter);
  out["task_type"] = "CAUSAL_LM";
  out["use_dora"] = !adapter.layers.front().magnitude.empty();
  out["use_rslora"] = adapter.layers.front().rslora;
  return out;
}

std::string readme(const Adapter& adapter) {
  std::string out = "---\n";  // the front matter is YAML, in which a text of JSON is a text
  if (!adapter.base_model.empty()) out += "base_model: " + Json(adapter.base_model).dump() + "\n";
  return out + "library_name: peft\n---\n\nA LoRA adapter of " + std::to_string(adapter.layers.size()) + " layers, " +
         std::to_string(adapter.parameters()) + " parameters.\n";
}

/// The tensors of a layer, declared and written.
template <class Visit>
void each_tensor_of(const AdapterLayer& l, const Visit& visit) {
  const std::string name = "base_model.model." + l.name;
  visit(name + ".lora_A.weight", l.a, std::vector<std::size_t>{l.rank, l.in});
  visit(name + ".lora_B.weight", l.b, std::vector<std::size_t>{l.out, l.rank});
  if (!l.magnitude.empty()) visit(name + ".lora_magnitude_vector", l.magnitude, std::vector<std::size_t>{l.out});
}

}  // namespace

void Adapter::write(const fs::path& folder, DType type) const {
  validate(*this, type);
  // Whatever can fail for what is in the adapter does so before the first file has its name.
  const std::string config = config_json(*this).dump(2) + "\n", card = readme(*this);
  std::vector<TensorInfo> declared;
  for (const AdapterLayer& l : layers)
    each_tensor_of(l, [&](const std::string& name, const auto&, std::vector<std::size_t> shape) {
      declared.push_back({name, type, std::move(shape), 0, 0});
    });
  SafetensorsWriter writer(folder / "adapter_model.safetensors", declared, {{"format", "pt"}});
  for (const AdapterLayer& l : layers)
    each_tensor_of(l, [&](const std::string& name, const std::vector<float>& values, const auto& shape) {
      const Buffer bytes = typed_buffer(type, values, name, shape.back());
      writer.write(name, {bytes.data(), bytes.size()});
    });
  writer.finish();
  files::write_file(folder / "README.md", card);
  files::write_file(folder / "adapter_config.json", config);
}

}  // namespace nibble::inline NIBBLE_ABI::model
