#include "calibrate_block.h"
#include "nibble/solver/gptq.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

using Kind = model::CalibratedMethod::Kind;

gptq::Options solver_options(const CalibrationContext& c, const std::string& name, const model::CalibratedMethod& m) {
  gptq::Options o;
  o.bits = m.spec.bits;
  o.group_size = m.spec.granularity == Granularity::channel ? -1 : static_cast<std::int64_t>(m.spec.group_size);
  o.symmetric = m.spec.scheme == SchemeKind::symmetric;
  o.scale_type = m.spec.scale_type;
  o.act_order = m.act_order;
  o.static_groups = m.static_groups;
  o.act_group_aware = m.act_group_aware;
  o.grid_search = m.grid_search;
  o.damp = c.options.damp;
  o.calibration_tokens = c.tokens();
  o.name = name + ".weight";
  o.executor = &c.executor;
  return o;
}

/// Goes through the groups of a block.
class GptqBlock {
 public:
  GptqBlock(const CalibrationContext& c, Block& block) : c_(c), block_(block), runner_(c, block) {
    for (std::size_t g = 0; g < kGroups.size(); ++g)
      for (std::size_t i = kGroups[g].first; i < kGroups[g].second; ++i) {
        methods_[i] = c.method_of(block.linears()[i]->name);
        listens_[g] = listens_[g] || (methods_[i] && methods_[i]->kind == Kind::gptq);
      }
  }

  model::FinishedBlock run() {
    if (c_.options.true_sequential) sequential();
    else at_once();
    return std::move(done_);
  }

 private:
  /// Each group sees what the quantized groups before it give: four passes, of which none runs a layer that is not
  /// settled yet, and one to the next block.
  void sequential() {
    gather(0, 0.0, false);
    solve(0, 0.15);
    gather(1, 0.2, false);
    solve(1, 0.35);
    gather(2, 0.4, true);  // attention is settled: x is what it was added to, from here on
    solve(2, 0.55);
    gather(3, 0.65, false);
    solve(3, 0.8);
    runner_.each(true, 0.85, 1, block_.down.name, [&](std::size_t, MatrixView<float> x) { runner_.add_mlp(x); });
  }

  void gather(std::size_t group, double at, bool settles_attention) {
    if (!listens_[group] && !settles_attention) return;
    Hessian& h = start(group);
    if (group == 1)
      mixed_.emplace(c_.states.sequences(), c_.states.tokens(), h.channels(), c_.options.cache_bytes, c_.folder);
    runner_.each(settles_attention, at, at + 0.15, h.name(), [&](std::size_t sequence, MatrixView<float> x) {
      if (settles_attention) add_attention(sequence, x);
      if (!listens_[group]) return;
      const MatrixView<const float> in = runner_.input(group, x);
      h.add(in, c_.executor);
      if (group == 1) mixed_->write(sequence, in);
    });
    if (settles_attention) mixed_.reset();
  }

  /// By what the pass for o kept, if there was one: the heads are most of the work in a small model.
  void add_attention(std::size_t sequence, MatrixView<float> x) {
    if (!mixed_) return runner_.add_attention(x);
    mixed_values_.resize(x.rows * mixed_->width());
    const MatrixView<float> mixed(mixed_values_.data(), x.rows, mixed_->width());
    mixed_->read(sequence, mixed);
    runner_.add_mixed(mixed, x);
  }

  /// All groups see the block as it was; then it is run as it is.
  void at_once() {
    for (std::size_t g = 0; g < kGroups.size(); ++g) start(g);
    runner_.each(false, 0, 0.4, "inputs of " + block_.q.name + " …", [&](std::size_t, MatrixView<float> x) {
      for (std::size_t g = 0; g < kGroups.size(); ++g) {
        if (g == 2) runner_.add_attention(x);
        if (listens_[g]) hessians_[g]->add(runner_.input(g, x), c_.executor);
      }
    });
    for (std::size_t g = 0; g < kGroups.size(); ++g) solve(g, 0.4 + 0.1 * static_cast<double>(g));
    runner_.advance(0.8, 1);
  }

  Hessian& start(std::size_t group) {
    const std::size_t channels = block_.linears()[kGroups[group].first]->weight->cols();
    return hessians_[group].emplace(channels, group_name(block_, group));
  }

  void solve(std::size_t group, double at) {
    for (std::size_t i = kGroups[group].first; i < kGroups[group].second; ++i) {
      Linear& linear = *block_.linears()[i];
      if (!methods_[i]) continue;
      report(c_.progress, at, linear.name);
      done_.layers.push_back(gptq_layer(c_, linear.name, *methods_[i], listens_[group] ? &*hessians_[group] : nullptr));
      linear.weight = c_.backend.pack(done_.layers.back().matrix);
      if (c_.options.on_layer) c_.options.on_layer(done_.layers.back().report);
    }
    hessians_[group].reset();
  }

  const CalibrationContext& c_;
  Block& block_;
  BlockRunner runner_;
  std::array<std::optional<model::CalibratedMethod>, 7> methods_;
  std::array<bool, 4> listens_{};
  std::array<std::optional<Hessian>, 4> hessians_;
  std::optional<model::CalibrationStore> mixed_;  ///< The inputs of o, once q, k and v are settled.
  std::vector<float> mixed_values_;
  model::FinishedBlock done_;
};

}  // namespace

model::FinishedBlock::Layer gptq_layer(const CalibrationContext& c, const std::string& name,
                                       const model::CalibratedMethod& method, const Hessian* hessian) {
  model::FinishedBlock::Layer out = round_layer(c, name, method);
  if (hessian == nullptr) return out;
  const FloatMatrix weights = c.checkpoint.matrix(name + ".weight");
  out.report.rounding_loss = out.report.loss = gptq::layer_loss(weights, out.matrix, *hessian, c.executor);
  if (method.kind == Kind::gptq) {
    auto solved = gptq::solve(weights, *hessian, solver_options(c, name, method));
    out.matrix = std::move(solved.matrix);
    out.report.loss = gptq::layer_loss(weights, out.matrix, *hessian, c.executor);
    out.report.damp = solved.report.damp;
    out.report.coverage = solved.report.coverage;
    out.report.dead_channels = solved.report.dead_channels.size();
    out.report.recovery = std::move(solved.report.recovery);
    out.report.fallback = std::move(solved.report.fallback);
  }
  c.checkpoint.release(name + ".weight");
  return out;
}

model::FinishedBlock gptq_block(const CalibrationContext& context, Block& block) {
  return GptqBlock(context, block).run();
}

}  // namespace nibble::inline NIBBLE_ABI::engine
