#include <algorithm>

#include "awq_fold.h"
#include "calibrate_block.h"
#include "nibble/solver/awq.h"
#include "nibble/solver/gptq.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

using Kind = CalibratedMethod::Kind;

/// Tokens that a module is run on for every ratio tried: whole sequences, evenly spaced. One in 32, so that the 20
/// ratios together take less than one pass of all tokens through the block; but 512 at least and 2,048 at most.
std::size_t inspected_tokens(std::uint64_t tokens) { return std::clamp<std::uint64_t>(tokens / 32, 512, 2048); }
/// Layers that saw a lesser share of the tokens are rounded to nearest, as GPTQ does it.
const double kLeastCoverage = gptq::Options{}.min_coverage;

double squared_change(MatrixView<const float> a, MatrixView<const float> b) {
  double sum = 0;
  for (std::size_t r = 0; r < a.rows; ++r)
    for (std::size_t c = 0; c < a.cols; ++c) {
      const double d = static_cast<double>(a(r, c)) - static_cast<double>(b(r, c));
      sum += d * d;
    }
  return sum;
}

/// A matrix that owns its values.
struct Values {
  std::size_t rows = 0, cols = 0;
  std::vector<float> data;

  explicit Values(MatrixView<const float> x) : rows(x.rows), cols(x.cols) {
    for (std::size_t r = 0; r < x.rows; ++r) data.insert(data.end(), x.row(r).begin(), x.row(r).end());
  }
  [[nodiscard]] MatrixView<const float> view() const { return {data.data(), rows, cols}; }
};

class AwqBlock {
 public:
  AwqBlock(const CalibrationContext& c, CalibratedBlock& block)
      : c_(c), block_(block), dense_(DenseBlock::load(block)), groups_(dense_.groups.size()) {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const std::vector<CalibratedLayer>& layers = dense_.groups[g].layers;
      if (std::any_of(layers.begin(), layers.end(), [&](const CalibratedLayer& l) { return c.method_of(l.name); }))
        groups_[g].stats.emplace(layers.front().cols, input_name(dense_.groups[g]));
      if (dense_.groups[g].routed && !scaled_with_previous(dense_.groups, g))
        groups_[g].together.emplace(layers.front().cols, input_name(dense_.groups[g]), 1);
    }
    scales_.resize(groups_.size());
  }

  FinishedBlock run() {
    observe();
    for (std::size_t g = 0; g < groups_.size(); ++g) search(g);
    fold(dense_, scales_);
    for (std::size_t g = 0; g < groups_.size(); ++g)
      if (groups_[g].stats) finish(g);
    keep_vectors();
    return std::move(done_);
  }

 private:
  struct Group {
    std::optional<awq::ActivationStats> stats;  ///< None where all of its layers stay as they are.
    /// Of all groups that are scaled together, kept with the first, where they are of some tokens each.
    std::optional<awq::ActivationStats> together;
    std::vector<Values> inspected;  ///< The input, of some sequences, where it is that of a whole module.
    double ratio = 0;               ///< The one chosen.
  };

  /// Sends the sequences through the block as it is, and on to the next.
  void observe() {
    const std::size_t n = c_.states.sequences(), length = c_.states.tokens();
    const std::size_t inspected = std::clamp<std::size_t>(inspected_tokens(c_.tokens()) / length, 1, n);
    SequenceStates sequences(c_);
    sequences.each(true, 0, 0.4, "observing", [&](std::size_t sequence, MatrixView<float> x) {
      const bool inspects = sequence * inspected % n < inspected;  // `inspected` of n, evenly spaced
      std::size_t shown = 0;
      block_.run(x, [&](std::size_t g, MatrixView<const float> input) {
        if (g != shown++)
          throw Error(ErrorCode::invalid_argument, "the block showed the input of group " + std::to_string(g) +
                                                       " where that of " + std::to_string(shown - 1) + " was due");
        check_input(dense_.groups.at(g), input, length);
        if (input.rows > 0) add(g, input);
        if (inspects && groups_[g].stats && dense_.groups[g].has_module) groups_[g].inspected.emplace_back(input);
        return true;
      });
      if (shown != groups_.size())
        throw Error(ErrorCode::invalid_argument, "the block ran without showing the " +
                                                     input_name(dense_.groups[shown]) +
                                                     ": run() calls the listener for each of its groups");
    });
  }

  void add(std::size_t g, MatrixView<const float> input) {
    if (groups_[g].stats) groups_[g].stats->add(input);
    while (scaled_with_previous(dense_.groups, g)) --g;
    if (groups_[g].together) groups_[g].together->add(input);
  }

  /// Of all calibration tokens, those that a group saw.
  [[nodiscard]] double coverage(std::size_t g) const {
    return static_cast<double>(groups_[g].stats->tokens()) / static_cast<double>(c_.tokens());
  }
  /// Why a group's layers are rounded to nearest; empty: they are not.
  [[nodiscard]] std::string uncovered(std::size_t g) const {
    const std::uint64_t tokens = groups_[g].stats->tokens();
    if (tokens == 0) return "it saw no calibration tokens";
    if (coverage(g) >= kLeastCoverage) return {};
    return "it saw " + std::to_string(tokens) + " of " + std::to_string(c_.tokens()) +
           " calibration tokens, less than 0.5 %";
  }

  [[nodiscard]] bool searches(const CalibratedLayer& layer) const {
    const auto method = c_.method_of(layer.name);
    return method && method->kind == Kind::awq;
  }

  /// All searches are on the block as it was. An input with a layer that shall stay as it is, before or behind, is not
  /// scaled.
  void search(std::size_t g) {
    if (scaled_with_previous(dense_.groups, g)) return;  // done with that one
    const ScaleSource& source = dense_.groups[g].source;
    const std::size_t end = end_of_set(g);
    for (std::size_t i = g; i < end; ++i)
      for (const CalibratedLayer& l : dense_.groups[i].layers)
        if (!searches(l)) return;
    if (source.is_linear ? !searches(dense_.layer(source.linear)) : !source.is_norm()) return;
    if (end == g + 1 && !uncovered(g).empty()) return;
    report_search(g, 0);
    awq::Scales found = scales_for(g);
    for (std::size_t i = g; i < end; ++i) groups_[i].ratio = found.ratio;
    scales_[g] = {std::move(found.scales), std::move(found.source_scales)};
  }

  /// `part`: how much of the group's search is done.
  void report_search(std::size_t g, double part) const {
    report(c_.progress, 0.4 + 0.5 * (static_cast<double>(g) + part) / static_cast<double>(groups_.size()),
           "scales for the " + groups_[g].stats->name());
  }

  /// The first group behind those that are scaled with this one.
  [[nodiscard]] std::size_t end_of_set(std::size_t g) const {
    for (++g; g < groups_.size() && scaled_with_previous(dense_.groups, g);) ++g;
    return g;
  }

  awq::Scales scales_for(std::size_t g) {
    const LayerGroup& group = dense_.groups[g];
    const std::size_t end = end_of_set(g);
    std::vector<awq::LinearWeights> linears;
    for (std::size_t i = g; i < end; ++i)
      for (std::size_t l = 0; l < dense_.groups[i].layers.size(); ++l)
        linears.push_back(
            {dense_.groups[i].layers[l].name + ".weight", MatrixView<const float>(dense_[{i, l}].view())});
    const CalibratedMethod method = *c_.method_of(group.layers.front().name);
    awq::ScaleOptions o;
    o.spec = method.spec;
    o.duo_scaling = method.duo_scaling;
    if (group.source.is_linear && !group.source.rows.empty()) {
      o.source = group.source.rows;
      o.sources = group.source.last_rows != 0 ? group.source.last_rows : dense_[group.source.linear].rows;
    }
    if (group.has_module) o.loss = module_loss(g);
    o.backend = &c_.backend;
    o.executor = &c_.executor;
    if (end == g + 1) return awq::search_scales(linears, *groups_[g].stats, o);
    o.loss = routed_loss(g, end);
    return awq::search_scales(linears, *groups_[g].together, o);
  }

  /// How much what the layers of groups g to end − 1 give changes, each for the tokens that it sees: the sum over its
  /// sample, as many times as that is less than all of them.
  awq::ModuleLoss routed_loss(std::size_t g, std::size_t end) {
    return [this, g, end](std::span<const MatrixView<const float>> weights) {
      report_search(g, 0.5);
      double sum = 0;
      std::size_t tried = 0;
      for (std::size_t i = g; i < end; ++i)
        for (std::size_t l = 0; l < dense_.groups[i].layers.size(); ++l, ++tried) {
          const MatrixView<const float> sample = groups_[i].stats->sample();
          if (sample.rows == 0) continue;
          const double share = static_cast<double>(groups_[i].stats->tokens()) / static_cast<double>(sample.rows);
          sum += share * change_of_outputs(sample, dense_[{i, l}].view(), weights[tried]);
        }
      return sum;
    };
  }

  /// Σ (x·(a − b)ᵀ)²
  [[nodiscard]] double change_of_outputs(MatrixView<const float> x, MatrixView<const float> a,
                                         MatrixView<const float> b) const {
    std::vector<float> difference(a.rows * a.cols), product(x.rows * a.rows);
    for (std::size_t r = 0; r < a.rows; ++r)
      for (std::size_t c = 0; c < a.cols; ++c) difference[r * a.cols + c] = a(r, c) - b(r, c);
    const PackedMatrixPtr packed =
        c_.backend.pack(MatrixView<const float>(difference.data(), a.rows, a.cols), c_.executor);
    c_.backend.matmul(x, *packed, {product.data(), x.rows, a.rows}, c_.executor);
    double sum = 0;
    for (const float y : product) sum += static_cast<double>(y) * static_cast<double>(y);
    return sum;
  }

  /// How much what the module gives changes when the weights of its first layers are replaced.
  awq::ModuleLoss module_loss(std::size_t g) {
    std::vector<MatrixView<const float>> inputs;
    for (const Values& input : groups_[g].inspected) inputs.push_back(input.view());
    std::vector<Values> expected;
    block_.run_module(g, {}, inputs, [&](std::size_t, MatrixView<const float> out) { expected.emplace_back(out); });
    return [this, g, inputs = std::move(inputs),
            expected = std::move(expected)](std::span<const MatrixView<const float>> weights) {
      report_search(g, 0.5);
      const std::vector<FloatMatrix> tried(weights.begin(), weights.end());
      double sum = 0, count = 0;
      block_.run_module(g, tried, inputs, [&](std::size_t i, MatrixView<const float> out) {
        sum += squared_change(out, expected.at(i).view());
        count += static_cast<double>(out.rows * out.cols);
      });
      return sum / count;
    };
  }

  [[nodiscard]] Hessian hessian_of_sample(const awq::ActivationStats& stats) const {
    Hessian h(stats.channels(), stats.name());
    if (stats.tokens() > 0) h.add(stats.sample(), c_.executor, &c_.backend);
    return h;
  }

  /// Clips and rounds the layers of a group.
  void finish(std::size_t g) {
    awq::ActivationStats& stats = *groups_[g].stats;
    const Hessian before = hessian_of_sample(stats);
    if (const auto& divisors = scales_[g].scales; !divisors.empty() && stats.tokens() > 0) stats.divide(divisors);
    const Hessian after = hessian_of_sample(stats);
    for (std::size_t l = 0; l < dense_.groups[g].layers.size(); ++l)
      if (const auto method = c_.method_of(dense_.layer({g, l}).name)) finish({g, l}, *method, before, after);
  }

  void finish(LayerId id, const CalibratedMethod& m, const Hessian& before, const Hessian& after) {
    const CalibratedLayer& layer = dense_.layer(id);
    report(c_.progress, 0.9 + 0.1 * static_cast<double>(id.group) / static_cast<double>(groups_.size()), layer.name);
    const FloatMatrix original = weights_of(block_, id);
    FinishedBlock::Layer out = round_layer(c_, layer.name, original, m);
    out.report.loss = out.report.rounding_loss =
        gptq::layer_loss(original, out.matrix, before, c_.executor, &c_.backend);
    out.report.coverage = coverage(id.group);
    if (m.kind == Kind::awq) {
      const std::string why = uncovered(id.group);
      if (!why.empty()) out.report.fallback = "'" + layer.name + ".weight' was rounded to nearest: " + why;
      out.matrix = clip_and_round(id, m, after, out.report.loss);
      out.report.ratio = groups_[id.group].ratio;
    }
    done_.layers.push_back(std::move(out));
    if (c_.options.on_layer) c_.options.on_layer(done_.layers.back().report);
  }

  /// `loss` counts the clipping. What the layers before are scaled by is in the weights by now, whatever was seen.
  QuantizedMatrix clip_and_round(LayerId id, const CalibratedMethod& m, const Hessian& hessian, double& loss) {
    DenseBlock::DenseMatrix& l = dense_[id];
    const CalibratedLayer& layer = dense_.layer(id);
    const std::string name = layer.name + ".weight";
    const std::vector<float> folded = l.weights;
    if (m.clip && layer.clips && uncovered(id.group).empty()) {
      awq::ClipOptions clip;
      clip.spec = m.spec;
      clip.backend = &c_.backend;
      clip.executor = &c_.executor;
      const auto limits = awq::search_clip({name, MatrixView<const float>(l.view())}, *groups_[id.group].stats, clip);
      awq::apply_clip(l.view(), limits, m.spec.granularity == Granularity::group ? m.spec.group_size : 0);
    }
    QuantizedMatrix out = c_.backend.quantize(MatrixView<const float>(l.view()), m.spec, name, c_.executor);
    const MatrixView<const float> unclipped(folded.data(), l.rows, l.cols);
    loss = gptq::layer_loss(unclipped, out, hessian, c_.executor, &c_.backend);
    return out;
  }

  /// The norms and biases that folding changed, and the routers.
  void keep_vectors() {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      if (scales_[g].scales.empty()) continue;
      const ScaleSource& source = dense_.groups[g].source;
      for (const StoredVector& matrix : dense_.groups[g].scaled_along) done_.vectors[matrix.name] = matrix.values;
      const StoredVector& bias = source.is_linear ? dense_.layer(source.linear).bias : source.norm_bias;
      if (!source.is_linear) done_.vectors[source.norm.name] = source.norm.values;
      if (!bias.values.empty()) done_.vectors[bias.name] = bias.values;
    }
  }

  const CalibrationContext& c_;
  CalibratedBlock& block_;
  DenseBlock dense_;
  std::vector<Group> groups_;
  BlockScales scales_;
  FinishedBlock done_;
};

}  // namespace

FinishedBlock awq_block(const CalibrationContext& context, CalibratedBlock& block) {
  return AwqBlock(context, block).run();
}

}  // namespace nibble::inline NIBBLE_ABI::model
