#include <algorithm>

#include "calibrate_block.h"
#include "model/awq_fold.h"
#include "nibble/engine/model.h"
#include "nibble/quantize/quantize.h"
#include "nibble/solver/awq.h"
#include "nibble/solver/gptq.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

using model::Input;
using model::Module;
using model::Role;
using Kind = model::CalibratedMethod::Kind;

/// Tokens that attention and the MLP are run on for every ratio tried: whole sequences, evenly spaced.
constexpr std::size_t kInspectedTokens = 2048;

double squared_change(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += d * d;
  }
  return sum;
}

class AwqBlock {
 public:
  AwqBlock(const CalibrationContext& c, Block& block, std::size_t index)
      : c_(c),
        architecture_(c.config.architecture()),
        block_(block),
        runner_(c, block),
        dense_(model::DenseBlock::load(c.checkpoint, architecture_, index)) {
    for (const Input input : kAllInputs)
      stats_[input].emplace(dense_[first_of(input).role].cols, input_name(block, architecture_, input));
  }

  model::FinishedBlock run() {
    observe();
    search();
    fold(architecture_, dense_, scales_);
    for (const Input input : kAllInputs) {
      const Hessian before = hessian_of_sample(input);
      if (const auto& divisors = scales_of(input).scales; !divisors.empty()) stats_[input]->divide(divisors);
      const Hessian after = hessian_of_sample(input);
      for (const Module& m : architecture_.linears(input))
        if (method_of(m.role)) finish(m, before, after);
    }
    keep_vectors();
    return std::move(done_);
  }

 private:
  /// Sends the sequences through the block as it is, and on to the next.
  void observe() {
    const std::size_t n = c_.states.sequences(), length = c_.states.tokens();
    const std::size_t inspected = std::clamp<std::size_t>(kInspectedTokens / length, 1, n);
    runner_.each(true, 0, 0.4, "observing", [&](std::size_t sequence, MatrixView<float> x) {
      const bool inspects = sequence * inspected % n < inspected;  // `inspected` of n, evenly spaced
      for (const Input input : kAllInputs) {
        if (input == Input::ffn) runner_.add_attention(x);
        const MatrixView<const float> in = runner_.input(input, x);
        stats_[input]->add(in);
        if (inspects && is_of_module(input)) inspected_[input].emplace_back(in.data, in.data + in.rows * in.cols);
      }
      runner_.add_mlp(x);
    });
  }

  /// Whether this input is that of attention or of the feed-forward layer as a whole.
  static bool is_of_module(Input input) { return input == Input::attention || input == Input::ffn; }

  [[nodiscard]] Module first_of(Input input) const { return architecture_.linears(input).front(); }
  [[nodiscard]] const Module& source_of(Input input) const { return architecture_.module(first_of(input).folds_into); }
  [[nodiscard]] model::InputScales& scales_of(Input input) { return scales_[static_cast<std::size_t>(input)]; }
  [[nodiscard]] std::optional<model::CalibratedMethod> method_of(Role role) const {
    return c_.method_of(block_[role].name);
  }
  [[nodiscard]] bool searches(Role role) const {
    const auto method = method_of(role);
    return method && method->kind == Kind::awq;
  }

  /// All searches are on the block as it was. An input with a layer that shall stay as it is, before or behind, is not
  /// scaled.
  void search() {
    constexpr ByInput<double> begins{{0.4, 0.6, 0.65, 0.9}};
    for (const Input input : kAllInputs) {
      const std::vector<Module> consumers = architecture_.linears(input);
      const bool all =
          std::all_of(consumers.begin(), consumers.end(), [&](const Module& m) { return searches(m.role); });
      if (!all || (source_of(input).is_linear() && !searches(source_of(input).role))) continue;
      report(c_.progress, begins[input], "scales for the " + stats_[input]->name());
      awq::Scales found = search(input, consumers);
      ratios_[input] = found.ratio;
      scales_of(input) = {std::move(found.scales), std::move(found.source_scales)};
    }
  }

  awq::Scales search(Input input, const std::vector<Module>& consumers) {
    std::vector<awq::Linear> linears;
    for (const Module& m : consumers)
      linears.push_back({dense_[m.role].name + ".weight", MatrixView<const float>(dense_[m.role].view())});
    const model::CalibratedMethod method = *method_of(consumers.front().role);
    awq::ScaleOptions o;
    o.spec = method.spec;
    o.duo_scaling = method.duo_scaling;
    std::vector<std::size_t> shared;  // under grouped-query attention several channels come from one
    if (const Module& source = source_of(input); source.is_linear() && source.out != consumers.front().in) {
      shared = awq::value_sources(c_.config.heads, c_.config.kv_heads, c_.config.head_dim);
      o.source = shared;
      o.sources = dense_[source.role].rows;
    }
    if (is_of_module(input)) o.loss = module_loss(input, consumers);
    o.backend = &c_.backend;
    o.executor = &c_.executor;
    return awq::search_scales(linears, *stats_[input], o);
  }

  /// What attention or the feed-forward layer makes of a sequence.
  std::vector<float> outputs_of(const Block& block, Input input, const std::vector<float>& sequence) {
    const std::size_t n = c_.states.tokens(), hidden = c_.states.width();
    std::vector<float> out(n * hidden);
    const MatrixView<const float> x(sequence.data(), n, hidden);
    const MatrixView<float> y(out.data(), n, hidden);
    if (input == Input::attention) runner_.pass().attention(block, x, c_.rope.of(block), runner_.cache(), y);
    else runner_.pass().mlp(block, x, y);
    return out;
  }

  /// How much that changes when the layers that multiply the input are replaced.
  awq::ModuleLoss module_loss(Input input, const std::vector<Module>& consumers) {
    std::vector<std::vector<float>> expected;
    for (const auto& sequence : inspected_[input]) expected.push_back(outputs_of(block_, input, sequence));
    return [this, input, consumers, expected = std::move(expected)](std::span<const MatrixView<const float>> weights) {
      report(c_.progress, input == Input::attention ? 0.5 : 0.75, "scales for the " + stats_[input]->name());
      Block tried = block_;
      for (std::size_t i = 0; i < weights.size(); ++i)
        tried[consumers[i].role].weight = c_.backend.pack(FloatMatrix(weights[i]));
      double sum = 0, count = 0;
      for (std::size_t s = 0; s < expected.size(); ++s) {
        sum += squared_change(outputs_of(tried, input, inspected_[input][s]), expected[s]);
        count += static_cast<double>(expected[s].size());
      }
      return sum / count;
    };
  }

  [[nodiscard]] Hessian hessian_of_sample(Input input) const {
    Hessian h(stats_[input]->channels(), stats_[input]->name());
    h.add(stats_[input]->sample(), c_.executor, &c_.backend);
    return h;
  }

  /// Clips and rounds one layer.
  void finish(const Module& module, const Hessian& before, const Hessian& after) {
    model::DenseBlock::Linear& l = dense_[module.role];
    const model::CalibratedMethod m = *method_of(module.role);
    report(c_.progress, 0.9 + 0.01 * static_cast<double>(module.role), l.name);
    model::FinishedBlock::Layer out = round_layer(c_, l.name, m);
    const FloatMatrix original = c_.checkpoint.matrix(l.name + ".weight");
    out.report.loss = out.report.rounding_loss =
        gptq::layer_loss(original, out.matrix, before, c_.executor, &c_.backend);
    c_.checkpoint.release(l.name + ".weight");
    if (m.kind == Kind::awq) {
      const std::vector<float> folded = l.weights;
      if (m.clip && awq::clips(l.name)) {
        awq::ClipOptions clip;
        clip.spec = m.spec;
        clip.backend = &c_.backend;
        clip.executor = &c_.executor;
        const auto limits =
            awq::search_clip({l.name + ".weight", MatrixView<const float>(l.view())}, *stats_[module.input], clip);
        awq::apply_clip(l.view(), limits, m.spec.granularity == Granularity::group ? m.spec.group_size : 0);
      }
      out.matrix = c_.backend.quantize(MatrixView<const float>(l.view()), m.spec, l.name + ".weight", c_.executor);
      const MatrixView<const float> unclipped(folded.data(), l.rows, l.cols);
      out.report.loss = gptq::layer_loss(unclipped, out.matrix, after, c_.executor, &c_.backend);
      out.report.ratio = ratios_[module.input];
    }
    done_.layers.push_back(std::move(out));
    if (c_.options.on_layer) c_.options.on_layer(done_.layers.back().report);
  }

  /// The norms and biases that folding changed.
  void keep_vectors() {
    for (const Input input : kAllInputs) {
      if (scales_of(input).scales.empty()) continue;
      const Module& source = source_of(input);
      if (!source.is_linear()) {
        const model::DenseBlock::Norm& norm = dense_.norms.at(source.role);
        done_.vectors[norm.name + ".weight"] = norm.weight;
      } else if (const auto& l = dense_[source.role]; !l.bias.empty()) {
        done_.vectors[l.name + ".bias"] = l.bias;
      }
    }
  }

  const CalibrationContext& c_;
  const model::Architecture& architecture_;
  Block& block_;
  BlockRunner runner_;
  model::DenseBlock dense_;
  ByInput<std::optional<awq::ActivationStats>> stats_;
  ByInput<std::vector<std::vector<float>>> inspected_;  ///< Of the sequences inspected, the inputs of whole modules.
  ByInput<double> ratios_{};
  model::BlockScales scales_;
  model::FinishedBlock done_;
};

}  // namespace

model::FinishedBlock awq_block(const CalibrationContext& context, Block& block, std::size_t index) {
  return AwqBlock(context, block, index).run();
}

}  // namespace nibble::inline NIBBLE_ABI::engine
