#include "calibrate_block.h"

#include <set>

namespace nibble::inline NIBBLE_ABI::model {

void embed(CalibratedModel& model, std::span<const std::int32_t> ids, std::span<const std::size_t> starts,
           CalibrationStore& states, CalibrationStore* also) {
  std::vector<float> values(states.tokens() * states.width());
  const MatrixView<float> x(values.data(), states.tokens(), states.width());
  for (std::size_t s = 0; s < starts.size(); ++s) {
    model.embed(ids.subspan(starts[s], x.rows), x);
    states.write(s, x);
    if (also != nullptr) also->write(s, x);
  }
}

void SequenceStates::each(bool keep, double first, double last, const std::string& what, const Visit& visit) {
  const MatrixView<float> x(values_.data(), states_.tokens(), states_.width());
  for (std::size_t s = 0; s < states_.sequences(); ++s) {
    report(context_.progress,
           first + (last - first) * static_cast<double>(s) / static_cast<double>(states_.sequences()), what);
    states_.read(s, x);
    visit(s, x);
    if (keep) states_.write(s, x);
  }
}

void SequenceStates::advance(CalibratedBlock& block, double first, double last) {
  each(true, first, last, "running the block", [&](std::size_t, MatrixView<float> x) {
    block.run(x, [](std::size_t, MatrixView<const float>) { return true; });
  });
}

std::string input_name(const LayerGroup& group) { return "inputs of " + group.layers.front().name; }

namespace {

std::string shape(std::size_t rows, std::size_t cols) { return std::to_string(rows) + " × " + std::to_string(cols); }

/// What the block's author must have meant otherwise.
void need(bool ok, ErrorCode code, const LayerGroup& group, const std::string& why) {
  if (!ok) throw Error(code, (group.layers.empty() ? "a group" : "the " + input_name(group)) + ": " + why);
}

void check_source(std::span<const LayerGroup> groups, std::size_t at) {
  const LayerGroup& group = groups[at];
  const ScaleSource& source = group.source;
  const std::size_t channels = group.layers.front().cols;
  if (source.is_norm()) {
    const std::size_t bias = source.norm_bias.values.size();
    need(source.norm.values.size() == channels && (bias == 0 || bias == channels), ErrorCode::shape_mismatch, group,
         "the norm before them has " + std::to_string(source.norm.values.size()) + " values, of " +
             std::to_string(channels) + " channels");
  }
  if (!source.is_linear) return;
  const auto [before, layer] = source.linear;
  need(before < at && layer < groups[before].layers.size(), ErrorCode::invalid_argument, group,
       "their scales fold into layer " + std::to_string(layer) + " of group " + std::to_string(before) +
           ", which is not one before them");
  const std::size_t rows = groups[before].layers[layer].rows;
  need(source.rows.empty() ? channels <= rows : source.rows.size() == channels, ErrorCode::shape_mismatch, group,
       "they have " + std::to_string(channels) + " channels, and the layer that their scales fold into " +
           std::to_string(rows) + " rows");
  need(source.last_rows <= rows, ErrorCode::shape_mismatch, group,
       "their channels come from the last " + std::to_string(source.last_rows) + " rows of a layer that has " +
           std::to_string(rows));
}

}  // namespace

void check_input(const LayerGroup& group, MatrixView<const float> input, std::size_t tokens) {
  input.validate(group.layers.front().name);
  const bool rows = group.routed ? input.rows <= tokens : input.rows == tokens;
  need(rows && input.cols == group.layers.front().cols, ErrorCode::shape_mismatch, group,
       "the block showed " + shape(input.rows, input.cols) + " values; " + shape(tokens, group.layers.front().cols) +
           " are needed");
}

void require_shown(const LayerGroup& group, bool shown) {
  if (!shown)
    throw Error(ErrorCode::invalid_argument, "the block ran without showing the " + input_name(group) +
                                                 ": run() calls the listener for each of its groups, in their order");
}

FloatMatrix weights_of(CalibratedBlock& block, LayerId id) {
  const LayerGroup& group = block.groups()[id.group];
  const CalibratedLayer& layer = group.layers[id.layer];
  const FloatMatrix weights = block.weights(id);
  need(weights.rows == layer.rows && weights.cols == layer.cols && weights.type == layer.type,
       ErrorCode::shape_mismatch, group,
       "the weights of '" + layer.name + "' are " + shape(weights.rows, weights.cols) + " of " +
           std::string(name_of(weights.type)) + ", not " + shape(layer.rows, layer.cols) + " of " +
           std::string(name_of(layer.type)));
  return weights;
}

void check_groups(std::span<const LayerGroup> groups) {
  std::set<LayerId> layers;
  std::set<std::string> norms;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const LayerGroup& group = groups[g];
    need(!group.layers.empty(), ErrorCode::invalid_argument, group, "it has no layers");
    const std::size_t channels = group.layers.front().cols;
    for (const CalibratedLayer& layer : group.layers)
      need(layer.cols == channels, ErrorCode::shape_mismatch, group,
           "'" + layer.name + "' multiplies " + std::to_string(layer.cols) + " channels, not " +
               std::to_string(channels) + " as the others");
    check_source(groups, g);
    const ScaleSource& source = group.source;
    for (const StoredVector& matrix : group.scaled_along)
      need(!scaled_with_previous(groups, g) && matrix.values.size() % channels == 0, ErrorCode::shape_mismatch, group,
           "'" + matrix.name + "', which is scaled along, has " + std::to_string(matrix.values.size()) +
               " values, of " + std::to_string(channels) + " channels, and belongs to the first group of its norm");
    const bool is_new = scaled_with_previous(groups, g) ? true
                        : source.is_linear              ? layers.insert(source.linear).second
                        : source.is_norm()              ? norms.insert(source.norm.name).second
                                                        : true;
    need(is_new, ErrorCode::invalid_argument, group, "their scales fold into what another group's fold into");
  }
}

std::size_t end_of_pass(std::span<const LayerGroup> groups, std::size_t first) {
  std::size_t end = first + 1;
  while (end < groups.size() && groups[end].beside_previous) ++end;
  return end;
}

FinishedBlock::Layer round_layer(const CalibrationContext& c, const std::string& name, FloatMatrix weights,
                                 const CalibratedMethod& method) {
  FinishedBlock::Layer out;
  out.report.layer = name;
  out.report.method = method.to_string();
  out.dtype = weights.type;
  if (method.blocks) out.blocks = BlockMatrix::encode(weights, *method.blocks, name + ".weight", c.executor);
  else out.matrix = c.backend.quantize(weights, method.spec, name + ".weight", c.executor);
  return out;
}

void put(CalibratedBlock& block, LayerId id, FinishedBlock::Layer layer) {
  if (layer.has_blocks()) block.replace_by_blocks(id, std::move(layer.blocks));
  else block.replace(id, std::move(layer.matrix));
}

}  // namespace nibble::inline NIBBLE_ABI::model
