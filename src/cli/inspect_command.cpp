#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <optional>
#include <set>

#include "commands.h"
#include "model/gguf_checkpoint.h"
#include "model/gguf_weights.h"
#include "nibble/core/error.h"
#include "nibble/format/checkpoint.h"
#include "nibble/quantize/quantize.h"
#include "table.h"

namespace nibble::cli {

namespace {

std::string shape_text(const std::vector<std::size_t>& shape) {
  std::string out;
  for (std::size_t d : shape) out += (out.empty() ? "" : " × ") + std::to_string(d);
  return out.empty() ? "scalar" : out;
}

/// ‖W − Q‖ / ‖W‖ over a layer; empty where W is 0 and Q is not.
std::string relative_error(const QuantizedMatrix& q, const std::string& layer, const Checkpoint& reference) {
  const std::string name = layer + ".weight";
  if (!reference.contains(name))
    throw Error(ErrorCode::not_found, "the reference has no tensor '" + name + "': is it another model, or quantized?");
  if (const auto& shape = reference.info(name).shape; shape != std::vector<std::size_t>{q.rows, q.cols})
    throw Error(ErrorCode::shape_mismatch, "tensor '" + name + "' is " + shape_text(shape) + " in the reference and " +
                                               shape_text({q.rows, q.cols}) + " here: the reference is another model");
  const std::vector<float> exact = reference.read_f32(name);
  std::vector<float> decoded(exact.size());
  dequantize(q, {decoded.data(), q.rows, q.cols}, {.name = name, .backend = chosen_backend()});
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double e = static_cast<double>(exact[i]) - static_cast<double>(decoded[i]);
    error += e * e;
    norm += static_cast<double>(exact[i]) * static_cast<double>(exact[i]);
  }
  if (!std::isfinite(error) || !std::isfinite(norm))
    throw Error(ErrorCode::non_finite, "tensor '" + name + "' of the reference holds a value that is not finite");
  if (norm == 0) return error == 0 ? fmt::format("{:.5f}", 0.0) : "";
  return fmt::format("{:.5f}", std::sqrt(error / norm));
}

/// A metadata value in a few words.
std::string value_text(const GgufValue& value) {
  return std::visit(
      [](const auto& v) -> std::string {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, GgufArray>) return fmt::format("{} elements", v.size());
        else if constexpr (std::is_same_v<T, std::string>) {
          std::string shown;
          for (const char c : v.substr(0, 60)) shown += static_cast<unsigned char>(c) < ' ' || c == '\x7f' ? ' ' : c;
          return shown + (v.size() > 60 ? "…" : "");
        } else return fmt::format("{}", v);
      },
      value);
}

void list_gguf(const std::string& model) {
  const GgufFile file(model);
  Table metadata({"key", "value"}), table({"tensor", "shape", "type", "bits/weight", "bytes"});
  for (const auto& [key, value] : file.metadata()) metadata.row({key, value_text(value)});
  std::size_t bytes = 0;
  for (const GgufTensor& t : file.tensors()) {
    double count = 1;
    for (const std::size_t d : t.shape) count *= static_cast<double>(d);
    bytes += t.bytes;
    table.row({t.name, shape_text(t.shape), std::string(t.type_name()) + (t.unread == nullptr ? "" : " (not read)"),
               count > 0 ? fmt::format("{:.3f}", 8 * static_cast<double>(t.bytes) / count) : "",
               std::to_string(t.bytes)});
  }
  fmt::print("{}\n{}{} tensors, {}; GGUF version {}\n", metadata.text(), table.text(), file.tensors().size(),
             megabytes(bytes), file.version());
}

void run(const std::string& model, const std::string& reference) {
  if (is_gguf(model)) {
    if (!reference.empty())
      throw Error(ErrorCode::unsupported,
                  "--reference goes with a model directory; `nibble convert` makes one of a GGUF file");
    return list_gguf(model);
  }
  const Checkpoint checkpoint = Checkpoint::open(model);
  std::unique_ptr<Checkpoint> exact;
  if (!reference.empty())
    exact = std::make_unique<Checkpoint>(model::open_checkpoint(reference, model::GgufView::decoded));
  Table table(exact ? std::vector<std::string>{"tensor", "shape", "type", "bits/weight", "layout", "relative error"}
                    : std::vector<std::string>{"tensor", "shape", "type", "bits/weight", "layout"});
  std::size_t bytes = 0;
  std::string undecoded;  ///< Why the first layer that nothing decodes is not.
  std::set<std::string> shown;
  for (const TensorInfo& t : checkpoint.tensors()) {
    bytes += t.bytes;
    const auto layer = layer_of_tensor(t.name);
    std::optional<CheckpointLayout> layout;
    try {
      if (layer) layout = layout_of(checkpoint, *layer);
    } catch (const Error& e) {  // listed all the same, but no number of it is claimed
      if (e.code() != ErrorCode::unsupported || exact) throw;
      if (undecoded.empty()) undecoded = e.what();
      table.row({t.name, shape_text(t.shape), std::string(name_of(t.type)), "", "not decoded"});
      continue;
    }
    if (layout && !shown.insert(*layer).second) continue;  // codes, scales, states: one row for all of a layer
    std::vector<std::string> row{t.name, shape_text(t.shape), std::string(name_of(t.type)),
                                 fmt::format("{}", 8 * size_of(t.type)), ""};
    const auto q = layout ? decode_quantized(checkpoint, *layer) : std::nullopt;
    if (q)
      row = {*layer, shape_text({q->rows, q->cols}), q->spec.to_string() + (q->g_idx.empty() ? "" : ", act-order"),
             fmt::format("{:.3f}", q->spec.bits_per_weight(q->rows, q->cols)), std::string(name_of(*layout))};
    if (exact) row.push_back(q ? relative_error(*q, *layer, *exact) : "");
    table.row(std::move(row));
  }
  fmt::print("{}{} tensors, {}\n", table.text(), checkpoint.tensors().size(), megabytes(bytes));
  if (!undecoded.empty()) fmt::print("not decoded: {}\n", undecoded);
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  auto model = std::make_shared<std::string>(), reference = std::make_shared<std::string>();
  CLI::App* c = app.add_subcommand("inspect", "List a model's tensors: shape, scheme, bits per weight, error");
  c->add_option("model", *model, "Model directory, .safetensors or .gguf file")->required();
  c->add_option("--reference", *reference,
                "The unquantized model, to measure each layer's error ‖W − Q‖ / ‖W‖ against");
  c->callback([model, reference] { run(*model, *reference); });
}

}  // namespace nibble::cli
