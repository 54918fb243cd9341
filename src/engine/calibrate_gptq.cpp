#include "calibrate_block.h"
#include "nibble/solver/gptq.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

using model::Input;
using model::Module;
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
  o.backend = &c.backend;
  o.executor = &c.executor;
  return o;
}

/// Goes through the inputs of a block.
class GptqBlock {
 public:
  GptqBlock(const CalibrationContext& c, Block& block)
      : c_(c), architecture_(c.config.architecture()), block_(block), runner_(c, block) {
    for (const Module& m : architecture_.linears()) {
      const auto method = c.method_of(block[m.role].name);
      if (method && method->kind == Kind::gptq) listens_[m.input] = true;
    }
  }

  model::FinishedBlock run() {
    if (c_.options.true_sequential) sequential();
    else at_once();
    return std::move(done_);
  }

 private:
  /// Each input is what the quantized layers before it give: four passes, of which none runs a layer that is not
  /// settled yet, and one to the next block.
  void sequential() {
    gather(Input::attention, 0.0, false);
    solve(Input::attention, 0.15);
    gather(Input::heads, 0.2, false);
    solve(Input::heads, 0.35);
    gather(Input::ffn, 0.4, true);  // attention is settled: x is what it was added to, from here on
    solve(Input::ffn, 0.55);
    gather(Input::gated, 0.65, false);
    solve(Input::gated, 0.8);
    runner_.each(true, 0.85, 1, block_[model::Role::down].name,
                 [&](std::size_t, MatrixView<float> x) { runner_.add_mlp(x); });
  }

  void gather(Input input, double at, bool settles_attention) {
    if (!listens_[input] && !settles_attention) return;
    Hessian& h = start(input);
    if (input == Input::heads)
      mixed_.emplace(c_.states.sequences(), c_.states.tokens(), h.channels(), c_.options.cache_bytes, c_.folder);
    runner_.each(settles_attention, at, at + 0.15, h.name(), [&](std::size_t sequence, MatrixView<float> x) {
      if (settles_attention) add_attention(sequence, x);
      if (!listens_[input]) return;
      const MatrixView<const float> in = runner_.input(input, x);
      h.add(in, c_.executor, &c_.backend);
      if (input == Input::heads) mixed_->write(sequence, in);
    });
    if (settles_attention) mixed_.reset();
  }

  /// By what the pass for the heads kept, if there was one: the heads are most of the work in a small model.
  void add_attention(std::size_t sequence, MatrixView<float> x) {
    if (!mixed_) return runner_.add_attention(x);
    mixed_values_.resize(x.rows * mixed_->width());
    const MatrixView<float> mixed(mixed_values_.data(), x.rows, mixed_->width());
    mixed_->read(sequence, mixed);
    runner_.add_mixed(mixed, x);
  }

  /// All layers see the block as it was; then it is run as it is.
  void at_once() {
    for (const Input input : kAllInputs) start(input);
    const std::string what = input_name(block_, architecture_, Input::attention) + " …";
    runner_.each(false, 0, 0.4, what, [&](std::size_t, MatrixView<float> x) {
      for (const Input input : kAllInputs) {
        if (input == Input::ffn) runner_.add_attention(x);
        if (listens_[input]) hessians_[input]->add(runner_.input(input, x), c_.executor, &c_.backend);
      }
    });
    double at = 0.4;
    for (const Input input : kAllInputs) solve(input, std::exchange(at, at + 0.1));
    runner_.advance(0.8, 1);
  }

  Hessian& start(Input input) {
    const std::size_t channels = block_[architecture_.linears(input).front().role].weight->cols();
    return hessians_[input].emplace(channels, input_name(block_, architecture_, input));
  }

  void solve(Input input, double at) {
    for (const Module& m : architecture_.linears(input)) {
      Linear& linear = block_[m.role];
      const auto method = c_.method_of(linear.name);
      if (!method) continue;
      report(c_.progress, at, linear.name);
      done_.layers.push_back(gptq_layer(c_, linear.name, *method, listens_[input] ? &*hessians_[input] : nullptr));
      linear.weight = c_.backend.pack(done_.layers.back().matrix);
      if (c_.options.on_layer) c_.options.on_layer(done_.layers.back().report);
    }
    hessians_[input].reset();
  }

  const CalibrationContext& c_;
  const model::Architecture& architecture_;
  Block& block_;
  BlockRunner runner_;
  ByInput<bool> listens_{};  ///< Whether any layer that sees it wants statistics.
  ByInput<std::optional<Hessian>> hessians_;
  std::optional<model::CalibrationStore> mixed_;  ///< What the heads saw, once query, key and value are settled.
  std::vector<float> mixed_values_;
  model::FinishedBlock done_;
};

}  // namespace

model::FinishedBlock::Layer gptq_layer(const CalibrationContext& c, const std::string& name,
                                       const model::CalibratedMethod& method, const Hessian* hessian) {
  model::FinishedBlock::Layer out = round_layer(c, name, method);
  if (hessian == nullptr) return out;
  const FloatMatrix weights = c.checkpoint.matrix(name + ".weight");
  out.report.rounding_loss = out.report.loss = gptq::layer_loss(weights, out.matrix, *hessian, c.executor, &c.backend);
  if (method.kind == Kind::gptq) {
    auto solved = gptq::solve(weights, *hessian, solver_options(c, name, method));
    out.matrix = std::move(solved.matrix);
    out.report.loss = gptq::layer_loss(weights, out.matrix, *hessian, c.executor, &c.backend);
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
