#include "nibble/engine/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::engine {
namespace {

using namespace testing_support;

std::vector<std::int32_t> text_ids(std::size_t count) {
  std::ifstream in(NIBBLE_EXAMPLE_DATA "/evaluation.txt", std::ios::binary);
  std::vector<std::int32_t> ids;
  for (char c; ids.size() < count && in.get(c);) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

EvaluateOptions windows(std::size_t window, std::size_t stride) {
  EvaluateOptions o;
  o.window = window, o.stride = stride;
  return o;
}

const Model& model() {
  static const Model m = Model::load(NIBBLE_EXAMPLE_DATA "/austen-5m");
  return m;
}

/// −ln p(ids[target]) given the tokens from `begin`, in double, a forward pass each.
double surprise(std::span<const std::int32_t> ids, std::size_t begin, std::size_t target) {
  KvCache cache(model().config(), target - begin);
  const auto logits = model().forward(ids.subspan(begin, target - begin), cache, true);
  double sum = 0;
  for (const float l : logits) sum += std::exp(static_cast<double>(l - logits[0]));
  return std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(ids[target])] - logits[0]);
}

TEST(Evaluate, SlidesAsTheDefinitionSays) {
  const auto ids = text_ids(50);
  for (const auto& [window, stride] :
       {std::pair<std::size_t, std::size_t>{50, 50}, {16, 16}, {16, 5}, {7, 1}, {64, 3}}) {
    double nll = 0;
    std::size_t predicted = 0, next = 1;
    for (std::size_t begin = 0; next < ids.size() && begin + 1 < ids.size(); begin += stride) {
      const std::size_t end = std::min(begin + window, ids.size());
      for (std::size_t t = std::max(next, begin + 1); t < end; ++t, ++predicted) nll += surprise(ids, begin, t);
      next = end;
    }
    const Evaluation e = evaluate(model(), ids, windows(window, stride));
    EXPECT_EQ(e.predicted, predicted) << window << ", " << stride;
    EXPECT_NEAR(e.nll, nll, 1e-4 * nll) << window << ", " << stride;
    EXPECT_DOUBLE_EQ(e.perplexity(), std::exp(e.nll / static_cast<double>(e.predicted)));
  }
}

TEST(Evaluate, DivergenceIsFromTheReference) {
  const TemporaryFolder folder;
  const auto ids = text_ids(600);
  auto save = windows(256, 256), compare = save;
  save.save_reference = folder / "reference";
  compare.compare_reference = folder / "reference";
  (void)evaluate(model(), ids, save);
  // A reference row is a distribution whose logarithms differ from the model's by a step of range / 65535 at most.
  const double self = evaluate(model(), ids, compare).kl_mean(), step = 40.0 / 65535;
  EXPECT_GE(self, -1e-12);
  EXPECT_LT(self, step * step);
  EXPECT_EQ(evaluate(model(), ids, compare).kl_predictions, 600u - 3u);
  LoadOptions load;
  load.quantize = QuantSpec::parse("int3-g32-sym");
  const Model rough = Model::load(NIBBLE_EXAMPLE_DATA "/austen-5m", load);
  EXPECT_GT(evaluate(rough, ids, compare).kl_mean(), 1e-3);

  const auto corrupt = [&](std::span<const std::int32_t> text, EvaluateOptions o, const std::string& says) {
    o.compare_reference = folder / "reference";
    expect_error(ErrorCode::corrupt_file, says, [&] { (void)evaluate(model(), text, o); });
  };
  corrupt(std::span(ids).first(599), windows(256, 256), "is not a reference for this text");
  corrupt(ids, windows(128, 128), "is not a reference for this text");
  std::filesystem::resize_file(folder / "reference", std::filesystem::file_size(folder / "reference") - 1);
  corrupt(ids, windows(256, 256), "ends early");
}

/// KL(p ‖ q) of two models over a text of one window, from their logits in double.
double exact_divergence(const Model& p, const Model& q, std::span<const std::int32_t> ids) {
  const std::size_t vocab = p.config().vocab;
  KvCache a(p.config(), ids.size()), b(q.config(), ids.size());
  const auto left = p.forward(ids, a), right = q.forward(ids, b);
  double sum = 0;
  for (std::size_t t = 0; t + 1 < ids.size(); ++t) {
    double za = 0, zb = 0;
    for (std::size_t i = 0; i < vocab; ++i) {
      za += std::exp(static_cast<double>(left[t * vocab + i]));
      zb += std::exp(static_cast<double>(right[t * vocab + i]));
    }
    for (std::size_t i = 0; i < vocab; ++i) {
      const double lp = static_cast<double>(left[t * vocab + i]) - std::log(za);
      sum += std::exp(lp) * (lp - static_cast<double>(right[t * vocab + i]) + std::log(zb));
    }
  }
  return sum / static_cast<double>(ids.size() - 1);
}

TEST(Evaluate, SixteenBitsAreEnoughForTheDivergence) {
  const TemporaryFolder folder;
  const auto ids = text_ids(256);
  auto save = windows(256, 256), compare = save;
  save.save_reference = folder / "reference";
  compare.compare_reference = folder / "reference";
  (void)evaluate(model(), ids, save);
  LoadOptions load;
  load.quantize = QuantSpec::parse("int8");  // a divergence of 1e-5, the smallest that the tool shows
  const Model other = Model::load(NIBBLE_EXAMPLE_DATA "/austen-5m", load);
  const double exact = exact_divergence(model(), other, ids);
  EXPECT_GT(exact, 1e-6);
  EXPECT_NEAR(evaluate(other, ids, compare).kl_mean(), exact, 2e-7);
  EXPECT_LT(std::filesystem::file_size(folder / "reference"), 256u * (2 * 256 + 8) + 100);
}

// Window by window, and what a mean of so many windows is worth.
TEST(Evaluate, SaysHowSureItIs) {
  const TemporaryFolder folder;
  const auto ids = text_ids(600);  // nine windows of 64, and one of 24
  auto save = windows(64, 64), compare = save;
  save.save_reference = folder / "reference";
  compare.compare_reference = folder / "reference";
  const Evaluation whole = evaluate(model(), ids, save);
  LoadOptions load;
  load.quantize = QuantSpec::parse("int3-g32-sym");
  const Model other = Model::load(NIBBLE_EXAMPLE_DATA "/austen-5m", load);
  const Evaluation changed = evaluate(other, ids, compare);

  const double loss = whole.nll / static_cast<double>(whole.predicted);
  const double change = changed.nll / static_cast<double>(changed.predicted) - loss;
  double squares = 0, change_squares = 0, count = 0;
  for (std::size_t begin = 0; begin < ids.size(); begin += 64) {
    const auto given = std::span(ids).subspan(begin, std::min<std::size_t>(64, ids.size() - begin));
    const Evaluation a = evaluate(model(), given, windows(64, 64)), b = evaluate(other, given, windows(64, 64));
    const auto n = static_cast<double>(a.predicted);
    squares += std::pow(a.nll - loss * n, 2);
    change_squares += std::pow(b.nll - a.nll - change * n, 2);
    count += n;
    EXPECT_EQ(a.loss_error, 0) << "one window says nothing of others";
  }
  EXPECT_NEAR(whole.loss_error, std::sqrt(squares * 10 / 9) / count, 1e-9);
  EXPECT_NEAR(whole.perplexity_error(), whole.perplexity() * whole.loss_error, 1e-12);
  EXPECT_NEAR(changed.loss_change, change, 1e-4);
  EXPECT_NEAR(changed.perplexity_change(), changed.perplexity() / whole.perplexity() - 1, 1e-4);
  EXPECT_NEAR(changed.loss_change_error, std::sqrt(change_squares * 10 / 9) / count, 1e-4);
  EXPECT_LT(changed.loss_change_error, changed.loss_error / 2) << "what the texts have in common cancels";
  EXPECT_GT(changed.kl_error, 0);
  EXPECT_LT(changed.kl_error, changed.kl_mean());
  EXPECT_EQ(whole.kl_error, 0);
  EXPECT_EQ(whole.loss_change, 0);
}

TEST(Evaluate, AReferenceKeepsWhatItsLimitHolds) {
  const TemporaryFolder folder;
  const auto ids = text_ids(300);
  auto save = windows(128, 128), compare = save;
  save.save_reference = folder / "reference";
  save.reference_limit = 100 * (2 * 256 + 8) + 7;
  compare.compare_reference = folder / "reference";
  (void)evaluate(model(), ids, save);
  EXPECT_LT(std::filesystem::file_size(folder / "reference"), save.reference_limit + 100);
  const Evaluation e = evaluate(model(), ids, compare);
  EXPECT_EQ(e.kl_predictions, 100u);
  EXPECT_EQ(e.predicted, 300u - 3u);
  save.reference_limit = 500;
  expect_error(ErrorCode::invalid_argument, "raise its limit", [&] { (void)evaluate(model(), ids, save); });
}

TEST(Evaluate, RefusesWhatPredictsNothing) {
  const auto ids = text_ids(10);
  const auto refuse = [&](std::size_t tokens, std::size_t window, std::size_t stride, const char* says) {
    expect_error(ErrorCode::invalid_argument, says,
                 [&] { (void)evaluate(model(), std::span(ids).first(tokens), windows(window, stride)); });
  };
  refuse(0, 8, 8, "a text of 0 tokens");
  refuse(1, 8, 8, "a text of 1 tokens");
  refuse(10, 1, 1, "window 1");
  refuse(10, 8, 0, "stride 0");
  refuse(10, 8, 9, "stride 9");
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::engine
