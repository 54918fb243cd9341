#include "block_passes.h"

#include <algorithm>

namespace nibble::inline NIBBLE_ABI::model {

namespace {

/// The tokens of a routed group that is being shown; empty for another.
std::span<const std::size_t> tokens_of(const CalibratedBlock& block, std::size_t group, std::size_t rows) {
  const LayerGroup& described = block.groups()[group];
  if (!described.routed) return {};
  const std::span<const std::size_t> out = block.tokens_of(group);
  if (out.size() != rows || !std::ranges::is_sorted(out))
    throw Error(ErrorCode::shape_mismatch, "the " + input_name(described) + ": the block showed " +
                                               std::to_string(rows) + " rows and names " + std::to_string(out.size()) +
                                               " tokens, which must be as many, in their order");
  return out;
}

}  // namespace

void BlockPasses::prepare(std::size_t group) {
  keeping_.reset();
  if (resume_at(group) == Resume::with_input)
    keeping_ =
        std::make_unique<CalibrationStore>(c_.states.sequences(), c_.states.tokens(),
                                           groups_[group].layers.front().cols, c_.options.cache_bytes, c_.folder);
}

void BlockPasses::through(std::size_t sequence, MatrixView<float> x, std::size_t first, std::size_t end, Show show) {
  std::size_t next = first;  // to be shown
  pass(sequence, x, [&](std::size_t group, MatrixView<const float> input) {
    if (group != next || next == end) return next < end;
    ++next;
    check_input(groups_[group], input, c_.states.tokens());
    show(group, input);
    if (keeping_) keeping_->write(sequence, input);
    return next < end;
  });
  require_shown(groups_[std::min(next, end - 1)], next == end);
}

void BlockPasses::finish(std::size_t group) {
  if (resume_at(group) == Resume::never) return;
  from_ = group;
  kept_ = std::move(keeping_);
}

void BlockPasses::to_the_end(std::size_t sequence, MatrixView<float> x) {
  pass(sequence, x, [](std::size_t, MatrixView<const float>) { return true; });
}

void BlockPasses::pass(std::size_t sequence, MatrixView<float> x, CalibratedBlock::Listener listen) {
  if (!from_) return block_.run(x, listen);
  if (!kept_) return block_.resume(*from_, {}, x, listen);
  kept_values_.resize(x.rows * kept_->width());
  const MatrixView<float> input(kept_values_.data(), x.rows, kept_->width());
  kept_->read(sequence, input);
  block_.resume(*from_, input, x, listen);
}

void FullPrecision::through(std::size_t sequence, std::size_t first, std::size_t end) {
  first_ = first;
  inputs_.resize(end - first);
  c_.full->read(sequence, states());
  passes_.through(sequence, states(), first, end, [&](std::size_t group, MatrixView<const float> input) {
    Input& to = inputs_[group - first];
    to.rows = input.rows;
    to.cols = input.cols;
    to.values.clear();
    for (std::size_t r = 0; r < input.rows; ++r)
      to.values.insert(to.values.end(), input.row(r).begin(), input.row(r).end());
    const auto tokens = tokens_of(block_, group, input.rows);
    to.tokens.assign(tokens.begin(), tokens.end());
  });
  if (passes_.settles(first)) c_.full->write(sequence, states());
}

void FullPrecision::to_the_end(std::size_t sequence) {
  c_.full->read(sequence, states());
  passes_.to_the_end(sequence, states());
  c_.full->write(sequence, states());
}

MatrixView<const float> FullPrecision::beside(const CalibratedBlock& quantized, std::size_t group,
                                              MatrixView<const float> input) {
  const Input& full = inputs_.at(group - first_);
  if (!quantized.groups()[group].routed) return {full.values.data(), full.rows, full.cols};
  const std::span<const std::size_t> tokens = tokens_of(quantized, group, input.rows);
  paired_.resize(input.rows * input.cols);
  for (std::size_t r = 0, f = 0; r < input.rows; ++r) {
    while (f < full.rows && full.tokens[f] < tokens[r]) ++f;
    const bool both = f < full.rows && full.tokens[f] == tokens[r];
    const float* from = both ? full.values.data() + f * full.cols : input.row(r).data();
    std::copy_n(from, input.cols, paired_.data() + r * input.cols);
  }
  return {paired_.data(), input.rows, input.cols};
}

}  // namespace nibble::inline NIBBLE_ABI::model
