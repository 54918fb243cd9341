// Layers to be solved: correlated inputs with a few large channels, and weights.
#pragma once

#include <Eigen/Dense>
#include <cmath>
#include <vector>

#include "nibble/solver/gptq.h"
#include "tests/support/random_data.h"

namespace nibble::testing_support {

using Doubles = Eigen::MatrixXd;

inline Eigen::Index index(std::size_t i) { return static_cast<Eigen::Index>(i); }

inline MatrixView<const float> view(const std::vector<float>& x, std::size_t cols) {
  return {x.data(), x.size() / cols, cols};
}

/// [tokens, channels]: a quarter as many hidden causes as channels, noise, and channel sizes spread log-normally.
inline std::vector<float> correlated(std::size_t tokens, std::size_t channels, unsigned seed) {
  const std::size_t causes = channels / 4 + 1;
  const auto hidden = normal(tokens * causes, seed), mixing = normal(causes * channels, 100);
  const auto sizes = normal(channels, 101);
  auto x = normal(tokens * channels, seed + 1, 0.3f);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t c = 0; c < channels; ++c) {
      float sum = x[t * channels + c];
      for (std::size_t k = 0; k < causes; ++k)
        sum += hidden[t * causes + k] * mixing[k * channels + c] / std::sqrt(static_cast<float>(causes));
      x[t * channels + c] = sum * std::exp(sizes[c]);
    }
  return x;
}

inline Hessian hessian_of(const std::vector<float>& x, std::size_t channels) {
  Hessian h(channels, "x");
  h.add(view(x, channels));
  return h;
}

inline Hessian diagonal_hessian(std::size_t channels, unsigned seed) {
  std::vector<double> sum(channels * channels);
  const auto spread = normal(channels, seed);
  for (std::size_t i = 0; i < channels; ++i) sum[i * channels + i] = 0.1 + std::abs(static_cast<double>(spread[i]));
  return Hessian::from_sum({sum.data(), channels, channels}, 100, "x");
}

/// Channels in nearly equal pairs: what tells them apart is 10⁻⁵ of their size, its square below fp32's last bit.
inline Hessian paired_hessian(std::size_t channels) {
  const std::size_t tokens = 4 * channels;
  const auto x = normal(tokens * channels, 16), apart = normal(tokens * channels, 17, 1e-5f);
  const auto value = [&](std::size_t t, std::size_t c) {
    return static_cast<double>(x[t * channels + c / 2 * 2]) +
           (c % 2 == 1 ? static_cast<double>(apart[t * channels + c]) : 0);
  };
  std::vector<double> sum(channels * channels);
  for (std::size_t i = 0; i < channels; ++i)
    for (std::size_t j = 0; j < channels; ++j)
      for (std::size_t t = 0; t < tokens; ++t) sum[i * channels + j] += value(t, i) * value(t, j);
  return Hessian::from_sum({sum.data(), channels, channels}, tokens, "paired");
}

/// No sum of squares: indefinite whatever the damp.
inline Hessian indefinite_hessian(std::size_t channels) {
  std::vector<double> sum(channels * channels, 5.0);
  for (std::size_t i = 0; i < channels; ++i) sum[i * channels + i] = 1;
  return Hessian::from_sum({sum.data(), channels, channels}, 10, "indefinite");
}

/// H as solve() sees it: (2/tokens)·sum, dead channels at the mean of the others (or 1), λ on the diagonal.
inline Doubles damped(const Hessian& h, double damp, bool compat = false) {
  const std::size_t n = h.channels();
  Doubles out(index(n), index(n));
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) out(index(i), index(j)) = 2.0 / static_cast<double>(h.tokens()) * h.sum(i, j);
  const auto dead = h.dead_channels();
  const double mean = out.trace() / static_cast<double>(n - dead.size());
  for (std::size_t c : dead) out(index(c), index(c)) = compat ? 1 : mean;
  out.diagonal().array() += damp * out.trace() / static_cast<double>(n);
  return out;
}

/// The weights with dead columns zeroed.
inline Doubles doubles_of(const std::vector<float>& w, const Hessian& h) {
  const std::size_t n = h.channels();
  Doubles out(index(w.size() / n), index(n));
  for (std::size_t i = 0; i < w.size(); ++i) out(index(i / n), index(i % n)) = static_cast<double>(w[i]);
  for (std::size_t c : h.dead_channels()) out.col(index(c)).setZero();
  return out;
}

inline Doubles decoded(const QuantizedMatrix& q) {
  Doubles out(index(q.rows), index(q.cols));
  for (std::size_t r = 0; r < q.rows; ++r)
    for (std::size_t c = 0; c < q.cols; ++c) out(index(r), index(c)) = static_cast<double>(q.value(r, c));
  return out;
}

/// ½·tr(ΔW·H·ΔWᵀ)
inline double loss_of(const Doubles& delta, const Doubles& h) { return (delta * h).cwiseProduct(delta).sum() / 2; }

inline void expect_same(const QuantizedMatrix& a, const QuantizedMatrix& b) {
  ASSERT_EQ(a.spec, b.spec);
  ASSERT_EQ(a.g_idx, b.g_idx);
  const auto same = [](const Buffer& x, const Buffer& y) {
    return x.size() == y.size() && std::equal(x.data(), x.data() + x.size(), y.data());
  };
  EXPECT_TRUE(same(a.codes, b.codes));
  EXPECT_TRUE(same(a.scales, b.scales));
  EXPECT_TRUE(same(a.zero_points, b.zero_points));
}

/// Runs tasks on the calling thread, last first, and claims to be many threads.
class BackwardsExecutor final : public Executor {
 public:
  explicit BackwardsExecutor(int claimed) : claimed_(claimed) {}
  int concurrency() const noexcept override { return claimed_; }
  void run(std::size_t count, FunctionRef<void(std::size_t)> task) override {
    while (count-- > 0) task(count);
  }

 private:
  int claimed_;
};

}  // namespace nibble::testing_support
