#include "nibble/llama/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::llama {
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
  EXPECT_NEAR(evaluate(model(), ids, compare).kl_mean(), 0, 1e-12);
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
}  // namespace nibble::llama
