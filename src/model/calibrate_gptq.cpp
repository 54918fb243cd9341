#include <algorithm>
#include <optional>

#include "block_passes.h"
#include "calibrate_block.h"
#include "nibble/solver/gptq.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

using Kind = CalibratedMethod::Kind;

gptq::Options solver_options(const CalibrationContext& c, const std::string& name, const CalibratedMethod& m) {
  gptq::Options o;
  o.bits = m.spec.bits;
  o.group_size = m.spec.granularity == Granularity::channel ? -1 : static_cast<std::int64_t>(m.spec.group_size);
  o.symmetric = m.spec.scheme == SchemeKind::symmetric;
  o.scale_type = m.spec.scale_type;
  o.act_order = m.act_order;
  o.static_groups = m.static_groups;
  o.act_group_aware = m.act_group_aware;
  o.grid_search = m.grid_search;
  o.refit_scales = m.refit_scales;
  o.alpha = m.gptaq ? gptq::kPublishedAlpha : 0;
  o.qronos = m.qronos;
  o.damp_percent = c.options.damp_percent;
  o.calibration_tokens = c.tokens();
  o.name = name + ".weight";
  o.backend = &c.backend;
  o.executor = &c.executor;
  return o;
}

/// Puts what `solve` makes of a layer that has been rounded, a matrix of one kind or another, in its place.
template <class Matrix, class Solve>
void improve(const CalibrationContext& c, FloatMatrix weights, const Hessian& hessian, bool solves, const Solve& solve,
             Matrix& matrix, LayerReport& report) {
  report.rounding_loss = report.loss = gptq::layer_loss(weights, matrix, hessian, c.executor, &c.backend);
  if (!solves) return;
  auto solved = solve();
  matrix = std::move(solved.matrix);
  report.loss = gptq::layer_loss(weights, matrix, hessian, c.executor, &c.backend);
  report.damp_percent = solved.report.damp_percent;
  report.coverage = solved.report.coverage;
  report.dead_channels = solved.report.dead_channels.size();
  report.recovery = std::move(solved.report.recovery);
  report.fallback = std::move(solved.report.fallback);
}

/// One layer by GPTQ, or to nearest where its method says so (or nothing was gathered: `hessian` null).
FinishedBlock::Layer gptq_layer(const CalibrationContext& c, const std::string& name, FloatMatrix weights,
                                const CalibratedMethod& method, const Hessian* hessian) {
  FinishedBlock::Layer out = round_layer(c, name, weights, method);
  if (hessian == nullptr) return out;
  const gptq::Options options = solver_options(c, name, method);
  const bool solves = method.kind == Kind::gptq;
  if (method.blocks)
    improve(
        c, weights, *hessian, solves, [&] { return gptq::solve(weights, *hessian, *method.blocks, options); },
        out.blocks, out.report);
  else
    improve(
        c, weights, *hessian, solves, [&] { return gptq::solve(weights, *hessian, options); }, out.matrix, out.report);
  return out;
}

/// Goes through the groups of a block.
class GptqBlock {
 public:
  /// `listens` says whether statistics are wanted for a layer of this method.
  template <class Listens>
  GptqBlock(const CalibrationContext& c, CalibratedBlock& block, CalibratedBlock* full, const Listens& listens)
      : c_(c), block_(block), groups_(block.groups()), sequences_(c), passes_(c, block), hessians_(groups_.size()) {
    if (full != nullptr) full_.emplace(c, *full);
    for (const LayerGroup& group : groups_) {
      const auto any = [&](const auto& wants) {
        return std::ranges::any_of(group.layers, [&](const CalibratedLayer& l) {
          const auto method = c.method_of(l.name);
          return method && wants(*method);
        });
      };
      listens_.push_back(any(listens));
      corrects_.push_back(any([](const CalibratedMethod& m) { return m.corrects_inputs(); }));
    }
  }

  /// `share` of the progress is this call's.
  void quantize(double share) {
    if (c_.options.true_sequential) sequential(share);
    else at_once(share);
  }
  /// From where the last pass was ended to the end of the block.
  void advance() {
    const std::string what = groups_.empty() ? "running the block" : groups_.back().layers.back().name;
    sequences_.each(true, 0.85, 1, what, [&](std::size_t sequence, MatrixView<float> x) {
      if (full_) full_->to_the_end(sequence);
      passes_.to_the_end(sequence, x);
    });
  }
  FinishedBlock take() { return std::move(done_); }

 private:
  /// Each group sees what the quantized layers before it give: a pass for each, or for those that do not depend on each
  /// other, which ends where the group begins, so that none runs a layer that is not settled yet; and, in the end, one
  /// to the next block.
  void sequential(double share) {
    const double part = share / static_cast<double>(std::max<std::size_t>(1, groups_.size()));
    for (std::size_t g = 0, end = 0; g < groups_.size(); g = end) {
      end = end_of_pass(groups_, g);
      const double at = static_cast<double>(g) * part, all = static_cast<double>(end - g) * part;
      gather(g, end, at, at + 0.7 * all);
      for (std::size_t i = g; i < end; ++i) solve(i, at + 0.7 * all + 0.3 * part * static_cast<double>(i - g));
    }
  }

  /// For groups g to end − 1.
  void gather(std::size_t g, std::size_t end, double first, double last) {
    const bool settles = passes_.settles(g);  // all before is done with: the next passes begin here
    bool listens = false;
    for (std::size_t i = g; i < end; ++i)
      if (listens_[i]) {
        start(i);
        listens = true;
      }
    if (!listens && !settles) return;
    passes_.prepare(g);
    if (full_) full_->prepare(g);
    sequences_.each(settles, first, last, input_name(groups_[g]), [&](std::size_t sequence, MatrixView<float> x) {
      if (full_) full_->through(sequence, g, end);
      passes_.through(sequence, x, g, end, [&](std::size_t group, MatrixView<const float> input) {
        if (listens_[group]) add(group, input);
      });
    });
    passes_.finish(g);
    if (full_) full_->finish(g);
  }

  /// All layers see the block as it was.
  void at_once(double share) {
    std::size_t wanted = 0;  // groups that lie before the end of the pass
    for (std::size_t g = 0; g < groups_.size(); ++g)
      if (listens_[g]) {
        start(g);
        wanted = g + 1;
      }
    if (wanted > 0)
      sequences_.each(false, 0, share / 2, input_name(groups_.front()) + " …",
                      [&](std::size_t sequence, MatrixView<float> x) {
                        if (full_) full_->through(sequence, 0, wanted);
                        std::size_t shown = 0;
                        block_.run(x, [&](std::size_t group, MatrixView<const float> input) {
                          if (group >= wanted || group < shown) return false;
                          shown = group + 1;
                          check_input(groups_[group], input, c_.states.tokens());
                          if (listens_[group]) add(group, input);
                          return shown < wanted;
                        });
                        require_shown(groups_[wanted - 1], shown == wanted);
                      });
    for (std::size_t g = 0; g < groups_.size(); ++g)
      solve(g, share / 2 + share / 2 * static_cast<double>(g) / static_cast<double>(groups_.size()));
  }

  [[nodiscard]] std::size_t channels(std::size_t g) const { return groups_[g].layers.front().cols; }
  void start(std::size_t g) { hessians_[g].emplace(channels(g), input_name(groups_[g]), corrects_[g]); }
  void add(std::size_t g, MatrixView<const float> input) {
    if (input.rows == 0) return;
    if (corrects_[g]) hessians_[g]->add(input, full_->beside(block_, g, input), c_.executor, &c_.backend);
    else hessians_[g]->add(input, c_.executor, &c_.backend);
  }

  void solve(std::size_t g, double at) {
    for (std::size_t l = 0; l < groups_[g].layers.size(); ++l) {
      const std::string& name = groups_[g].layers[l].name;
      const auto method = c_.method_of(name);
      if (!method) continue;
      report(c_.progress, at, name);
      const LayerId id{g, l};
      done_.layers.push_back(
          gptq_layer(c_, name, weights_of(block_, id), *method, hessians_[g] ? &*hessians_[g] : nullptr));
      put(block_, id, done_.layers.back());
      if (c_.options.on_layer) c_.options.on_layer(done_.layers.back().report);
    }
    hessians_[g].reset();
  }

  const CalibrationContext& c_;
  CalibratedBlock& block_;
  std::span<const LayerGroup> groups_;
  SequenceStates sequences_;
  BlockPasses passes_;
  std::optional<FullPrecision> full_;
  std::vector<bool> listens_, corrects_;  ///< By group: whether any of its layers wants statistics, of both models.
  std::vector<std::optional<Hessian>> hessians_;
  FinishedBlock done_;
};

}  // namespace

FinishedBlock gptq_block(const CalibrationContext& context, CalibratedBlock& block, CalibratedBlock* full) {
  GptqBlock work(context, block, full, [](const CalibratedMethod& m) { return m.kind == Kind::gptq; });
  work.quantize(0.85);
  work.advance();
  return work.take();
}

FinishedBlock quantize_head(const CalibrationContext& context, CalibratedBlock& head, CalibratedBlock* full) {
  GptqBlock work(context, head, full, [](const CalibratedMethod&) { return true; });
  work.quantize(1);
  return work.take();
}

}  // namespace nibble::inline NIBBLE_ABI::model
