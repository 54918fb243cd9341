#include "nibble/engine/calibrate.h"

#include <algorithm>

#include "calibrate_block.h"
#include "core/files.h"
#include "core/memory.h"
#include "core/output_path.h"
#include "core/pending.h"
#include "loader.h"
#include "model/calibrate_plan.h"
#include "model/calibrated_output.h"
#include "model/calibration_folder.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

namespace fs = std::filesystem;

/// What a block that is only run again costs, next to one that is quantized.
constexpr double kReplayCost = 0.2;

class Run {
 public:
  Run(const model::CalibrationPlan& plan, const model::CalibrateOptions& options, model::CalibrationFolder& folder)
      : plan_(plan),
        options_(options),
        folder_(folder),
        load_(load_options(options)),
        loader_(plan.from(), plan.config(), load_) {}

  /// Leaves a finished file for every block, and one for the head if it is wanted. Returns how many there were.
  std::size_t run(std::span<const std::int32_t> ids) {
    const std::size_t blocks = plan_.config().layers, found = folder_.finished(blocks);
    const bool head = plan_.method_of("lm_head") && !fs::exists(folder_.head_file());
    if (found == blocks && !head) return found;
    const auto starts = model::sample_starts(ids.size(), options_.samples, plan_.sample_tokens());
    const std::size_t length = std::min(ids.size(), plan_.sample_tokens());
    model::CalibrationStore states(starts.size(), length, plan_.config().hidden, options_.cache_bytes, folder_.path());
    embed(ids, starts, states);
    const RopeAngles rope(plan_.config(), 0, length);
    total_ = kReplayCost * static_cast<double>(found) + static_cast<double>(blocks - found) + (head ? 0.5 : 0.0);
    for (std::size_t i = 0; i < blocks; ++i) {
      const double cost = i < found ? kReplayCost : 1;
      const CalibrationContext context = context_for(states, rope, cost, "block " + std::to_string(i));
      needing_memory([&] { return "block " + std::to_string(i) + " and its calibration"; }, loader_.block_bytes(),
                     [&] {
                       Block block = loader_.block(i);
                       if (i < found) replay(context, block, i);
                       else save(folder_.block_file(i), quantize_block(context, block, i));
                     });
      done_ += cost;
    }
    if (head) quantize_head(context_for(states, rope, 0.5, "lm_head"));
    return found;
  }

 private:
  static LoadOptions load_options(const model::CalibrateOptions& options) {
    LoadOptions out;
    out.backend = options.backend;
    out.executor = options.executor;
    return out;
  }

  void embed(std::span<const std::int32_t> ids, const std::vector<std::size_t>& starts,
             model::CalibrationStore& states) {
    const BlockMatrix embedding = loader_.embedding();
    std::vector<float> values(states.tokens() * states.width());
    const MatrixView<float> x(values.data(), states.tokens(), states.width());
    for (std::size_t s = 0; s < starts.size(); ++s) {
      for (std::size_t t = 0; t < x.rows; ++t)
        embedding.decode_row(static_cast<std::size_t>(ids[starts[s] + t]), &x(t, 0));
      scale_embedded(plan_.config(), x);
      states.write(s, x);
    }
  }

  CalibrationContext context_for(model::CalibrationStore& states, const RopeAngles& rope, double cost,
                                 const std::string& what) const {
    return {plan_.config(),
            plan_.checkpoint(),
            options_,
            loader_.backend(),
            loader_.executor(),
            states,
            folder_.path(),
            rope,
            [this, cost, what](double fraction, std::string_view message) {
              report(options_.progress, (done_ + cost * fraction) / total_, what + ", " + std::string(message));
              return true;
            },
            [this](const std::string& layer) { return plan_.method_of(layer); }};
  }

  model::FinishedBlock quantize_block(const CalibrationContext& context, Block& block, std::size_t index) const {
    return options_.method.kind == model::CalibratedMethod::Kind::awq ? awq_block(context, block, index)
                                                                      : gptq_block(context, block);
  }

  /// What the run that finished this block left in the states, bit for bit: the kernels are deterministic.
  void replay(const CalibrationContext& context, Block& block, std::size_t index) const {
    if (options_.method.kind == model::CalibratedMethod::Kind::gptq) {
      const model::FinishedFile file(folder_.block_file(index));
      for (const auto& l : file.layers())
        for (Linear& linear : block.linears)
          if (linear.name == l.report.layer) linear.weight = context.backend.pack(file.matrix(linear.name));
    }
    BlockRunner(context, block).advance(0, 1);
  }

  /// Unless the model has changed under the run.
  void save(const fs::path& path, const model::FinishedBlock& finished) const {
    plan_.checkpoint().require_intact();
    model::save_finished(path, finished);
  }

  void quantize_head(const CalibrationContext& context) const {
    model::FinishedBlock finished;
    const model::CalibratedMethod method = *plan_.method_of("lm_head");
    Hessian h(plan_.config().hidden, "inputs of lm_head");
    const std::vector<float> weight = loader_.norm();
    Block none;
    BlockRunner runner(context, none);
    std::vector<float> normed(context.states.tokens() * context.states.width());
    const MatrixView<float> y(normed.data(), context.states.tokens(), context.states.width());
    runner.each(false, 0, 0.5, h.name(), [&](std::size_t, MatrixView<float> x) {
      runner.pass().norm(x, weight, y);
      h.add(y, context.executor, &context.backend);
    });
    finished.layers.push_back(gptq_layer(context, "lm_head", method, &h));
    if (options_.on_layer) options_.on_layer(finished.layers.back().report);
    save(folder_.head_file(), finished);
  }

  const model::CalibrationPlan& plan_;
  const model::CalibrateOptions& options_;
  model::CalibrationFolder& folder_;
  LoadOptions load_;
  Loader loader_;
  double done_ = 0, total_ = 1;
};

}  // namespace

model::CalibrateReport quantize_calibrated(const fs::path& from, const fs::path& to, std::span<const std::int32_t> ids,
                                           const model::CalibrateOptions& options) {
  using Kind = files::OutputKind;
  files::check_outputs({{to, options.resume ? Kind::folder : Kind::new_folder},
                        {model::CalibrationFolder::of(to), Kind::folder, "the folder of finished blocks"}},
                       {from});
  const model::CalibrationPlan plan(from, options);
  plan.check_ids(ids);
  const auto manifest = plan.manifest(ids);
  model::CalibrateReport out;
  out.layout = plan.layout();
  out.blocks = plan.config().layers;
  out.samples = model::sample_starts(ids.size(), options.samples, plan.sample_tokens()).size();
  out.tokens = out.samples * std::min(ids.size(), plan.sample_tokens());
  if (fs::exists(to)) {
    if (!options.resume || !model::made_by(to, manifest))
      throw Error(ErrorCode::invalid_argument,
                  "'" + to.string() + "' exists already; remove it or choose another name");
    files::remove_quietly(model::CalibrationFolder::of(to));
    out.complete_before = true;
    return out;
  }
  model::CalibrationFolder folder(to, manifest, options.resume);
  out.resumed = Run(plan, options, folder).run(ids);
  report(options.progress, 1, "writing the model");  // the last moment to say no
  model::write_calibrated(plan, folder, manifest, to, out);
  folder.remove();
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::engine
