#include "nibble/model/calibrate.h"

#include <algorithm>

#include "calibrate_block.h"
#include "calibrate_plan.h"
#include "calibrated_checkpoint.h"
#include "core/output_path.h"
#include "core/pending.h"
#include "nibble/core/impl/memory.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

/// What a block that is only run again costs, next to one that is quantized; and what the head does.
constexpr double kReplayCost = 0.2, kHeadCost = 0.5;

/// The folder of a sink that has one, or the system's.
fs::path folder_of(const CalibrationSink& sink) {
  fs::path out = sink.folder();
  return out.empty() ? spill_folder() : out;
}

/// Gathers a report from finished blocks.
class Tally {
 public:
  explicit Tally(CalibrateReport& report) : report_(report) {}
  void add(const FinishedBlock& block) {
    for (const FinishedBlock::Layer& l : block.layers) {
      const auto count = static_cast<double>(l.matrix.rows) * static_cast<double>(l.matrix.cols);
      bits_ += l.matrix.spec.bits_per_weight(l.matrix.rows, l.matrix.cols) * count;
      weights_ += count;
      report_.layers.push_back(l.report);
    }
    if (weights_ > 0) report_.bits_per_weight = bits_ / weights_;
  }

 private:
  CalibrateReport& report_;
  double bits_ = 0, weights_ = 0;
};

class Run {
 public:
  Run(CalibratedModel& model, const CalibrationPlan& plan, const CalibrateOptions& options, CalibrationSink& sink,
      Tally& tally)
      : model_(model),
        plan_(plan),
        options_(options),
        sink_(sink),
        tally_(tally),
        folder_(folder_of(sink)),
        backend_(options.backend ? *options.backend : default_backend()),
        executor_(options.executor ? *options.executor : default_executor()) {}

  void run(std::span<const std::int32_t> ids, std::size_t found) {
    if (found == plan_.count()) return;
    const std::size_t blocks = plan_.blocks(), length = std::min(ids.size(), plan_.sample_tokens());
    const auto starts = sample_starts(ids.size(), options_.samples, plan_.sample_tokens());
    CalibrationStore states(starts.size(), length, model_.width(), options_.cache_bytes, folder_);
    embed(model_, ids, starts, states);
    total_ = kReplayCost * static_cast<double>(found) + static_cast<double>(blocks - found) +
             (plan_.has_head() ? kHeadCost : 0);
    for (std::size_t i = 0; i < blocks; ++i)
      step(states, i < found ? kReplayCost : 1, plan_.block_bytes(i), "block " + std::to_string(i),
           [&](const CalibrationContext& context) {
             const std::unique_ptr<CalibratedBlock> block = model_.block(i);
             check_groups(block->groups());
             if (i < found) replay(context, *block, i);
             else save(i, quantize_block(context, *block));
           });
    if (!plan_.has_head()) return;
    const std::unique_ptr<CalibratedBlock> head = model_.head();
    check_groups(head->groups());
    step(states, kHeadCost, 0, head->groups().front().layers.front().name,
         [&](const CalibrationContext& context) { save(blocks, quantize_head(context, *head)); });
  }

 private:
  /// Does what is to be done with a block. Errors get its name, unless they have it.
  template <class Work>
  void step(CalibrationStore& states, double cost, std::size_t bytes, const std::string& what, const Work& work) {
    const CalibrationContext context = context_for(states, cost, what);
    try {
      needing_memory([&] { return what + " and its calibration"; }, bytes, [&] { work(context); });
    } catch (const Error& e) {
      if (e.code() == ErrorCode::cancelled || e.code() == ErrorCode::out_of_memory) throw;
      throw Error(e.code(), what + ": " + e.what());
    }
    done_ += cost;
  }

  CalibrationContext context_for(CalibrationStore& states, double cost, const std::string& what) const {
    return {options_,
            backend_,
            executor_,
            states,
            folder_,
            [this, cost, what](double fraction, std::string_view message) {
              nibble::report(options_.progress, (done_ + cost * fraction) / total_, what + ", " + std::string(message));
              return true;
            },
            [this](const std::string& layer) { return plan_.method_of(layer); }};
  }

  FinishedBlock quantize_block(const CalibrationContext& context, CalibratedBlock& block) const {
    return options_.method.kind == CalibratedMethod::Kind::awq ? awq_block(context, block) : gptq_block(context, block);
  }

  /// What the run that finished this block left in the states, bit for bit: the kernels are deterministic.
  void replay(const CalibrationContext& context, CalibratedBlock& block, std::size_t index) const {
    if (options_.method.kind == CalibratedMethod::Kind::gptq) {
      FinishedBlock finished = sink_.read(index);
      const std::span<const LayerGroup> groups = block.groups();
      for (FinishedBlock::Layer& done : finished.layers)
        for (std::size_t g = 0; g < groups.size(); ++g)
          for (std::size_t l = 0; l < groups[g].layers.size(); ++l)
            if (groups[g].layers[l].name == done.report.layer) block.replace({g, l}, std::move(done.matrix));
    }
    SequenceStates(context).advance(block, 0, 1);
  }

  void save(std::size_t index, FinishedBlock finished) {
    tally_.add(finished);
    sink_.write(index, std::move(finished));
  }

  CalibratedModel& model_;
  const CalibrationPlan& plan_;
  const CalibrateOptions& options_;
  CalibrationSink& sink_;
  Tally& tally_;
  fs::path folder_;
  const Backend& backend_;
  Executor& executor_;
  double done_ = 0, total_ = 1;
};

/// The figures that are known before the work.
CalibrateReport begin_report(const CalibrationPlan& plan, std::span<const std::int32_t> ids,
                             const CalibrateOptions& options) {
  CalibrateReport out;
  out.blocks = plan.blocks();
  out.samples = sample_starts(ids.size(), options.samples, plan.sample_tokens()).size();
  out.tokens = out.samples * std::min(ids.size(), plan.sample_tokens());
  return out;
}

/// Files beside the output, until it is whole. Nothing is finished of a model that has changed under the run.
class CheckpointSink final : public FolderSink {
 public:
  CheckpointSink(const fs::path& to, bool resume, const Checkpoint& checkpoint)
      : FolderSink(CalibrationFolder::of(to), resume), checkpoint_(checkpoint) {}
  void write(std::size_t index, FinishedBlock block) override {
    checkpoint_.require_intact();
    FolderSink::write(index, std::move(block));
  }
  using FolderSink::files;

 private:
  const Checkpoint& checkpoint_;
};

}  // namespace

CalibrateReport calibrate(CalibratedModel& model, std::span<const std::int32_t> ids, const CalibrateOptions& options,
                          CalibrationSink& sink) {
  const CalibrationPlan plan(model, options);
  plan.check_ids(ids);
  CalibrationSink::Manifest manifest = plan.manifest(ids);
  manifest["model"] = model.fingerprint();
  CalibrateReport out = begin_report(plan, ids, options);
  Tally tally(out);
  const std::size_t found = std::min(sink.begin(manifest, plan.count()), plan.count());
  for (std::size_t i = 0; i < found; ++i) tally.add(sink.read(i));
  out.resumed = std::min(found, plan.blocks());
  Run(model, plan, options, sink, tally).run(ids, found);
  report(options.progress, 1, "calibrated");
  return out;
}

CalibrateReport quantize_calibrated(const fs::path& from, const fs::path& to, CalibratedModel& model,
                                    std::span<const std::int32_t> ids, const CalibrateOptions& options) {
  using Kind = files::OutputKind;
  files::check_outputs({{to, options.resume ? Kind::folder : Kind::new_folder},
                        {CalibrationFolder::of(to), Kind::folder, "the folder of finished blocks"}},
                       {from});
  CalibrationPlan::check(options);
  CalibratedCheckpoint source(from);
  CalibrationPlan plan(model, options);
  source.choose_layout(plan, options);
  plan.check_ids(ids);
  const auto manifest = source.manifest(plan, ids);
  const fs::path blocks = CalibrationFolder::of(to);  // once the output is there, not even a name may fail
  CalibrateReport out = begin_report(plan, ids, options);
  out.layout = source.layout();
  if (files::exists(to)) {
    if (!options.resume || !made_by(to, manifest))
      throw Error(ErrorCode::invalid_argument,
                  "'" + to.string() + "' exists already; remove it or choose another name");
    CalibrationFolder::remove(blocks);
    out.complete_before = true;
    return out;
  }
  CheckpointSink sink(to, options.resume, source.checkpoint());
  const std::size_t found = sink.begin(manifest, plan.count());
  out.resumed = std::min(found, plan.blocks());
  Tally tally(out);
  Run(model, plan, options, sink, tally).run(ids, found);
  report(options.progress, 1, "writing the model");  // the last moment to say no
  source.write(plan, options, sink.files(), manifest, to, out);
  CalibrationFolder::remove(blocks);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
