// The loop of a fine-tune, with a model of a few numbers: order, accumulation, checkpoints, and what ends a run.
#include "nibble/train/finetune.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "nibble/core/error.h"
#include "nibble/format/safetensors.h"
#include "tests/support/temporary_folder.h"

namespace nibble::train {
namespace {

namespace fs = std::filesystem;
using testing_support::TemporaryFolder;

constexpr std::size_t kVocabulary = 300;

/// Each token has a weight; a target's loss is ½(weight + noise − place)², the noise a function of the pass.
class Toy final : public Trainable {
 public:
  std::vector<Parameter> parameters() override { return {{"weights", weights, gradient}}; }
  void clear_gradients() override { std::ranges::fill(gradient, 0.0f); }
  Loss add_gradients(const Row& row, std::uint64_t pass) override {
    rows.push_back(row);
    passes.push_back(pass);
    return go(row, static_cast<float>(pass % 7) * noise, true);
  }
  Loss loss(const Row& row) override { return go(row, 0, false); }
  void save(const fs::path& folder) const override { std::ofstream(folder / "toy") << weights[0]; }

  std::vector<float> weights = std::vector<float>(kVocabulary, 0.5f), gradient = std::vector<float>(kVocabulary);
  std::vector<Row> rows;
  std::vector<std::uint64_t> passes;
  std::size_t poison_at = std::numeric_limits<std::size_t>::max();  ///< A pass whose gradient is no number.
  bool poison_loss = false;
  float noise = 0.01f;

 private:
  Loss go(const Row& row, float shift, bool train) {
    Loss out;
    const std::vector<std::size_t> targets = targets_of(row);
    const bool bad = train && passes.size() == poison_at + 1;
    for (std::size_t t = 0; t < targets.size(); ++t) {
      if (targets[t] == kNoTarget) continue;
      const float off = weights[targets[t]] + shift - static_cast<float>(targets[t] % 3);
      if (train) gradient[targets[t]] += bad ? NAN : off;
      out.sum += static_cast<double>(off * off) / 2;
      ++out.targets;
    }
    if (bad && poison_loss) out.sum = NAN;
    return out;
  }
};

std::vector<Row> rows_of(std::size_t count) {
  std::vector<Row> out;
  for (std::size_t i = 0; i < count; ++i) {
    Sample s;
    for (std::size_t t = 0; t < 3 + i % 4; ++t) {
      s.ids.push_back(static_cast<std::int32_t>((i * 31 + t * 7) % kVocabulary));
      s.trained.push_back(t == 1 && i % 2 == 0 ? 0 : 1);
    }
    out.emplace_back().append(s);
  }
  return out;
}

FinetuneOptions options_of(std::size_t accumulation = 3) {
  FinetuneOptions o;
  o.epochs = 2;
  o.batch = 2;
  o.accumulation = accumulation;
  o.learning_rate = 0.05;
  o.optimizer.min_8bit_size = 256;
  return o;
}

TEST(Finetune, GoesThroughEachRowOnceAnEpoch) {
  Toy toy;
  const std::vector<Row> rows = rows_of(20);
  const FinetuneReport report = finetune(toy, rows, {}, options_of());
  EXPECT_EQ(report.steps, 8u);  // 20 rows of 2 × 3 a step are 4 steps an epoch
  EXPECT_EQ(steps_of(options_of(), 20), 8u);
  ASSERT_EQ(toy.rows.size(), 20u);  // 10 passes an epoch
  for (std::size_t i = 0; i < 20; ++i) EXPECT_EQ(toy.passes[i] % 3, i % 10 % 3);
  EXPECT_EQ(std::set<std::uint64_t>(toy.passes.begin(), toy.passes.end()).size(), 20u);
  for (const std::size_t epoch : {std::size_t{0}, std::size_t{10}}) {
    std::vector<std::vector<std::int32_t>> seen, all;
    for (const Row& row : rows) all.push_back(row.ids);
    for (std::size_t i = epoch; i < epoch + 10; ++i) {
      ASSERT_EQ(toy.rows[i].starts.size(), 2u);
      const auto second = toy.rows[i].ids.begin() + static_cast<std::ptrdiff_t>(toy.rows[i].starts[1]);
      seen.push_back({toy.rows[i].ids.begin(), second});
      seen.push_back({second, toy.rows[i].ids.end()});
    }
    std::ranges::sort(seen);
    std::ranges::sort(all);
    EXPECT_EQ(seen, all);
  }
  EXPECT_NE(toy.rows[0].ids, toy.rows[10].ids) << "every epoch has the same order";
}

TEST(Finetune, HowAStepIsCutIntoPassesChangesRoundingOnly) {
  Toy one, three;
  one.noise = three.noise = 0;
  FinetuneOptions joined = options_of(1);
  joined.batch = 6;
  const std::vector<Row> rows = rows_of(24);
  finetune(one, rows, {}, joined);
  finetune(three, rows, {}, options_of(3));
  double most = 0;
  for (std::size_t i = 0; i < kVocabulary; ++i)
    most = std::max(most, static_cast<double>(std::abs(one.weights[i] - three.weights[i])));
  EXPECT_LT(most, 1e-6);
}

TEST(Finetune, ReportsStepsAsTheyAre) {
  Toy toy;
  std::vector<StepRecord> records;
  FinetuneOptions o = options_of();
  o.warmup = 0.25;
  o.evaluate_every = 3;
  o.on_step = [&](const StepRecord& r) {
    records.push_back(r);
    return true;
  };
  const std::vector<Row> rows = rows_of(20), held = rows_of(5);
  const FinetuneReport report = finetune(toy, rows, held, o);
  ASSERT_EQ(records.size(), 8u);
  EXPECT_EQ(records[0].learning_rate, 0);  // as transformers' warm-up
  EXPECT_EQ(records[2].learning_rate, 0.05);
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(records[i].step, i + 1);
    EXPECT_EQ(records[i].steps, 8u);
    EXPECT_DOUBLE_EQ(records[i].epoch, static_cast<double>(i + 1) / 4);
    EXPECT_EQ(records[i].evaluation_loss.has_value(), i == 2 || i == 5 || i == 7) << i;
    EXPECT_GT(records[i].targets, 0u);
    EXPECT_GE(records[i].tokens, records[i].targets);
  }
  EXPECT_EQ(report.evaluation_after, records[7].evaluation_loss);
  EXPECT_LT(*report.evaluation_after, *report.evaluation_before);
  EXPECT_EQ(report.first_loss, records[0].loss);
  EXPECT_EQ(report.last_loss, records[7].loss);
}

/// Everything that a run leaves, its optimizer's state included.
std::string state_of(const fs::path& checkpoint) {
  std::ifstream in(checkpoint / "training_state.safetensors", std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Finetune, StoppedAfterAnyStepAndResumedGivesTheSameBytes) {
  const std::vector<Row> rows = rows_of(20);
  for (const int bits : {32, 8}) {
    const TemporaryFolder folder;
    Toy whole;
    FinetuneOptions o = options_of();
    o.optimizer.state_bits = bits;
    o.checkpoints = folder / "whole";
    finetune(whole, rows, {}, o);
    for (std::size_t stop = 1; stop < 8; ++stop) {
      Toy first, second;
      o.checkpoints = folder / ("stopped" + std::to_string(stop));
      o.resume = false;
      o.on_step = [&](const StepRecord& r) { return r.step != stop; };
      const FinetuneReport report = finetune(first, rows, {}, o);
      EXPECT_TRUE(report.stopped);
      EXPECT_EQ(report.steps, stop);
      EXPECT_EQ(report.last_checkpoint, o.checkpoints / ("checkpoint-" + std::to_string(stop)));
      o.resume = true;
      o.on_step = {};
      const FinetuneReport rest = finetune(second, rows, {}, o);
      EXPECT_EQ(rest.resumed_at, stop);
      EXPECT_FALSE(rest.stopped);
      EXPECT_EQ(second.weights, whole.weights);
      EXPECT_EQ(state_of(o.checkpoints / "checkpoint-8"), state_of(folder / "whole" / "checkpoint-8"));
    }
  }
}

TEST(Finetune, StoppedWithinAStepGoesBackToItsBeginning) {
  const TemporaryFolder folder;
  const std::vector<Row> rows = rows_of(20);
  Toy whole, first, second;
  finetune(whole, rows, {}, options_of());
  FinetuneOptions o = options_of();
  o.checkpoints = folder / "run";
  o.stopped = [&] { return first.passes.size() == 5; };
  const FinetuneReport report = finetune(first, rows, {}, o);
  EXPECT_TRUE(report.stopped);
  EXPECT_EQ(report.steps, 1u);
  o.stopped = {};
  o.resume = true;
  finetune(second, rows, {}, o);
  EXPECT_EQ(second.weights, whole.weights);
}

TEST(Finetune, KeepsTheLastCheckpoints) {
  const TemporaryFolder folder;
  Toy toy;
  FinetuneOptions o = options_of();
  o.checkpoints = folder / "run";
  o.checkpoint_every = 1;
  finetune(toy, rows_of(20), {}, o);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(o.checkpoints)) names.insert(entry.path().filename().string());
  EXPECT_EQ(names, (std::set<std::string>{"checkpoint-7", "checkpoint-8"}));
  EXPECT_TRUE(fs::exists(o.checkpoints / "checkpoint-8" / "toy"));
  // A run that is complete is complete when it is resumed.
  o.resume = true;
  Toy again;
  const FinetuneReport report = finetune(again, rows_of(20), {}, o);
  EXPECT_EQ(report.resumed_at, 8u);
  EXPECT_EQ(again.weights, toy.weights);
  EXPECT_TRUE(again.passes.empty());
}

std::string said(const auto& call, ErrorCode code) {
  try {
    call();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "nothing";
}
bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(Finetune, NamesWhatDiffersOfARunThatItShallGoOnFrom) {
  const TemporaryFolder folder;
  const std::vector<Row> rows = rows_of(20);
  FinetuneOptions o = options_of();
  o.checkpoints = folder / "run";
  Toy toy;
  finetune(toy, rows, {}, o);
  EXPECT_TRUE(has(said([&] { finetune(toy, rows, {}, o); }, ErrorCode::invalid_argument), "earlier run"));
  o.resume = true;
  const auto differs = [&](const char* what, const FinetuneOptions& other, std::span<const Row> data) {
    Toy fresh;
    const std::string text = said([&] { finetune(fresh, data, {}, other); }, ErrorCode::invalid_argument);
    EXPECT_TRUE(has(text, what)) << text;
    EXPECT_EQ(fresh.weights, Toy().weights);
  };
  FinetuneOptions other = o;
  other.batch = 3;
  differs("its batch is 2, and here it is 3", other, rows);
  other = o;
  other.learning_rate = 0.06;
  differs("its learning_rate is 0.05, and here it is 0.06", other, rows);
  other = o;
  other.optimizer.rule = LionOptions{};
  differs("beta2", other, rows);
  std::vector<Row> changed = rows;
  changed[3].ids[0] += 1;
  differs("its rows is", o, changed);
}

TEST(Finetune, RefusesCheckpointsThatAreNotWhole) {
  const TemporaryFolder folder;
  const std::vector<Row> rows = rows_of(20);
  FinetuneOptions o = options_of();
  o.checkpoints = folder / "run";
  Toy toy;
  finetune(toy, rows, {}, o);
  o.resume = true;
  const fs::path state = o.checkpoints / "checkpoint-8" / "training_state.safetensors";
  const SafetensorsFile file(state);
  const auto rewritten = [&](const auto& change) {
    std::vector<TensorInfo> infos = file.tensors();
    std::map<std::string, std::string> metadata = file.metadata();
    change(infos, metadata);
    std::vector<std::pair<std::string, Buffer>> data;
    for (const TensorInfo& t : infos) {
      Buffer bytes = Buffer::allocate(t.shape[0] * size_of(t.type));
      data.emplace_back(t.name, std::move(bytes));
    }
    fs::remove(state);
    SafetensorsWriter writer(state, infos, metadata);
    for (const auto& [name, bytes] : data) writer.write(name, {bytes.data(), bytes.size()});
    writer.finish();
    Toy fresh;
    const std::string text = said([&] { finetune(fresh, rows, {}, o); }, ErrorCode::corrupt_file);
    EXPECT_EQ(fresh.weights, Toy().weights);
    return text;
  };
  EXPECT_TRUE(has(rewritten([](auto& infos, auto&) { infos.pop_back(); }), "not there"));
  EXPECT_TRUE(has(rewritten([](auto& infos, auto&) { infos[0].shape[0] += 1; }), "another type or shape"));
  EXPECT_TRUE(has(rewritten([](auto&, auto& metadata) { metadata["step"] = "8x"; }), "no number"));
  EXPECT_TRUE(has(rewritten([](auto&, auto& metadata) { metadata.erase("nibble_training_state"); }), "not stated"));
  std::ofstream(state, std::ios::trunc) << "no tensors";
  Toy fresh;
  said([&] { finetune(fresh, rows, {}, o); }, ErrorCode::corrupt_file);
}

TEST(Finetune, WhatIsNoNumberEndsTheRunWhereItWasRight) {
  const std::vector<Row> rows = rows_of(20);
  for (const bool loss : {false, true}) {
    const TemporaryFolder folder;
    Toy good, toy;
    FinetuneOptions o = options_of();
    o.checkpoints = folder / "good";
    o.on_step = [](const StepRecord& r) { return r.step != 2; };
    finetune(good, rows, {}, o);
    toy.poison_at = 7;  // within the third step
    toy.poison_loss = loss;
    o.checkpoints = folder / "run";
    o.on_step = {};
    const std::string text = said([&] { finetune(toy, rows, {}, o); }, ErrorCode::non_finite);
    EXPECT_TRUE(has(text, "step 3") && has(text, "checkpoint-2")) << text;
    EXPECT_TRUE(has(text, loss ? "the loss is" : "'weights'")) << text;
    EXPECT_EQ(toy.weights, good.weights);
    EXPECT_EQ(state_of(folder / "run" / "checkpoint-2"), state_of(folder / "good" / "checkpoint-2"));
  }
}

TEST(Finetune, RefusesWhatCannotBeTrained) {
  Toy toy;
  const auto refused = [&](const auto& change, std::vector<Row> rows) {
    FinetuneOptions o = options_of();
    change(o);
    return said([&] { finetune(toy, rows, {}, o); }, ErrorCode::invalid_argument);
  };
  const auto nothing = [](FinetuneOptions&) {};
  EXPECT_TRUE(has(refused(nothing, {}), "no rows"));
  std::vector<Row> without = rows_of(3);
  std::ranges::fill(without[1].trained, std::uint8_t{0});
  EXPECT_TRUE(has(refused(nothing, without), "row 1"));
  EXPECT_TRUE(has(refused([](auto& o) { o.epochs = 0; }, rows_of(3)), "epochs"));
  EXPECT_TRUE(has(refused([](auto& o) { o.batch = 0; }, rows_of(3)), "batch"));
  EXPECT_TRUE(has(refused([](auto& o) { o.learning_rate = NAN; }, rows_of(3)), "learning_rate"));
  EXPECT_TRUE(has(refused([](auto& o) { o.resume = true; }, rows_of(3)), "folder"));
  EXPECT_TRUE(has(refused([](auto& o) { o.warmup = 2; }, rows_of(3)), "warm-up"));
  EXPECT_EQ(toy.weights, Toy().weights);
}

}  // namespace
}  // namespace nibble::train
