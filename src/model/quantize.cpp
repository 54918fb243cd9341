#include "nibble/model/quantize.h"

#include <algorithm>
#include <iterator>

#include "core/typed_buffer.h"
#include "importance_use.h"
#include "layer_selection.h"
#include "nibble/quantize/quantize.h"
#include "rewrite.h"
#include "stored_weights.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

class Job {
 public:
  Job(const fs::path& from, const QuantizeModelOptions& options)
      : options_(options), out_(from, options.backend, options.executor) {
    LinearLayers found = checked(from);
    if (options.spec) choose(found);
    if (options.spec) note(out_.choose_layout(*options.spec, chosen_));
    check_importance();
    for (const TensorInfo& t : out_.in.tensors()) declare(t);
  }

  QuantizeModelReport write(const fs::path& path) {
    report_.file_bytes = out_.write(path, options_.progress,
                                    [&](const TensorInfo& t, SafetensorsWriter& writer) { write_tensor(t, writer); });
    if (weights_ > 0) report_.bits_per_weight = bits_ / weights_;
    return report_;
  }

  /// config.json with the new quantization, or with the new type of the weights.
  std::string config(const fs::path& from) const {
    if (!options_.spec) return config_with_dtype(from, *options_.convert_to);
    return config_with_quantization(from, out_.quantization(skipped_));
  }

 private:
  void note(std::string text) {
    if (!text.empty()) report_.notes.push_back(std::move(text));
  }

  /// The linear layers, if the input is what its configuration says and the options ask for: before anything is made of
  /// its sizes.
  LinearLayers checked(const fs::path& from) const {
    if (!options_.spec && !options_.convert_to)
      throw Error(ErrorCode::invalid_argument, "quantize_model: neither a spec nor a type to convert to");
    if (options_.spec) options_.spec->validate();
    LinearLayers found = find_linear_layers(out_.in, out_.outline, from.string());
    if (!options_.spec) return found;
    refuse_quantized(found.quantized, from.string());
    require_linear_layers(found, out_.outline, from.string());
    if (options_.lm_head && out_.outline.tied_embeddings)
      throw Error(ErrorCode::invalid_argument, "lm_head is tied to the embedding, which stays in floating point");
    if (options_.lm_head && found.heads.empty())
      throw Error(ErrorCode::not_found,
                  "'" + from.string() + "' has no head to quantize: no matrix named lm_head, say");
    return found;
  }

  /// Those of the linear layers that the options leave are quantized; the others are named to the reader.
  void choose(LinearLayers& found) {
    if (found.by_rule) report_.notes.push_back(found.summary(out_.outline));
    std::vector<std::string> names, heads{"lm_head"};  // a tied one, too, which the file does not name
    for (const LinearTensor& head : found.heads) heads.push_back(head.layer);
    if (options_.lm_head) std::move(found.heads.begin(), found.heads.end(), std::back_inserter(found.linears));
    for (const LinearTensor& l : found.linears) names.push_back(l.layer);
    const LayerSelection selection(options_.skip, options_.only, names, heads);
    for (LinearTensor& l : found.linears) {
      if (selection.contains(l.layer)) chosen_.emplace(l.tensor, std::move(l));
      else skipped_.push_back(l.layer);
    }
    if (chosen_.empty())
      throw Error(ErrorCode::invalid_argument, "the patterns skip every layer; nothing is left to do");
    for (std::string& layer : options_.lm_head ? found.left_layers() : found.left_layers_and_heads())
      skipped_.push_back(std::move(layer));
  }

  /// What is quantized of this tensor; null for what stays.
  const LinearTensor* chosen(const TensorInfo& t) const {
    const auto it = chosen_.find(t.name);
    return it == chosen_.end() ? nullptr : &it->second;
  }

  /// Converting a quantized model decodes it: its layers become ordinary weights again.
  void declare_converted(const TensorInfo& t) {
    if (const std::string layer = out_.quantized_layer(t); !layer.empty()) {
      if (!decoded_.emplace(layer, t.name).second) return;  // another of its tensors stands for it
      const auto q = decode_quantized(out_.in, layer);
      out_.declare(layer + ".weight", *options_.convert_to, {q->rows, q->cols});
    } else {
      out_.declare(t.name, is_float(t.type) ? *options_.convert_to : t.type, t.shape);
    }
  }

  void write_decoded(const std::string& layer, SafetensorsWriter& writer) {
    const auto q = decode_quantized(out_.in, layer);
    Rewrite::put(writer, layer + ".weight",
                 typed_buffer(*options_.convert_to, out_.decoded(*q), layer + ".weight", q->cols));
  }

  void declare(const TensorInfo& t) {
    if (options_.convert_to && !options_.spec) return declare_converted(t);
    if (const LinearTensor* linear = chosen(t)) return out_.declare_quantized(*linear, t.type);
    out_.declare(t.name, options_.convert_to && is_float(t.type) ? *options_.convert_to : t.type, t.shape);
  }

  /// What the caller gives for a layer that is m in the file.
  QuantizedMatrix given(const std::string& layer, const FloatMatrix& m) const {
    return checked(options_.matrix(layer), layer, m);
  }
  /// q, if it is what can be written for m.
  QuantizedMatrix checked(QuantizedMatrix q, const std::string& layer, const FloatMatrix& m) const {
    q.validate(layer);
    if (q.rows != m.rows || q.cols != m.cols || q.spec != *options_.spec || !q.g_idx.empty())
      throw Error(ErrorCode::shape_mismatch,
                  "layer '" + layer + "' was given as " + std::to_string(q.rows) + " × " + std::to_string(q.cols) +
                      " of " + q.spec.to_string() + ", and is to be " + std::to_string(m.rows) + " × " +
                      std::to_string(m.cols) + " of " + options_.spec->to_string() + ", its groups in place");
    return q;
  }

  QuantizedMatrix rounded(const FloatMatrix& m, const std::string& name, const std::vector<float>& importance) {
    if (options_.solver) return checked(options_.solver(m, name, importance), name, m);
    QuantizeOptions o{.name = name, .backend = &out_.backend(), .executor = &out_.executor()};
    o.importance = importance;
    return nibble::quantize(m, *options_.spec, o);
  }

  /// Empty where there is none.
  [[nodiscard]] std::vector<float> importance_of(const std::string& layer, std::size_t cols) const {
    if (options_.importance == nullptr) return {};
    const std::string own = layer + ".weight";
    const std::optional<Config>& config = out_.outline.config;
    if (!config || options_.importance->find(own) != nullptr) return options_.importance->mean_squares(own, cols);
    const Architecture& a = config->architecture();
    const auto expert = a.expert_of(own);
    return options_.importance->mean_squares(a.gguf_name(own), cols, expert.value_or(0), expert ? config->experts : 1);
  }

  /// Before anything is written.
  void check_importance() {
    if (options_.importance == nullptr) return;
    std::size_t known = 0, all = 0;
    for (const auto& [tensor, linear] : chosen_)
      for (const std::string& layer : linear.layers()) {
        ++all;
        known += importance_of(layer, out_.in.info(tensor).shape.back()).empty() ? 0 : 1;
      }
    note(importance_note(*options_.importance, known, all));
  }

  void write_quantized(const TensorInfo& t, const LinearTensor& linear, SafetensorsWriter& writer) {
    out_.each_matrix(linear, [&](const std::string& layer, const FloatMatrix& m) {
      const QuantizedMatrix q = options_.matrix ? given(layer, m) : rounded(m, t.name, importance_of(layer, m.cols));
      Rewrite::put(writer, out_.encoded(layer, q, t.type));
      const auto count = static_cast<double>(q.rows) * static_cast<double>(q.cols);
      bits_ += q.spec.bits_per_weight(q.rows, q.cols) * count;
      weights_ += count;
      ++report_.layers;
    });
  }

  void write_tensor(const TensorInfo& t, SafetensorsWriter& writer) {
    if (const LinearTensor* linear = chosen(t)) return write_quantized(t, *linear, writer);
    if (options_.convert_to && !options_.spec)
      if (const std::string layer = out_.quantized_layer(t); !layer.empty()) {
        if (decoded_.at(layer) == t.name) write_decoded(layer, writer);
        return;
      }
    const bool converts = options_.convert_to && is_float(t.type) && t.type != *options_.convert_to;
    if (!converts) return out_.copy(t, writer);
    const std::size_t columns = t.shape.empty() ? 1 : std::max<std::size_t>(1, t.shape.back());
    Rewrite::put(writer, t.name, typed_buffer(*options_.convert_to, out_.in.read_f32(t.name), t.name, columns));
  }

  const QuantizeModelOptions& options_;
  Rewrite out_;
  std::map<std::string, LinearTensor> chosen_;  ///< By tensor.
  std::vector<std::string> skipped_;            ///< Linear layers that stay in floating point.
  std::map<std::string, std::string> decoded_;  ///< Layer to the tensor at whose turn it is written.
  QuantizeModelReport report_;
  double bits_ = 0, weights_ = 0;
};

}  // namespace

QuantizeModelReport quantize_model(const fs::path& from, const fs::path& to, const QuantizeModelOptions& options) {
  files::check_output({to, files::OutputKind::new_folder}, {from});
  Job job(from, options);  // whatever is wrong with the input, before anything is written
  PendingDirectory out(to);
  QuantizeModelReport result = job.write(out.path() / "model.safetensors");
  files::write_file(out.path() / "config.json", job.config(from));
  add_side_files(from, out.path(), result);
  if (std::string note = requantization_note(from); options.spec && !note.empty())
    result.notes.push_back(std::move(note));
  out.commit();
  return result;
}

}  // namespace nibble::inline NIBBLE_ABI::model
