// GPTQ with its options and AWQ on a fixed random layer, by whichever nibble the flags give it (results.cpp).
#include "nibble/quantize/quantize.h"
#include "nibble/solver/awq.h"
#include "nibble/solver/gptq.h"
#include "results.h"

namespace {

using nibble::MatrixView;

constexpr std::size_t kRows = 72, kCols = 640, kTokens = 900;

/// Tokens whose channels have to do with each other and differ in size; one is never active.
std::vector<float> inputs(std::uint32_t skip) {
  std::vector<float> x = results::bell(kTokens * kCols, skip);
  for (std::size_t t = 0; t < kTokens; ++t)
    for (std::size_t c = 0; c < kCols; ++c) {
      float& v = x[t * kCols + c];
      const float before = c % 5 == 0 ? 0.0f : x[t * kCols + c - 1] / 2;
      v = c == 100 ? 0.0f : (v + before) / static_cast<float>(1 + c % 7);
    }
  return x;
}

void gptq(const char* name, const std::vector<float>& weights, const nibble::Hessian& h, nibble::gptq::Options o) {
  results::Line line(std::string("gptq/") + name);
  const MatrixView<const float> w(weights.data(), kRows, kCols);
  const auto [q, report] = nibble::gptq::solve(w, h, o);
  line.add(q.codes.data(), q.codes.size());
  line.add(q.scales.data(), q.scales.size());
  line.add(q.zero_points.data(), q.zero_points.size());
  line.add(q.g_idx);
  line.add(report.loss);
  line.add(report.damp_percent);
  line.add(nibble::gptq::layer_loss(w, q, h));
  for (const std::string& step : report.recovery) line.add(step.data(), step.size());
  line.add(report.fallback.data(), report.fallback.size());
}

void awq(const std::vector<float>& weights, const std::vector<float>& x) {
  nibble::awq::ActivationStats stats(kCols, "activations", 300);
  stats.add(MatrixView<const float>(x.data(), kTokens, kCols));
  const nibble::awq::LinearWeights linears[] = {
      {"first", MatrixView<const float>(weights.data(), kRows / 2, kCols)},
      {"second", MatrixView<const float>(weights.data() + kRows / 2 * kCols, kRows / 2, kCols)}};
  for (const char* spec : {"int4-g128-asym", "int3-g64-sym"})
    for (const bool duo : {false, true}) {
      results::Line line(std::string("awq/") + spec + (duo ? "/duo" : ""));
      const auto scales =
          nibble::awq::search_scales(linears, stats, {.spec = nibble::QuantSpec::parse(spec), .duo_scaling = duo});
      line.add(scales.scales);
      line.add(scales.losses);
      line.add(scales.ratio);
      std::vector<float> scaled = weights;
      nibble::awq::scale_columns({scaled.data(), kRows, kCols}, scales.scales);
      const auto limits = nibble::awq::search_clip({"scaled", MatrixView<const float>(scaled.data(), kRows, kCols)},
                                                   stats, {.spec = nibble::QuantSpec::parse(spec)});
      line.add(limits);
      nibble::awq::apply_clip({scaled.data(), kRows, kCols}, limits, nibble::QuantSpec::parse(spec).group_size);
      const auto q = nibble::quantize(MatrixView<const float>(scaled.data(), kRows, kCols), spec);
      line.add(q.codes.data(), q.codes.size());
    }
}

}  // namespace

void results::solve() {
  const std::vector<float> weights = bell(kRows * kCols, 11), x = inputs(12), full = inputs(13);
  const MatrixView<const float> tokens(x.data(), kTokens, kCols), precise(full.data(), kTokens, kCols);
  nibble::Hessian h(kCols), both(kCols, "activations", true), few(kCols);
  h.add(tokens);
  both.add(tokens, precise);
  few.add(tokens.row_range(0, 40));  // far from full rank
  gptq("default", weights, h, {});
  gptq("asymmetric", weights, h, {.bits = 3, .group_size = 64, .symmetric = false});
  gptq("a long group", weights, h, {.group_size = 320, .symmetric = false});
  gptq("rows", weights, h, {.bits = 8, .group_size = -1, .scale_type = nibble::ScaleType::f32});
  gptq("act-order", weights, h, {.act_order = true});
  gptq("static groups", weights, h, {.group_size = 32, .act_order = true, .static_groups = true});
  gptq("group-aware", weights, h, {.symmetric = false, .act_group_aware = true});
  gptq("grid search", weights, h, {.bits = 3, .group_size = 40, .symmetric = false, .grid_search = true});
  gptq("refit", weights, both, {.bits = 2, .group_size = 40, .symmetric = false, .refit_scales = true});
  gptq("compat", weights, h, {.group_size = 48, .compat = true});
  gptq("GPTAQ", weights, both, {.alpha = 0.25});
  gptq("Qronos", weights, both, {.bits = 3, .act_order = true, .qronos = true});
  gptq("fp64", weights, h, {.bits = 4, .group_size = 320, .grid_search = true, .double_precision = true});
  gptq("fp64 GPTAQ", weights, both, {.alpha = 1, .double_precision = true});
  gptq("fp64 Qronos", weights, both, {.qronos = true, .double_precision = true});
  gptq("few tokens", weights, few, {.damp_percent = 0});
  gptq("no tokens", weights, nibble::Hessian(kCols), {});
  awq(weights, x);
}
