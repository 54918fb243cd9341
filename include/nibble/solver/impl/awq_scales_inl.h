// What solver/awq.h declares.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/error.h"
#include "nibble/quantize/quantize.h"
#include "nibble/solver/awq.h"
#include "nibble/solver/impl/panel.h"
#include "nibble/solver/impl/upcast.h"

namespace nibble::inline NIBBLE_ABI::awq {

namespace detail {

using solver::kDepth;
using solver::kLanes;

inline constexpr float kMinScale = 1e-4f;

/// The linears in fp32, and a place for what each becomes.
struct Weights {
  std::vector<std::vector<float>> original, tried;
  std::vector<MatrixView<const float>> views;

  Weights(std::span<const LinearWeights> linears, std::size_t cols) {
    for (const LinearWeights& l : linears) {
      original.emplace_back(l.weights.rows * cols);
      tried.emplace_back(l.weights.rows * cols);
      solver::upcast(l.weights, l.name, original.back().data());
      views.emplace_back(tried.back().data(), l.weights.rows, cols);
    }
  }
};

inline void check(std::span<const LinearWeights> linears, const ActivationStats& stats, const ScaleOptions& o) {
  const auto need = [&](bool ok, const std::string& why) {
    if (!ok) throw Error(ErrorCode::invalid_argument, "awq scales of '" + stats.name() + "': " + why);
  };
  o.spec.validate();
  need(o.spec.is_affine(), "the spec " + o.spec.to_string() + " has no scales that a search could help");
  need(o.grid >= 1, "grid is " + std::to_string(o.grid) + "; it must be positive");
  need(!linears.empty(), "there are no linears");
  need(stats.tokens() > 0, "no tokens were observed");
  for (const LinearWeights& l : linears) {
    need(l.weights.rows > 0, "tensor '" + l.name + "' is empty");
    if (l.weights.cols != stats.channels() || l.weights.stride < l.weights.cols)
      throw Error(ErrorCode::shape_mismatch, "tensor '" + l.name + "' has " + std::to_string(l.weights.cols) +
                                                 " columns with rows " + std::to_string(l.weights.stride) +
                                                 " apart; its inputs '" + stats.name() + "' have " +
                                                 std::to_string(stats.channels()) + " channels");
    l.weights.validate(l.name);
  }
  if (o.source.empty()) return;
  if (o.source.size() != stats.channels())
    throw Error(ErrorCode::shape_mismatch, "awq scales of '" + stats.name() + "': sources of " +
                                               std::to_string(o.source.size()) + " channels, not of " +
                                               std::to_string(stats.channels()));
  for (std::size_t c = 0; c < o.source.size(); ++c)
    need(o.source[c] < o.sources, "the source of channel " + std::to_string(c) + " is " + std::to_string(o.source[c]) +
                                      "; there are " + std::to_string(o.sources));
}

/// Each source's mean of its channels' values.
inline std::vector<double> by_source(const std::vector<double>& values, const ScaleOptions& o) {
  if (o.source.empty()) return values;
  std::vector<double> sums(o.sources), counts(o.sources);
  for (std::size_t c = 0; c < values.size(); ++c) {
    sums[o.source[c]] += values[c];
    ++counts[o.source[c]];
  }
  for (std::size_t s = 0; s < sums.size(); ++s) sums[s] = counts[s] == 0 ? 1 : sums[s] / counts[s];
  return sums;
}

/// The mean over all outputs of |w| relative to the largest of its group.
inline std::vector<double> relative_weights(std::span<const LinearWeights> linears, const Weights& w,
                                            const ScaleOptions& o, std::size_t cols) {
  const std::size_t group = o.spec.granularity == Granularity::group ? o.spec.group_size : cols;
  std::vector<double> out(cols);
  double rows = 0;
  for (std::size_t l = 0; l < linears.size(); ++l) {
    rows += static_cast<double>(linears[l].weights.rows);
    for (std::size_t r = 0; r < linears[l].weights.rows; ++r)
      for (std::size_t first = 0; first < cols; first += group) {
        const std::size_t last = std::min(first + group, cols);
        const float* row = w.original[l].data() + r * cols;
        float largest = 0;
        for (std::size_t c = first; c < last; ++c) largest = std::max(largest, std::abs(row[c]));
        for (std::size_t c = first; c < last; ++c)
          out[c] += static_cast<double>(std::abs(row[c])) / (static_cast<double>(largest) + 1e-6);
      }
  }
  for (double& x : out) x /= rows;
  return out;
}

/// Scales of a ratio, one a source.
inline std::vector<float> scales_of(double ratio, const std::vector<double>& x, const std::vector<double>& w,
                                    bool duo) {
  std::vector<float> out;
  for (std::size_t c = 0; c < x.size(); ++c) {
    double s = std::pow(x[c], ratio);
    if (duo) s /= std::pow(w[c], 1 - ratio) + 1e-4;
    out.push_back(std::max(static_cast<float>(s), kMinScale));
  }
  const auto [least, most] = std::minmax_element(out.begin(), out.end());
  const float middle = std::sqrt(*least * *most);
  for (float& s : out) {
    s /= middle;
    if (!(s > 0) || !is_finite(s)) s = 1;
  }
  return out;
}

/// tried = Q(original·s)/s
inline void round_scaled(const LinearWeights& linear, std::vector<float>& original, std::vector<float>& tried,
                         std::span<const float> scales, const ScaleOptions& o, Executor& executor) {
  const std::size_t rows = linear.weights.rows, cols = scales.size();
  const MatrixView<float> to(tried.data(), rows, cols);
  parallel_for(executor, rows, 16, [&](std::size_t begin, std::size_t end) {
    for (std::size_t r = begin; r < end; ++r)
      for (std::size_t c = 0; c < cols; ++c) to(r, c) = original[r * cols + c] * scales[c];
  });
  const QuantizedMatrix q = quantize(to, o.spec, {.name = linear.name, .backend = o.backend, .executor = &executor});
  dequantize(q, to, {.backend = o.backend, .executor = &executor});
  parallel_for(executor, rows, 16, [&](std::size_t begin, std::size_t end) {
    for (std::size_t r = begin; r < end; ++r)
      for (std::size_t c = 0; c < cols; ++c) to(r, c) /= scales[c];
  });
}

/// Σ over tokens and outputs of (x·(tried − original)ᵀ)²
inline double squared_change(MatrixView<const float> x, const std::vector<float>& original,
                             const std::vector<float>& tried, std::size_t rows, const kernels::KernelTable& isa,
                             Executor& executor) {
  const auto multiply = solver::gemm_panel<float>(isa);
  const std::size_t cols = x.cols, panels = (rows + kLanes - 1) / kLanes;
  std::vector<double> sums(panels);
  parallel_for(executor, panels, 1, [&](std::size_t begin, std::size_t end) {
    std::vector<float> panel(cols * kLanes), product(x.rows * kLanes), total(x.rows * kLanes);
    for (std::size_t p = begin; p < end; ++p) {
      const std::size_t first = p * kLanes, lanes = std::min(kLanes, rows - first);
      std::fill(panel.begin(), panel.end(), 0.0f);
      for (std::size_t lane = 0; lane < lanes; ++lane)
        for (std::size_t c = 0; c < cols; ++c)
          panel[c * kLanes + lane] = tried[(first + lane) * cols + c] - original[(first + lane) * cols + c];
      std::fill(total.begin(), total.end(), 0.0f);
      for (std::size_t k = 0; k < cols; k += kDepth) {
        multiply(x.data + k, x.stride, x.rows, panel.data() + k * kLanes, std::min(kDepth, cols - k), product.data());
        for (std::size_t i = 0; i < total.size(); ++i) total[i] += product[i];
      }
      for (float y : total) sums[p] += static_cast<double>(y) * static_cast<double>(y);
    }
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace detail

NIBBLE_INLINE Scales search_scales(std::span<const LinearWeights> linears, const ActivationStats& stats,
                                   const ScaleOptions& o) {
  detail::check(linears, stats, o);
  Executor& executor = o.executor ? *o.executor : default_executor();
  const std::size_t cols = stats.channels();
  detail::Weights w(linears, cols);
  const std::vector<float> means = stats.mean_magnitudes();
  const std::vector<double> x = detail::by_source({means.begin(), means.end()}, o);
  const std::vector<double> relative = o.duo_scaling
                                           ? detail::by_source(detail::relative_weights(linears, w, o, cols), o)
                                           : std::vector<double>(x.size(), 1.0);
  double outputs = 0;
  for (const LinearWeights& l : linears) outputs += static_cast<double>(l.weights.rows);

  Scales best;
  best.loss = std::numeric_limits<double>::infinity();
  for (int step = 0; step < o.grid; ++step) {
    const double ratio = static_cast<double>(step) / o.grid;
    const std::vector<float> source_scales = detail::scales_of(ratio, x, relative, o.duo_scaling);
    std::vector<float> scales = source_scales;
    if (!o.source.empty()) {
      scales.resize(cols);
      for (std::size_t c = 0; c < cols; ++c) scales[c] = source_scales[o.source[c]];
    }
    double sum = 0;
    for (std::size_t l = 0; l < linears.size(); ++l) {
      detail::round_scaled(linears[l], w.original[l], w.tried[l], scales, o, executor);
      if (!o.loss)
        sum += detail::squared_change(stats.sample(), w.original[l], w.tried[l], linears[l].weights.rows,
                                      kernels_of(o.backend), executor);
    }
    const double loss = o.loss ? o.loss(w.views) : sum / (outputs * static_cast<double>(stats.sample().rows));
    best.losses.push_back(loss);
    if (step != 0 && !(loss < best.loss)) continue;
    best.loss = loss;
    best.ratio = ratio;
    best.scales = scales;
    best.source_scales = source_scales;
  }
  if (!std::isfinite(best.loss))
    throw Error(ErrorCode::non_finite, "awq scales of '" + stats.name() + "': the loss is " +
                                           std::to_string(best.loss) + " at every ratio tried");
  return best;
}

}  // namespace nibble::inline NIBBLE_ABI::awq
