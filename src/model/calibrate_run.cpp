#include "calibrate_run.h"

#include <algorithm>

#include "calibrate_block.h"
#include "nibble/core/impl/memory.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

/// What a block that is only run again costs, next to one that is quantized; and what the head does.
constexpr double kReplayCost = 0.2, kHeadCost = 0.5;

std::optional<LayerId> find_layer(std::span<const LayerGroup> groups, const std::string& name) {
  for (std::size_t g = 0; g < groups.size(); ++g)
    for (std::size_t l = 0; l < groups[g].layers.size(); ++l)
      if (groups[g].layers[l].name == name) return LayerId{g, l};
  return std::nullopt;
}

/// The folder of a sink that has one, or the system's.
fs::path folder_of(const CalibrationSink& sink) {
  fs::path out = sink.folder();
  return out.empty() ? spill_folder() : out;
}

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
    std::optional<CalibrationStore> full;
    if (plan_.corrects_inputs()) full.emplace(starts.size(), length, model_.width(), options_.cache_bytes, folder_);
    embed(model_, ids, starts, states, full ? &*full : nullptr);
    full_ = full ? &*full : nullptr;
    total_ = kReplayCost * static_cast<double>(found) + static_cast<double>(blocks - found) +
             (plan_.has_head() ? kHeadCost : 0);
    for (std::size_t i = 0; i < blocks; ++i)
      step(states, i < found ? kReplayCost : 1, plan_.block_bytes(i) * (full_ != nullptr ? 2 : 1),
           "block " + std::to_string(i), [&](const CalibrationContext& context) {
             const std::unique_ptr<CalibratedBlock> block = model_.block(i);
             check_groups(block->groups());
             if (i < found) replay(context, *block, i);
             else save(i, quantize_block(context, *block, full_ != nullptr ? model_.block(i).get() : nullptr));
           });
    if (!plan_.has_head()) return;
    const std::unique_ptr<CalibratedBlock> head = model_.head();
    check_groups(head->groups());
    const std::unique_ptr<CalibratedBlock> full_head = full_ != nullptr ? model_.head() : nullptr;
    step(states, kHeadCost, 0, head->groups().front().layers.front().name,
         [&](const CalibrationContext& context) { save(blocks, quantize_head(context, *head, full_head.get())); });
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
            full_,
            folder_,
            [this, cost, what](double fraction, std::string_view message) {
              nibble::report(options_.progress, (done_ + cost * fraction) / total_, what + ", " + std::string(message));
              return true;
            },
            [this](const std::string& layer) { return plan_.method_of(layer); }};
  }

  FinishedBlock quantize_block(const CalibrationContext& context, CalibratedBlock& block, CalibratedBlock* full) const {
    return options_.method.kind == CalibratedMethod::Kind::awq ? awq_block(context, block)
                                                               : gptq_block(context, block, full);
  }

  /// What the run that finished this block left in the states, bit for bit: the kernels are deterministic.
  void replay(const CalibrationContext& context, CalibratedBlock& block, std::size_t index) const {
    if (full_ != nullptr) SequenceStates(context, *full_).advance(block, 0, 0.5);  // before its weights are replaced
    if (options_.method.kind == CalibratedMethod::Kind::gptq) {
      FinishedBlock finished = sink_.read(index);
      for (FinishedBlock::Layer& done : finished.layers)
        if (const auto id = find_layer(block.groups(), done.report.layer)) put(block, *id, std::move(done));
    }
    SequenceStates(context).advance(block, full_ != nullptr ? 0.5 : 0, 1);
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
  CalibrationStore* full_ = nullptr;  ///< The full-precision model's states, while run() has them.
  const Backend& backend_;
  Executor& executor_;
  double done_ = 0, total_ = 1;
};

}  // namespace

void Tally::add(const FinishedBlock& block) {
  for (const FinishedBlock::Layer& l : block.layers) {
    const std::size_t rows = l.has_blocks() ? l.blocks.rows : l.matrix.rows;
    const auto count = static_cast<double>(rows) * static_cast<double>(l.has_blocks() ? l.blocks.cols : l.matrix.cols);
    bits_ +=
        (l.has_blocks() ? l.blocks.bits_per_weight() : l.matrix.spec.bits_per_weight(l.matrix.rows, l.matrix.cols)) *
        count;
    weights_ += count;
    report_.layers.push_back(l.report);
  }
  if (weights_ > 0) report_.bits_per_weight = bits_ / weights_;
}

CalibrateReport begin_report(const CalibrationPlan& plan, std::span<const std::int32_t> ids,
                             const CalibrateOptions& options) {
  CalibrateReport out;
  out.blocks = plan.blocks();
  out.samples = sample_starts(ids.size(), options.samples, plan.sample_tokens()).size();
  out.tokens = out.samples * std::min(ids.size(), plan.sample_tokens());
  return out;
}

void run_blocks(CalibratedModel& model, const CalibrationPlan& plan, std::span<const std::int32_t> ids,
                const CalibrateOptions& options, std::size_t found, CalibrationSink& sink, Tally& tally) {
  Run(model, plan, options, sink, tally).run(ids, found);
}

}  // namespace nibble::inline NIBBLE_ABI::model
