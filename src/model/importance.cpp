#include "nibble/model/importance.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <vector>

#include "calibrate_block.h"
#include "calibrate_plan.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/memory.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

class Collector {
 public:
  Collector(CalibratedModel& model, const ImportanceOptions& options, CalibrationStore& states)
      : model_(model), options_(options), states_(states), values_(states.tokens() * states.width()) {}

  ImportanceMatrix run() {
    const std::size_t steps = model_.blocks() + (options_.head ? 1 : 0);
    for (std::size_t i = 0; i < model_.blocks(); ++i) {
      const std::string what = "block " + std::to_string(i);
      named(what, [&] { observe(*model_.block(i), what, i, steps); });
    }
    if (options_.head) {
      const std::unique_ptr<CalibratedBlock> head = model_.head();
      if (head == nullptr) throw Error(ErrorCode::invalid_argument, "the model has no head whose inputs could be seen");
      named("the head", [&] { observe(*head, "the head", steps - 1, steps); });
    }
    return std::move(found_);
  }

 private:
  /// Does one step. Errors get its name.
  template <class Work>
  static void named(const std::string& what, const Work& work) {
    try {
      needing_memory([&] { return what; }, 0, work);
    } catch (const Error& e) {
      if (e.code() == ErrorCode::cancelled || e.code() == ErrorCode::out_of_memory) throw;
      throw Error(e.code(), what + ": " + e.what());
    }
  }

  /// Sends all sequences through a block, and counts what its layers are given.
  void observe(CalibratedBlock& block, const std::string& what, std::size_t step, std::size_t steps) {
    const std::span<const LayerGroup> groups = block.groups();
    check_groups(groups);
    const MatrixView<float> x(values_.data(), states_.tokens(), states_.width());
    for (std::size_t s = 0; s < states_.sequences(); ++s) {
      const double part = static_cast<double>(s) / static_cast<double>(states_.sequences());
      report(options_.progress, (static_cast<double>(step) + part) / static_cast<double>(steps), what);
      states_.read(s, x);
      block.run(x, [&](std::size_t g, MatrixView<const float> input) {
        check_input(groups[g], input, states_.tokens());
        add(groups[g], input);
        return true;
      });
      states_.write(s, x);
    }
  }

  void add(const LayerGroup& group, MatrixView<const float> input) {
    for (const CalibratedLayer& layer : group.layers) {
      const ImportancePlace place =
          options_.place ? options_.place(layer.name) : ImportancePlace{layer.name + ".weight"};
      found_.add(place.weight, input, place.expert, place.experts);
    }
  }

  CalibratedModel& model_;
  const ImportanceOptions& options_;
  CalibrationStore& states_;
  std::vector<float> values_;
  ImportanceMatrix found_;
};

}  // namespace

ImportanceMatrix importance(CalibratedModel& model, std::span<const std::int32_t> ids,
                            const ImportanceOptions& options) {
  if (options.samples == 0 || options.sample_tokens < 2)
    throw Error(ErrorCode::invalid_argument, std::to_string(options.samples) + " samples of " +
                                                 std::to_string(options.sample_tokens) +
                                                 " tokens; at least one of two tokens is needed");
  check_ids(model, ids);
  const std::size_t length = sample_length(model, options.sample_tokens);
  const auto starts = sample_starts(ids.size(), options.samples, length);
  CalibrationStore states(starts.size(), std::min(ids.size(), length), model.width(), options.cache_bytes,
                          spill_folder());
  embed(model, ids, starts, states);
  ImportanceMatrix out = Collector(model, options, states).run();
  out.chunk_size = static_cast<std::uint32_t>(states.tokens());
  out.chunk_count = static_cast<std::uint32_t>(states.sequences());
  report(options.progress, 1, "observed");
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
