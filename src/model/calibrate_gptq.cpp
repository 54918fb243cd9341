#include <algorithm>
#include <memory>

#include "calibrate_block.h"
#include "nibble/solver/gptq.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

using Kind = CalibratedMethod::Kind;
using Resume = CalibratedBlock::Resume;

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
  GptqBlock(const CalibrationContext& c, CalibratedBlock& block, const Listens& listens)
      : c_(c), block_(block), groups_(block.groups()), sequences_(c), hessians_(groups_.size()) {
    for (const LayerGroup& group : groups_)
      listens_.push_back(std::any_of(group.layers.begin(), group.layers.end(), [&](const CalibratedLayer& l) {
        const auto method = c.method_of(l.name);
        return method && listens(*method);
      }));
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
      pass(sequence, x, [](std::size_t, MatrixView<const float>) { return true; });
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
    const Resume resume = g == 0 ? Resume::never : block_.resumes_at(g);
    const bool settles = resume == Resume::with_states;  // all before is done with: the next passes begin here
    bool listens = false;
    for (std::size_t i = g; i < end; ++i)
      if (listens_[i]) {
        start(i);
        listens = true;
      }
    if (!listens && !settles) return;
    std::unique_ptr<CalibrationStore> kept;
    if (resume == Resume::with_input)
      kept = std::make_unique<CalibrationStore>(c_.states.sequences(), c_.states.tokens(), channels(g),
                                                c_.options.cache_bytes, c_.folder);
    sequences_.each(settles, first, last, input_name(groups_[g]), [&](std::size_t sequence, MatrixView<float> x) {
      std::size_t next = g;  // to be shown
      pass(sequence, x, [&](std::size_t group, MatrixView<const float> input) {
        if (group != next || next == end) return next < end;
        ++next;
        check_input(groups_[group], input, c_.states.tokens());
        if (listens_[group]) add(group, input);
        if (kept) kept->write(sequence, input);
        return next < end;
      });
      require_shown(std::min(next, end - 1), next == end);
    });
    if (resume == Resume::never) return;
    from_ = g;
    kept_ = std::move(kept);
  }

  /// The block, from where the last pass could leave it.
  void pass(std::size_t sequence, MatrixView<float> x, CalibratedBlock::Listener listen) {
    if (!from_) return block_.run(x, listen);
    if (!kept_) return block_.resume(*from_, {}, x, listen);
    kept_values_.resize(x.rows * kept_->width());
    const MatrixView<float> input(kept_values_.data(), x.rows, kept_->width());
    kept_->read(sequence, input);
    block_.resume(*from_, input, x, listen);
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
      sequences_.each(false, 0, share / 2, input_name(groups_.front()) + " …", [&](std::size_t, MatrixView<float> x) {
        std::size_t shown = 0;
        block_.run(x, [&](std::size_t group, MatrixView<const float> input) {
          if (group >= wanted || group < shown) return false;
          shown = group + 1;
          check_input(groups_[group], input, c_.states.tokens());
          if (listens_[group]) add(group, input);
          return shown < wanted;
        });
        require_shown(wanted - 1, shown == wanted);
      });
    for (std::size_t g = 0; g < groups_.size(); ++g)
      solve(g, share / 2 + share / 2 * static_cast<double>(g) / static_cast<double>(groups_.size()));
  }

  static void require_shown(const LayerGroup& group, bool shown) {
    if (!shown)
      throw Error(ErrorCode::invalid_argument, "the block ran without showing the " + input_name(group) +
                                                   ": run() calls the listener for each of its groups, in their order");
  }
  void require_shown(std::size_t g, bool shown) const { require_shown(groups_[g], shown); }

  [[nodiscard]] std::size_t channels(std::size_t g) const { return groups_[g].layers.front().cols; }
  void start(std::size_t g) { hessians_[g].emplace(channels(g), input_name(groups_[g])); }
  void add(std::size_t g, MatrixView<const float> input) {
    if (input.rows > 0) hessians_[g]->add(input, c_.executor, &c_.backend);
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
  std::vector<bool> listens_;  ///< By group: whether any of its layers wants statistics.
  std::vector<std::optional<Hessian>> hessians_;
  std::optional<std::size_t> from_;         ///< The group at whose input passes begin; none: at that of the block.
  std::unique_ptr<CalibrationStore> kept_;  ///< Of that group: its input, where the block needs it to go on.
  std::vector<float> kept_values_;
  FinishedBlock done_;
};

}  // namespace

FinishedBlock gptq_block(const CalibrationContext& context, CalibratedBlock& block) {
  GptqBlock work(context, block, [](const CalibratedMethod& m) { return m.kind == Kind::gptq; });
  work.quantize(0.85);
  work.advance();
  return work.take();
}

FinishedBlock quantize_head(const CalibrationContext& context, CalibratedBlock& head) {
  GptqBlock work(context, head, [](const CalibratedMethod&) { return true; });
  work.quantize(1);
  return work.take();
}

}  // namespace nibble::inline NIBBLE_ABI::model
