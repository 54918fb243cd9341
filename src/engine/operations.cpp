#include "nibble/engine/operations.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "needs.h"
#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/backend/impl/gated_powers.h"
#include "nibble/core/error.h"
#include "nibble/core/exponential.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

/// Sixteen sums side by side, so that the compiler can use vectors without reordering anything.
float dot(const float* a, const float* b, std::size_t n) {
  float sums[16] = {};
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (std::size_t j = 0; j < 16; ++j) sums[j] += a[i + j] * b[i + j];
  float sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (float s : sums) sum += s;
  return sum;
}

/// 1/√(mean(x²) + epsilon)
float inverse_rms(const float* x, std::size_t n, double epsilon) {
  const double mean = static_cast<double>(dot(x, x, n)) / static_cast<double>(n);
  return static_cast<float>(1 / std::sqrt(mean + epsilon));
}

/// Elements that are gone through together, so that what is between two steps stays in registers and the first cache.
constexpr std::size_t kTogether = 256;

/// The activation of n ≤ kTogether gates, and its slope. Silu and gelu_tanh are g·s with s = 1/(1 + e^−z(g)), whose
/// slope is s·(1 + g·(1 − s)·z').
void gates_of(const kernels::KernelTable& isa, GatedActivation activation, const float* gate, std::size_t n,
              float* value, float* slope) {
  if (activation == GatedActivation::gelu) {
    for (std::size_t i = 0; i < n; ++i) {
      const float g = gate[i], below = 0.5f * (1 + std::erf(g * (std::numbers::sqrt2_v<float> / 2)));
      const float density = std::numbers::inv_sqrtpi_v<float> / std::numbers::sqrt2_v<float> * exponential(-g * g / 2);
      value[i] = g * below;
      slope[i] = below + g * density;
    }
    return;
  }
  float power[kTogether], steep[kTogether];
  if (activation == GatedActivation::silu) {
    detail::silu_powers(isa, gate, n, power);
    std::fill_n(steep, n, 1.0f);
  } else if (activation == GatedActivation::gelu_tanh) {
    detail::gelu_tanh_powers(isa, gate, n, power);
    for (std::size_t i = 0; i < n; ++i)
      steep[i] = 2 * detail::kGeluScale * (1 + 3 * detail::kGeluCubic * gate[i] * gate[i]);
  } else {
    throw Error(ErrorCode::invalid_argument,
                "gate_gradient: there is no activation " + std::to_string(static_cast<int>(activation)));
  }
  for (std::size_t i = 0; i < n; ++i) {
    const float s = 1 / (1 + power[i]);
    value[i] = gate[i] * s;
    slope[i] = s * (1 + gate[i] * (1 - s) * steep[i]);
  }
}

}  // namespace

void rms_norm(MatrixView<const float> x, std::span<const float> weight, double epsilon, MatrixView<float> y) {
  x.validate("norm: x");
  need("norm", "the weight", weight.size(), x.cols);
  need_shape("norm", "y", y, x.rows, x.cols);
  for (std::size_t r = 0; r < x.rows; ++r) {
    const float scale = inverse_rms(&x(r, 0), x.cols, epsilon);
    for (std::size_t c = 0; c < x.cols; ++c) y(r, c) = x(r, c) * scale * weight[c];
  }
}

void rms_norm_gradient(MatrixView<const float> x, std::span<const float> weight, double epsilon,
                       MatrixView<const float> grad_y, MatrixView<float> grad_x, std::span<float> grad_weight) {
  x.validate("norm's gradient: x");
  need("norm's gradient", "the weight", weight.size(), x.cols);
  need_shape("norm's gradient", "grad_y", grad_y, x.rows, x.cols);
  if (grad_x.data != nullptr) need_shape("norm's gradient", "grad_x", grad_x, x.rows, x.cols);
  if (!grad_weight.empty()) need("norm's gradient", "the weight's", grad_weight.size(), x.cols);
  for (std::size_t r = 0; r < x.rows; ++r) {
    const float scale = inverse_rms(&x(r, 0), x.cols, epsilon);
    double sum = 0;
    for (std::size_t c = 0; c < x.cols; ++c)
      sum += static_cast<double>(grad_y(r, c) * weight[c]) * static_cast<double>(x(r, c) * scale);
    const auto mean = static_cast<float>(sum / static_cast<double>(x.cols));
    for (std::size_t c = 0; c < x.cols; ++c) {
      const float unit = x(r, c) * scale;
      if (!grad_weight.empty()) grad_weight[c] += grad_y(r, c) * unit;
      if (grad_x.data != nullptr) grad_x(r, c) += scale * (grad_y(r, c) * weight[c] - unit * mean);
    }
  }
}

namespace {

/// One head: `half` pairs, whose first values are `Step` apart and whose second ones lie `apart` behind those.
template <std::size_t Step>
void rotate_head(float* x, const float* angles, std::size_t half, std::size_t apart, Turn turn) {
  for (std::size_t i = 0; i < half; ++i) {
    const float a = x[i * Step], b = x[i * Step + apart], cosine = angles[i];
    const float sine = turn == Turn::forward ? angles[half + i] : -angles[half + i];
    x[i * Step] = a * cosine - b * sine;
    x[i * Step + apart] = b * cosine + a * sine;
  }
}

}  // namespace

void rotate(MatrixView<float> rows, const Rotary& heads, std::span<const float> rope, Turn turn) {
  rows.validate("rotate: rows");
  const std::size_t dim = heads.head_dim, width = heads.width, half = width / 2;
  need("rotate", "what is turned of a head", width % 2, 0);
  need("rotate", "the last head", dim == 0 ? 1 : rows.cols % dim, 0);
  if (width > dim) need("rotate", "what is turned of a head", width, dim);
  need("rotate", "the table of angles", rope.size(), rows.rows * width);
  for (std::size_t t = 0; t < rows.rows; ++t)
    for (std::size_t h = 0; h < rows.cols / dim; ++h) {
      float* x = &rows(t, h * dim);
      const float* angles = rope.data() + t * width;
      if (heads.pairs == model::RopePairs::halves) rotate_head<1>(x, angles, half, half, turn);
      else rotate_head<2>(x, angles, half, 1, turn);
    }
}

void gate_gradient(GatedActivation activation, std::span<const float> gate, std::span<const float> up,
                   std::span<const float> grad_y, std::span<float> grad_gate, std::span<float> grad_up,
                   const Backend* backend) {
  const std::size_t n = gate.size();
  for (const std::size_t other : {up.size(), grad_y.size(), grad_gate.size(), grad_up.size()})
    need("gate_gradient", "one of the five", other, n);
  const kernels::KernelTable& isa = kernels_of(backend);
  for (std::size_t first = 0; first < n; first += kTogether) {
    float value[kTogether], slope[kTogether];
    const std::size_t count = std::min(kTogether, n - first);
    gates_of(isa, activation, gate.data() + first, count, value, slope);
    for (std::size_t j = 0; j < count; ++j) {
      const std::size_t i = first + j;
      grad_gate[i] += grad_y[i] * up[i] * slope[j];
      grad_up[i] += grad_y[i] * value[j];
    }
  }
}

namespace {

/// Of one row of logits, which becomes the gradient of grad_scale times it, if that is not 0.
double cross_entropy_of(const kernels::KernelTable& isa, std::span<float> row, std::size_t target, float grad_scale,
                        std::vector<float>& kept) {
  const float most = isa.range(row.data(), row.size()).max, said = row[target];
  float* powers = row.data();
  if (grad_scale == 0) {
    kept.resize(row.size());
    powers = kept.data();
  }
  isa.exp_sum(row.data(), row.size(), 1, -most, powers);
  double sums[8] = {}, total = 0;  // in fp64, since a vocabulary is long
  for (std::size_t i = 0; i < row.size(); ++i) sums[i % 8] += static_cast<double>(powers[i]);
  for (const double sum : sums) total += sum;
  if (grad_scale != 0) {
    const auto factor = static_cast<float>(static_cast<double>(grad_scale) / total);
    for (float& x : row) x *= factor;
    row[target] -= grad_scale;
  }
  return std::log(total) + static_cast<double>(most) - static_cast<double>(said);
}

}  // namespace

CrossEntropy cross_entropy(MatrixView<float> logits, std::span<const std::size_t> targets, float grad_scale,
                           Executor& executor, const Backend* backend) {
  logits.validate("cross_entropy: logits");
  need("cross_entropy", "the list of targets", targets.size(), logits.rows);
  for (std::size_t t = 0; t < targets.size(); ++t)
    if (targets[t] != kNoTarget && targets[t] >= logits.cols)
      throw Error(ErrorCode::invalid_argument, "cross_entropy: target " + std::to_string(t) + " is token " +
                                                   std::to_string(targets[t]) + " of a vocabulary of " +
                                                   std::to_string(logits.cols));
  std::vector<double> losses(logits.rows);
  const kernels::KernelTable& isa = kernels_of(backend);
  parallel_for(executor, logits.rows, 1, [&](std::size_t begin, std::size_t end) {
    std::vector<float> kept;
    for (std::size_t t = begin; t < end; ++t) {
      if (targets[t] != kNoTarget) losses[t] = cross_entropy_of(isa, logits.row(t), targets[t], grad_scale, kept);
      else if (grad_scale != 0) std::ranges::fill(logits.row(t), 0.0f);
    }
  });
  CrossEntropy out;
  for (std::size_t t = 0; t < losses.size(); ++t)
    if (targets[t] != kNoTarget) {
      out.loss += losses[t];
      ++out.targets;
    }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::engine
