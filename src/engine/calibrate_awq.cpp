#include <algorithm>

#include "calibrate_block.h"
#include "model/awq_fold.h"
#include "nibble/engine/model.h"
#include "nibble/quantize/quantize.h"
#include "nibble/solver/awq.h"
#include "nibble/solver/gptq.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

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
      : c_(c), block_(block), runner_(c, block), dense_(model::DenseBlock::load(c.checkpoint, index)) {
    for (std::size_t i = 0; i < methods_.size(); ++i) methods_[i] = c.method_of(dense_.linears[i].name);
    for (std::size_t g = 0; g < kGroups.size(); ++g)
      stats_.emplace_back(dense_.linears[kGroups[g].first].cols, group_name(block, g));
  }

  model::FinishedBlock run() {
    observe();
    search();
    fold(dense_, scales_);
    const std::vector<float>* divisors[] = {&scales_.attention, &scales_.mixed, &scales_.mlp, &scales_.down};
    for (std::size_t g = 0; g < kGroups.size(); ++g) {
      const Hessian before = hessian_of_sample(g);
      if (!divisors[g]->empty()) stats_[g].divide(*divisors[g]);
      const Hessian after = hessian_of_sample(g);
      for (std::size_t i = kGroups[g].first; i < kGroups[g].second; ++i)
        if (methods_[i]) finish(i, g, before, after);
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
      for (std::size_t g = 0; g < kGroups.size(); ++g) {
        if (g == 2) runner_.add_attention(x);
        const MatrixView<const float> in = runner_.input(g, x);
        stats_[g].add(in);
        if (!inspects || g % 2 != 0) continue;
        (g == 0 ? attention_inputs_ : mlp_inputs_).emplace_back(in.data, in.data + in.rows * in.cols);
      }
      runner_.add_mlp(x);
    });
  }

  [[nodiscard]] bool searches(std::initializer_list<std::size_t> linears) const {
    return std::all_of(linears.begin(), linears.end(),
                       [&](std::size_t i) { return methods_[i] && methods_[i]->kind == Kind::awq; });
  }

  /// All searches are on the block as it was. A group with a layer that shall stay as it is, before or behind, is not
  /// scaled.
  void search() {
    if (searches({0, 1, 2})) scales_.attention = scales_of(0, 0.4, attention_loss(), {}).scales;
    if (searches({2, 3})) {
      const auto found =
          scales_of(1, 0.6, {}, awq::value_sources(c_.config.heads, c_.config.kv_heads, c_.config.head_dim));
      scales_.values = found.source_scales;
      scales_.mixed = found.scales;
    }
    if (searches({4, 5})) scales_.mlp = scales_of(2, 0.65, mlp_loss(), {}).scales;
    if (searches({5, 6})) scales_.down = scales_of(3, 0.9, {}, {}).scales;
  }

  awq::Scales scales_of(std::size_t group, double at, awq::ModuleLoss loss, const std::vector<std::size_t>& source) {
    report(c_.progress, at, "scales for the " + stats_[group].name());
    std::vector<awq::Linear> linears;
    for (std::size_t i = kGroups[group].first; i < kGroups[group].second; ++i)
      linears.push_back({dense_.linears[i].name + ".weight", MatrixView<const float>(dense_.linears[i].view())});
    awq::ScaleOptions o;
    o.spec = methods_[kGroups[group].first]->spec;
    o.duo_scaling = methods_[kGroups[group].first]->duo_scaling;
    o.source = source;
    o.sources = source.empty() ? 0 : dense_.linears[2].rows;
    o.loss = std::move(loss);
    o.executor = &c_.executor;
    awq::Scales found = awq::search_scales(linears, stats_[group], o);
    ratios_[group] = found.ratio;
    return found;
  }

  /// How much the output of attention changes when q, k and v are replaced; for the MLP, gate and up.
  awq::ModuleLoss attention_loss() {
    return module_loss(0, attention_inputs_, [this](const Block& b, MatrixView<const float> x, MatrixView<float> y) {
      runner_.pass().attention(b, x, c_.rope, runner_.cache(), y);
    });
  }
  awq::ModuleLoss mlp_loss() {
    return module_loss(2, mlp_inputs_, [this](const Block& b, MatrixView<const float> x, MatrixView<float> y) {
      runner_.pass().mlp(b, x, y);
    });
  }

  template <class Module>
  awq::ModuleLoss module_loss(std::size_t group, const std::vector<std::vector<float>>& inputs, const Module& module) {
    const auto outputs_of = [this, &inputs, module](const Block& b, std::size_t s) {
      const std::size_t n = c_.states.tokens(), hidden = c_.states.width();
      std::vector<float> out(n * hidden);
      module(b, {inputs[s].data(), n, hidden}, {out.data(), n, hidden});
      return out;
    };
    std::vector<std::vector<float>> expected;
    for (std::size_t s = 0; s < inputs.size(); ++s) expected.push_back(outputs_of(block_, s));
    return [this, group, outputs_of, expected = std::move(expected)](std::span<const MatrixView<const float>> weights) {
      report(c_.progress, group == 0 ? 0.5 : 0.75, "scales for the " + stats_[group].name());
      Block tried = block_;
      for (std::size_t i = 0; i < weights.size(); ++i)
        tried.linears()[kGroups[group].first + i]->weight = c_.backend.pack(FloatMatrix(weights[i]));
      double sum = 0, count = 0;
      for (std::size_t s = 0; s < expected.size(); ++s) {
        sum += squared_change(outputs_of(tried, s), expected[s]);
        count += static_cast<double>(expected[s].size());
      }
      return sum / count;
    };
  }

  [[nodiscard]] Hessian hessian_of_sample(std::size_t group) const {
    Hessian h(stats_[group].channels(), stats_[group].name());
    h.add(stats_[group].sample(), c_.executor);
    return h;
  }

  /// Clips and rounds one layer.
  void finish(std::size_t i, std::size_t group, const Hessian& before, const Hessian& after) {
    model::DenseBlock::Linear& l = dense_.linears[i];
    const model::CalibratedMethod& m = *methods_[i];
    report(c_.progress, 0.9 + 0.01 * static_cast<double>(i), l.name);
    model::FinishedBlock::Layer out = round_layer(c_, l.name, m);
    const FloatMatrix original = c_.checkpoint.matrix(l.name + ".weight");
    out.report.loss = out.report.rounding_loss = gptq::layer_loss(original, out.matrix, before, c_.executor);
    c_.checkpoint.release(l.name + ".weight");
    if (m.kind == Kind::awq) {
      const std::vector<float> folded = l.weights;
      if (m.clip && awq::clips(l.name)) {
        awq::ClipOptions clip;
        clip.spec = m.spec;
        clip.executor = &c_.executor;
        const auto limits =
            awq::search_clip({l.name + ".weight", MatrixView<const float>(l.view())}, stats_[group], clip);
        awq::apply_clip(l.view(), limits, m.spec.granularity == Granularity::group ? m.spec.group_size : 0);
      }
      out.matrix = c_.backend.quantize(MatrixView<const float>(l.view()), m.spec, l.name + ".weight", c_.executor);
      const MatrixView<const float> unclipped(folded.data(), l.rows, l.cols);
      out.report.loss = gptq::layer_loss(unclipped, out.matrix, after, c_.executor);
      out.report.ratio = ratios_[group];
    }
    done_.layers.push_back(std::move(out));
    if (c_.options.on_layer) c_.options.on_layer(done_.layers.back().report);
  }

  /// The norms and biases that folding changed.
  void keep_vectors() {
    const auto prefix = dense_.linears[0].name.substr(0, dense_.linears[0].name.find("self_attn"));
    if (!scales_.attention.empty()) done_.vectors[prefix + "input_layernorm.weight"] = dense_.input_norm;
    if (!scales_.mlp.empty()) done_.vectors[prefix + "post_attention_layernorm.weight"] = dense_.post_norm;
    const model::DenseBlock::Linear &v = dense_.linears[2], &up = dense_.linears[5];
    if (!scales_.values.empty() && !v.bias.empty()) done_.vectors[v.name + ".bias"] = v.bias;
    if (!scales_.down.empty() && !up.bias.empty()) done_.vectors[up.name + ".bias"] = up.bias;
  }

  const CalibrationContext& c_;
  Block& block_;
  BlockRunner runner_;
  model::DenseBlock dense_;
  std::array<std::optional<model::CalibratedMethod>, 7> methods_;
  std::vector<awq::ActivationStats> stats_;                        ///< Of each group's inputs.
  std::vector<std::vector<float>> attention_inputs_, mlp_inputs_;  ///< Of the sequences inspected.
  std::array<double, 4> ratios_{};
  model::BlockScales scales_;
  model::FinishedBlock done_;
};

}  // namespace

model::FinishedBlock awq_block(const CalibrationContext& context, Block& block, std::size_t index) {
  return AwqBlock(context, block, index).run();
}

}  // namespace nibble::inline NIBBLE_ABI::engine
