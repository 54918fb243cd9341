#include "nibble/engine/operations.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "nibble/core/error.h"

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

void add_scaled(float factor, const float* x, std::size_t n, float* to) {
  for (std::size_t i = 0; i < n; ++i) to[i] += factor * x[i];
}

void need(const char* operation, const char* what, std::size_t is, std::size_t wanted) {
  if (is == wanted) return;
  throw Error(ErrorCode::shape_mismatch, std::string(operation) + ": " + what + " has " + std::to_string(is) + "; " +
                                             std::to_string(wanted) + " are needed");
}

void need_shape(const char* operation, const char* what, MatrixView<const float> m, std::size_t rows,
                std::size_t cols) {
  m.validate(std::string(operation) + ": " + what);
  if (m.rows == rows && m.cols == cols) return;
  throw Error(ErrorCode::shape_mismatch, std::string(operation) + ": " + what + " is " + std::to_string(m.rows) +
                                             " × " + std::to_string(m.cols) + "; " + std::to_string(rows) + " × " +
                                             std::to_string(cols) + " is needed");
}

/// 1/√(mean(x²) + epsilon)
float inverse_rms(const float* x, std::size_t n, double epsilon) {
  const double mean = static_cast<double>(dot(x, x, n)) / static_cast<double>(n);
  return static_cast<float>(1 / std::sqrt(mean + epsilon));
}

/// What becomes of scores before the softmax, and how fast.
struct ScoreRule {
  float scale, cap;

  [[nodiscard]] float operator()(float product) const {
    const float scaled = product * scale;
    return cap == 0 ? scaled : std::tanh(scaled / cap) * cap;
  }
  /// d score / d product, from the score.
  [[nodiscard]] float slope(float score) const {
    return cap == 0 ? scale : scale * (1 - (score / cap) * (score / cap));
  }
};

/// The scores of the keys [first, last), which lie `stride` floats apart; returns the largest.
float scores_of(const float* query, const float* keys, std::size_t stride, std::size_t first, std::size_t last,
                std::size_t head_dim, const ScoreRule& rule, float* scores) {
  float most = -INFINITY;
  for (std::size_t j = first; j < last; ++j) {
    scores[j] = rule(dot(query, keys + j * stride, head_dim));
    most = std::max(most, scores[j]);
  }
  return most;
}

/// Grain of tasks of one head of one query: short rows of keys are taken together.
std::size_t grain_of(std::size_t keys) { return 1 + 16384 / keys; }

/// The second of two passes over the weights of attention: by keys, when the first, by queries, has left what it found.
class AttentionGradient {
 public:
  AttentionGradient(const Attention& a, MatrixView<const float> out, MatrixView<const float> grad_out)
      : a_(a),
        out_(out),
        grad_out_(grad_out),
        rule_{a.scale, a.cap},
        group_(a.heads() / a.kv_heads()),
        most_(a.queries.rows * a.heads()),
        total_(most_.size()),
        mean_(most_.size()) {}

  /// Head h of query t: its gradient, and what the keys need of its row of weights.
  void of_query(std::size_t t, std::size_t h, float* scores, MatrixView<float> grad_queries) {
    const std::size_t dim = a_.head_dim, at = h / group_ * dim, first = a_.begin(t), last = a_.offset + t + 1;
    const float *query = &a_.queries(t, h * dim), *grad = &grad_out_(t, h * dim);
    const float most = scores_of(query, a_.keys.data + at, a_.keys.stride, first, last, dim, rule_, scores);
    float total = 0;
    for (std::size_t j = first; j < last; ++j) total += std::exp(scores[j] - most);
    const std::size_t i = t * a_.heads() + h;
    most_[i] = most;
    total_[i] = total;
    mean_[i] = dot(grad, &out_(t, h * dim), dim);
    float* to = &grad_queries(t, h * dim);
    for (std::size_t j = first; j < last; ++j)
      add_scaled(slope(i, scores[j], grad, &a_.values(j, at)), &a_.keys(j, at), dim, to);
  }

  /// Key and value j of a head of theirs, from all queries that see them.
  void of_key(std::size_t j, std::size_t kv_head, MatrixView<float> grad_keys, MatrixView<float> grad_values) const {
    const std::size_t dim = a_.head_dim, at = kv_head * dim;
    float *grad_key = &grad_keys(j, at), *grad_value = &grad_values(j, at);
    for (std::size_t t = j > a_.offset ? j - a_.offset : 0; t < a_.queries.rows; ++t) {
      if (a_.begin(t) > j) continue;
      for (std::size_t h = kv_head * group_; h < (kv_head + 1) * group_; ++h) {
        const float *query = &a_.queries(t, h * dim), *grad = &grad_out_(t, h * dim);
        const float score = rule_(dot(query, &a_.keys(j, at), dim));
        const std::size_t i = t * a_.heads() + h;
        add_scaled(weight(i, score), grad, dim, grad_value);
        add_scaled(slope(i, score, grad, &a_.values(j, at)), query, dim, grad_key);
      }
    }
  }

 private:
  [[nodiscard]] float weight(std::size_t i, float score) const { return std::exp(score - most_[i]) / total_[i]; }
  /// d loss / d (query·key)
  [[nodiscard]] float slope(std::size_t i, float score, const float* grad, const float* value) const {
    return weight(i, score) * (dot(grad, value, a_.head_dim) - mean_[i]) * rule_.slope(score);
  }

  const Attention& a_;
  MatrixView<const float> out_, grad_out_;
  ScoreRule rule_;
  std::size_t group_;
  std::vector<float> most_, total_;  ///< By query and head: the largest score, and Σ exp(score − it).
  std::vector<float> mean_;          ///< Σ weight·(grad_out·value) = grad_out·out
};

struct Gate {
  float value, slope;
};

Gate gate_of(GatedActivation activation, float g) {
  switch (activation) {
    case GatedActivation::silu: {
      const float sigmoid = 1 / (1 + std::exp(-g));
      return {g * sigmoid, sigmoid * (1 + g * (1 - sigmoid))};
    }
    case GatedActivation::gelu_tanh: {
      constexpr float scale = 0.79788456f, cubic = 0.044715f;  // √(2/π)
      const float t = std::tanh(scale * (g + cubic * g * g * g));
      return {0.5f * g * (1 + t), 0.5f * (1 + t) + 0.5f * g * (1 - t * t) * scale * (1 + 3 * cubic * g * g)};
    }
    case GatedActivation::gelu: {
      const float below = 0.5f * (1 + std::erf(g * (std::numbers::sqrt2_v<float> / 2)));
      const float density = std::exp(-g * g / 2) * (std::numbers::inv_sqrtpi_v<float> / std::numbers::sqrt2_v<float>);
      return {g * below, below + g * density};
    }
  }
  throw Error(ErrorCode::invalid_argument,
              "gate_gradient: there is no activation " + std::to_string(static_cast<int>(activation)));
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

void rotate(MatrixView<float> rows, std::size_t head_dim, std::span<const float> rope, Turn turn) {
  rows.validate("rotate: rows");
  need("rotate", "a head", head_dim % 2, 0);
  need("rotate", "the last head", head_dim == 0 ? 1 : rows.cols % head_dim, 0);
  need("rotate", "the table of angles", rope.size(), rows.rows * head_dim);
  const std::size_t half = head_dim / 2;
  for (std::size_t t = 0; t < rows.rows; ++t)
    for (std::size_t h = 0; h < rows.cols / head_dim; ++h)
      for (std::size_t i = 0; i < half; ++i) {
        float* x = &rows(t, h * head_dim);
        const float* angles = rope.data() + t * head_dim;
        const float a = x[i], b = x[i + half], cosine = angles[i];
        const float sine = turn == Turn::forward ? angles[half + i] : -angles[half + i];
        x[i] = a * cosine - b * sine;
        x[i + half] = b * cosine + a * sine;
      }
}

std::size_t Attention::begin(std::size_t t) const {
  const std::size_t last = offset + t + 1, seen = window != 0 && last > window ? last - window : 0;
  return first.empty() ? seen : std::max(seen, first[t]);
}

void Attention::validate() const {
  queries.validate("attention: queries");
  keys.validate("attention: keys");
  values.validate("attention: values");
  need("attention", "a head's remainder", head_dim == 0 ? 1 : (queries.cols % head_dim + keys.cols % head_dim), 0);
  need("attention", "the group's remainder", keys.cols == 0 ? 1 : heads() % kv_heads(), 0);
  need_shape("attention", "keys", keys, offset + queries.rows, keys.cols);
  need_shape("attention", "values", values, keys.rows, keys.cols);
  if (!first.empty()) need("attention", "first", first.size(), queries.rows);
  for (std::size_t t = 0; t < first.size(); ++t)
    if (first[t] > offset + t)
      throw Error(ErrorCode::invalid_argument, "attention: query " + std::to_string(t) +
                                                   " would see nothing, since it "
                                                   "begins at key " +
                                                   std::to_string(first[t]));
}

void attention(const Attention& a, MatrixView<float> out, Executor& executor) {
  a.validate();
  need_shape("attention", "out", out, a.queries.rows, a.queries.cols);
  const std::size_t dim = a.head_dim, heads = a.heads(), group = heads / a.kv_heads();
  const ScoreRule rule{a.scale, a.cap};
  parallel_for(executor, a.queries.rows * heads, grain_of(a.keys.rows), [&](std::size_t begin, std::size_t end) {
    std::vector<float> scores(a.keys.rows);
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t t = i / heads, h = i % heads, at = h / group * dim, first = a.begin(t), last = a.offset + t + 1;
      const float most =
          scores_of(&a.queries(t, h * dim), a.keys.data + at, a.keys.stride, first, last, dim, rule, scores.data());
      float total = 0;
      for (std::size_t j = first; j < last; ++j) total += scores[j] = std::exp(scores[j] - most);
      float* to = &out(t, h * dim);
      std::fill_n(to, dim, 0.0f);
      for (std::size_t j = first; j < last; ++j) add_scaled(scores[j] / total, &a.values(j, at), dim, to);
    }
  });
}

void attention_gradient(const Attention& a, MatrixView<const float> out, MatrixView<const float> grad_out,
                        MatrixView<float> grad_queries, MatrixView<float> grad_keys, MatrixView<float> grad_values,
                        Executor& executor) {
  a.validate();
  const char* const name = "attention's gradient";
  need_shape(name, "out", out, a.queries.rows, a.queries.cols);
  need_shape(name, "grad_out", grad_out, a.queries.rows, a.queries.cols);
  need_shape(name, "grad_queries", grad_queries, a.queries.rows, a.queries.cols);
  need_shape(name, "grad_keys", grad_keys, a.keys.rows, a.keys.cols);
  need_shape(name, "grad_values", grad_values, a.keys.rows, a.keys.cols);
  AttentionGradient gradient(a, out, grad_out);
  const std::size_t heads = a.heads(), kv_heads = a.kv_heads(), grain = grain_of(a.keys.rows);
  parallel_for(executor, a.queries.rows * heads, grain, [&](std::size_t begin, std::size_t end) {
    std::vector<float> scores(a.keys.rows);
    for (std::size_t i = begin; i < end; ++i) gradient.of_query(i / heads, i % heads, scores.data(), grad_queries);
  });
  parallel_for(executor, a.keys.rows * kv_heads, grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) gradient.of_key(i / kv_heads, i % kv_heads, grad_keys, grad_values);
  });
}

void gate_gradient(GatedActivation activation, std::span<const float> gate, std::span<const float> up,
                   std::span<const float> grad_y, std::span<float> grad_gate, std::span<float> grad_up) {
  const std::size_t n = gate.size();
  for (const std::size_t other : {up.size(), grad_y.size(), grad_gate.size(), grad_up.size()})
    need("gate_gradient", "one of the five", other, n);
  for (std::size_t i = 0; i < n; ++i) {
    const Gate g = gate_of(activation, gate[i]);
    grad_gate[i] += grad_y[i] * up[i] * g.slope;
    grad_up[i] += grad_y[i] * g.value;
  }
}

CrossEntropy cross_entropy(MatrixView<float> logits, std::span<const std::size_t> targets, float grad_scale,
                           Executor& executor) {
  logits.validate("cross_entropy: logits");
  need("cross_entropy", "the list of targets", targets.size(), logits.rows);
  for (std::size_t t = 0; t < targets.size(); ++t)
    if (targets[t] != kNoTarget && targets[t] >= logits.cols)
      throw Error(ErrorCode::invalid_argument, "cross_entropy: target " + std::to_string(t) + " is token " +
                                                   std::to_string(targets[t]) + " of a vocabulary of " +
                                                   std::to_string(logits.cols));
  std::vector<double> losses(logits.rows);
  parallel_for(executor, logits.rows, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const std::span<float> row = logits.row(t);
      if (targets[t] == kNoTarget) {
        if (grad_scale != 0) std::ranges::fill(row, 0.0f);
        continue;
      }
      const float most = *std::ranges::max_element(row);
      double total = 0;
      for (const float x : row) total += static_cast<double>(std::exp(x - most));
      losses[t] = std::log(total) + static_cast<double>(most) - static_cast<double>(row[targets[t]]);
      if (grad_scale == 0) continue;
      const auto factor = static_cast<float>(static_cast<double>(grad_scale) / total);
      for (float& x : row) x = std::exp(x - most) * factor;
      row[targets[t]] -= grad_scale;
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
