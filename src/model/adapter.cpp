#include "nibble/model/adapter.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "adapter_files.h"
#include "core/output_path.h"
#include "core/pending.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/memory.h"
#include "nibble/core/philox.h"
#include "nibble/core/visit_float.h"
#include "nibble/format/gguf.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

[[noreturn]] void invalid(const std::string& why) { throw Error(ErrorCode::invalid_argument, why); }

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string shown(const AdapterLayer& l) {
  return "the adapter's layer '" + l.name + "' (" + std::to_string(l.in) + " inputs, " + std::to_string(l.out) +
         " outputs, rank " + std::to_string(l.rank) + ")";
}

/// The names of a block's linear layers, for messages.
std::string linear_names(const Config& config) {
  std::string out;
  for (const Module& m : config.architecture().linears())
    if (!m.is_expert()) out += (out.empty() ? "" : ", ") + std::string(m.name);
  return out;
}

/// FNV-1a, of 64 bits: tells names apart, the same everywhere.
std::uint64_t hash(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return h;
}

/// Uniform in ±1/√in: the generator's counter is the place in A and the name's hash, its key the seed.
std::vector<float> initial_a(const std::string& name, std::size_t rank, std::size_t in, std::uint64_t seed) {
  const auto low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
  const auto high = [](std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); };
  const std::uint64_t layer = hash(name);
  const float bound = 1 / std::sqrt(static_cast<float>(in));
  std::vector<float> out(rank * in);
  std::array<std::uint32_t, 4> words{};
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t counter = i / 4;
    if (i % 4 == 0) words = philox({low(counter), high(counter), low(layer), high(layer)}, {low(seed), high(seed)});
    // The odd numbers of 24 bits and a sign are floats, and symmetric about 0; only the product rounds.
    const std::int32_t odd = static_cast<std::int32_t>(words[i % 4] >> 8) * 2 + 1 - (1 << 24);
    out[i] = static_cast<float>(odd) * 0x1p-24f * bound;
  }
  return out;
}

bool names_layer(std::string_view target, std::string_view layer) {
  return layer == target ||
         (layer.size() > target.size() && layer.ends_with(target) && layer[layer.size() - target.size() - 1] == '.');
}

void check_options(const AdapterOptions& o) {
  if (o.rank == 0 || o.rank > kMaxRank)
    invalid("an adapter's rank is " + std::to_string(o.rank) + "; 1 to " + std::to_string(kMaxRank) + " are allowed");
  if (!(o.alpha > 0 && o.alpha <= 1e9))
    invalid("an adapter's alpha is " + std::to_string(o.alpha) + "; it must be above 0, and at most 1e9");
  if (!(o.dropout >= 0 && o.dropout < 1))
    invalid("an adapter's dropout is " + std::to_string(o.dropout) + "; it must be from 0 up to 1, without 1");
}

}  // namespace

bool natural_less(std::string_view a, std::string_view b) {
  const std::string_view whole_a = a, whole_b = b;
  const auto take_number = [](std::string_view& text) {
    const std::size_t end = std::min(text.size(), text.find_first_not_of("0123456789"));
    std::string_view number = text.substr(0, end);
    text.remove_prefix(end);
    number.remove_prefix(std::min(number.size(), number.find_first_not_of('0')));
    return number;
  };
  while (!a.empty() && !b.empty()) {
    if (is_digit(a[0]) && is_digit(b[0])) {
      const std::string_view x = take_number(a), y = take_number(b);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
    } else {
      if (a[0] != b[0]) return a[0] < b[0];
      a.remove_prefix(1);
      b.remove_prefix(1);
    }
  }
  if (a.empty() != b.empty()) return a.empty();
  return whole_a < whole_b;  // they differ in leading zeros at most
}

std::optional<LinearShape> find_linear(const Config& config, std::string_view layer) {
  const Architecture& architecture = config.architecture();
  if (!layer.starts_with(architecture.block_prefix)) return std::nullopt;
  layer.remove_prefix(architecture.block_prefix.size());
  const std::size_t dot = layer.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view index = layer.substr(0, dot), name = layer.substr(dot + 1);
  std::size_t block = 0;
  const auto [end, error] = std::from_chars(index.data(), index.data() + index.size(), block);
  // "01" is no block, though it reads as one.
  if (error != std::errc() || block >= config.layers || std::to_string(block) != index) return std::nullopt;
  for (const Module& m : architecture.block)
    if (m.is_linear() && !m.is_expert() && m.name == name)
      return LinearShape{config.elements(m.out), config.elements(m.in)};
  return std::nullopt;
}

std::vector<AdapterLayer> layers_of(std::map<std::string, LoraHalves>& halves, const std::string& file) {
  const auto corrupt = [&](const std::string& why) { throw Error(ErrorCode::corrupt_file, "'" + file + "': " + why); };
  const auto shape = [](const LoraHalves::Matrix& m) {
    std::string out = "tensor '" + m.tensor + "' is [";
    for (std::size_t i = 0; i < m.shape.size(); ++i) out += (i == 0 ? "" : ", ") + std::to_string(m.shape[i]);
    return out + "]";
  };
  if (halves.empty()) corrupt("it holds no pair of LoRA matrices; is it an adapter that was saved whole?");
  std::vector<AdapterLayer> out;
  out.reserve(halves.size());
  for (auto& [name, h] : halves) {
    if (h.a.tensor.empty() || h.b.tensor.empty())
      corrupt("the layer '" + name + "' has " + (h.a.tensor.empty() ? "no A" : "no B") +
              ", one half of the pair; save the adapter again, whole");
    for (const auto* m : {&h.a, &h.b})
      if (m->shape.size() != 2 || m->shape[0] == 0 || m->shape[1] == 0)
        corrupt(shape(*m) + "; a matrix with elements is needed");
    if (h.a.shape[0] != h.b.shape[1])
      corrupt(shape(h.a) + ", " + shape(h.b) + ": the rank, A's first number and B's last, is not the same");
    if (h.a.shape[0] > kMaxRank) corrupt(shape(h.a) + "; ranks are read up to " + std::to_string(kMaxRank));
    if (!h.magnitude.tensor.empty() && (h.magnitude.shape.size() != 1 || h.magnitude.shape[0] != h.b.shape[0]))
      corrupt(shape(h.magnitude) + ", " + shape(h.b) + ": one magnitude for each row of B is needed");
    for (const auto* m : {&h.a, &h.b, &h.magnitude})
      for (std::size_t i = 0; i < m->values.size(); ++i)
        if (!std::isfinite(m->values[i]))
          corrupt(shape(*m) + ", and its element " + std::to_string(i) +
                  " is no finite number; the training diverged?");
    AdapterLayer& l = out.emplace_back();
    l.name = name;
    l.in = h.a.shape[1];
    l.out = h.b.shape[0];
    l.rank = h.a.shape[0];
    l.a = std::move(h.a.values);
    l.b = std::move(h.b.values);
    l.magnitude = std::move(h.magnitude.values);
  }
  std::sort(out.begin(), out.end(), [](const auto& x, const auto& y) { return natural_less(x.name, y.name); });
  return out;
}

void validate(const Adapter& adapter, DType type) {
  if (!is_matrix_type(type))
    invalid("an adapter of " + std::string(name_of(type)) + " cannot be written; F32, F16 and BF16 can");
  if (adapter.layers.empty()) invalid("the adapter has no layers; there is nothing to write");
  if (!(adapter.dropout >= 0 && adapter.dropout < 1))
    invalid("the adapter's dropout is " + std::to_string(adapter.dropout) + "; it must be from 0 up to 1, without 1");
  if (!is_utf8(adapter.base_model)) invalid("the name of the adapter's base model is no UTF-8");
  std::vector<std::string_view> names;
  const AdapterLayer& first = adapter.layers.front();
  for (const AdapterLayer& l : adapter.layers) {
    if (l.name.empty() || !is_utf8(l.name)) invalid("a layer of the adapter has the name '" + l.name + "'");
    if (l.rank == 0 || l.rank > kMaxRank || l.in == 0 || l.out == 0) invalid(shown(l) + " has an impossible size");
    const bool fits = l.a.size() / l.rank == l.in && l.a.size() % l.rank == 0 && l.b.size() / l.rank == l.out &&
                      l.b.size() % l.rank == 0 && (l.magnitude.empty() || l.magnitude.size() == l.out);
    if (!fits)
      throw Error(ErrorCode::shape_mismatch, shown(l) + " has " + std::to_string(l.a.size()) + " elements in A, " +
                                                 std::to_string(l.b.size()) + " in B and " +
                                                 std::to_string(l.magnitude.size()) + " magnitudes");
    if (!std::isfinite(l.alpha) || !std::isfinite(l.scale()))
      invalid(shown(l) + " has the alpha " + std::to_string(l.alpha));
    if (l.rslora != first.rslora)
      invalid("the adapter's layers '" + first.name + "' and '" + l.name +
              "' differ in rsLoRA, which a file states for all layers");
    if (l.magnitude.empty() != first.magnitude.empty())
      invalid("the adapter's layers '" + first.name + "' and '" + l.name +
              "' differ in having a magnitude (DoRA), which a file states for all layers");
    names.push_back(l.name);
  }
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
    invalid("the adapter has two layers '" + std::string(*twice) + "'");
}

float AdapterLayer::scale() const {
  const auto r = static_cast<double>(rank);
  return static_cast<float>(rslora ? alpha / std::sqrt(r) : alpha / r);
}

const AdapterLayer* Adapter::find(std::string_view layer) const {
  const auto it = std::find_if(layers.begin(), layers.end(), [&](const AdapterLayer& l) { return l.name == layer; });
  return it == layers.end() ? nullptr : &*it;
}

std::size_t Adapter::parameters() const {
  std::size_t out = 0;
  for (const AdapterLayer& l : layers) out += l.parameters();
  return out;
}

Adapter Adapter::make(const Config& config, const AdapterOptions& options) {
  check_options(options);
  const Architecture& architecture = config.architecture();
  std::vector<bool> found(options.target_modules.size());
  Adapter out;
  out.dropout = options.dropout;
  const auto wanted = [&](const std::string& name) {
    bool any = found.empty();
    for (std::size_t t = 0; t < found.size(); ++t)
      if (options.target_modules[t] == "all-linear" || names_layer(options.target_modules[t], name))
        found[t] = any = true;
    return any;
  };
  std::vector<std::pair<std::string, const Module*>> chosen;
  for (std::size_t i = 0; i < config.layers; ++i)
    for (const Module& m : architecture.block)
      if (m.is_linear() && !m.is_expert())
        if (const std::string name = architecture.name(i, m); wanted(name)) chosen.emplace_back(name, &m);
  for (std::size_t t = 0; t < found.size(); ++t)
    if (!found[t])
      invalid("no linear layer of the model's " + std::to_string(config.layers) + " blocks is named by the target '" +
              options.target_modules[t] + "'; in a block there are " + linear_names(config));
  for (const auto& layer : chosen) {
    const std::string& name = layer.first;
    const std::size_t outputs = config.elements(layer.second->out), inputs = config.elements(layer.second->in);
    needing_memory([&] { return "the adapter of '" + name + "'"; }, (outputs + inputs) * options.rank * sizeof(float),
                   [&] {
                     out.layers.push_back({name, inputs, outputs, options.rank, options.alpha, options.rslora,
                                           initial_a(name, options.rank, inputs, options.seed),
                                           std::vector<float>(outputs * options.rank),
                                           std::vector<float>(options.dora ? outputs : 0)});
                   });
  }
  std::sort(out.layers.begin(), out.layers.end(),
            [](const auto& x, const auto& y) { return natural_less(x.name, y.name); });
  return out;
}

Adapter Adapter::load(const fs::path& path, const Config* model) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status))
    throw Error(ErrorCode::not_found,
                "there is no adapter '" + path.string() + "'" + (error ? ": " + error.message() : std::string()));
  if (fs::is_directory(status)) return read_peft(path);
  if (is_gguf(path)) return read_gguf_adapter(path, model);
  throw Error(ErrorCode::unsupported,
              "'" + path.string() +
                  "' is neither a folder nor a GGUF file; an adapter of PEFT is the folder that holds "
                  "adapter_config.json");
}

void Adapter::check(const Config& config) const {
  for (const AdapterLayer& l : layers) {
    const auto shape = find_linear(config, l.name);
    if (!shape && config.architecture().expert_of(l.name + ".weight"))
      throw Error(ErrorCode::unsupported, shown(l) +
                                              " is of an expert, and adapters are of the layers here that all "
                                              "tokens go through: " +
                                              linear_names(config));
    if (!shape)
      throw Error(ErrorCode::not_found, shown(l) + " is no linear layer of a block of the model, which has " +
                                            std::to_string(config.layers) + " blocks and in each " +
                                            linear_names(config) + "; is it an adapter of another model?");
    if (shape->in != l.in || shape->out != l.out)
      throw Error(ErrorCode::shape_mismatch, shown(l) + " does not fit the model's, which has " +
                                                 std::to_string(shape->in) + " inputs and " +
                                                 std::to_string(shape->out) +
                                                 " outputs; is it an adapter of another "
                                                 "model?");
  }
}

void Adapter::save(const fs::path& folder, DType type) const {
  validate(*this, type);
  const fs::path to = files::without_slash(folder);
  files::check_output({to, files::OutputKind::new_folder, "the adapter"}, {});
  files::PendingDirectory pending(to);
  write(pending.path(), type);
  pending.commit();
}

}  // namespace nibble::inline NIBBLE_ABI::model
