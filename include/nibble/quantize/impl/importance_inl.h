// quantize_by_importance() of nibble/quantize/quantize.h. Limits are tried for all groups of the matrix at once,
// through the backend: whatever a scheme's scales are made of, nested statistics say, is in the errors that are
// compared.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "nibble/core/dtype.h"
#include "nibble/core/rounded_product.h"
#include "nibble/matrix/impl/importance.h"
#include "nibble/quantize/quantize.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

class LimitSearch {
 public:
  LimitSearch(FloatMatrix weights, const QuantSpec& spec, std::span<const float> importance, std::string_view name,
              const Backend& backend, Executor& executor)
      : spec_(spec),
        name_(name),
        backend_(backend),
        executor_(executor),
        rows_(weights.rows),
        cols_(weights.cols),
        plain_(backend.quantize(weights, spec, name, executor)),  // checks the weights, too
        original_(rows_ * cols_),
        counts_(rows_ * cols_),
        cut_(rows_ * cols_),
        decoded_(rows_ * cols_),
        groups_(spec.group_count(rows_, cols_)) {
    each(rows_, [&](std::size_t r) {
      float* row = original_.data() + r * cols_;
      upcast_floats(weights.type, weights.row(r), cols_, row);
      weigh(row, importance, counts_.data() + r * cols_);
    });
    each(groups_.size(), [&](std::size_t i) {
      Group& g = groups_[i];
      g.low = std::numeric_limits<float>::infinity();
      g.high = -g.low;
      members(i, [&](std::size_t k) {
        g.low = std::min(g.low, original_[k]);
        g.high = std::max(g.high, original_[k]);
      });
      if (has_two_limits()) return;
      g.high = std::max(g.high, -g.low);  // one limit for both signs
      g.low = -g.high;
    });
  }

  QuantizedMatrix run() {
    measure(plain_);
    for (Group& g : groups_) g.least = g.plain = g.error;
    constexpr float kPart = 1.0f / 32;
    for (int i = 1; i < 20; ++i)
      attempt([&](const Group&) {
        return Shares{1 - kPart * static_cast<float>(i), 1 - kPart * static_cast<float>(i)};
      });
    if (has_two_limits())
      for (const int i : {1, 2, 4, -1, -2, -4}) {
        const float by = kPart * static_cast<float>(i);
        attempt([&](const Group& g) { return Shares{g.best.low, g.best.high - by}; });
        attempt([&](const Group& g) { return Shares{g.best.low - by, g.best.high}; });
      }
    for (const float by : {kPart / 2, -kPart / 2})
      attempt([&](const Group& g) { return Shares{g.best.low - by, g.best.high - by}; });
    QuantizedMatrix out = cut_and_round([](const Group& g) { return g.best; });
    // Each group's best were found side by side with other groups' trials: where groups share statistics, all of the
    // best together are another matrix, and no worse than plain rounding is a promise.
    double plain_error = 0, error = 0;
    for (const Group& g : groups_) plain_error += g.plain;
    measure(out);
    for (const Group& g : groups_) error += g.error;
    return error <= plain_error ? std::move(out) : std::move(plain_);
  }

 private:
  /// Of a group's range, what is taken.
  struct Shares {
    float low = 1, high = 1;
  };
  struct Group {
    float low = 0, high = 0;  ///< Its range.
    Shares best, tried;
    double plain = 0, least = 0, error = 0;
  };

  /// Whether a group's range has two ends to choose, not one magnitude.
  bool has_two_limits() const { return spec_.scheme == SchemeKind::asymmetric || spec_.has_real_zeros(); }

  /// `count` tasks that go through the matrix together, in runs of a size that is worth a thread's while.
  template <class Work>
  void each(std::size_t count, const Work& work) {
    parallel_for(executor_, count, 1 + 16384 * count / (rows_ * cols_), [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) work(i);
    });
  }

  /// Calls visit(index) for each weight of a group.
  template <class Visit>
  void members(std::size_t group, const Visit& visit) const {
    spec_.grouping().for_each_piece(group, rows_, cols_, [&](std::size_t row, std::size_t begin, std::size_t end) {
      for (std::size_t i = row * cols_ + begin; i < row * cols_ + end; ++i) visit(i);
    });
  }

  template <class Choose>
  QuantizedMatrix cut_and_round(const Choose& choose) {
    each(groups_.size(), [&](std::size_t i) {
      Group& g = groups_[i];
      g.tried = choose(g);
      const auto within = [](float share) { return std::clamp(share, 1.0f / 64, 1.0f); };
      g.tried = {within(g.tried.low), within(g.tried.high)};
      const float low = g.low * g.tried.low, high = g.high * g.tried.high;
      members(i, [&](std::size_t k) { cut_[k] = std::min(std::max(original_[k], low), high); });
    });
    return backend_.quantize(MatrixView<const float>(cut_.data(), rows_, cols_), spec_, name_, executor_);
  }

  template <class Choose>
  void attempt(const Choose& choose) {
    measure(cut_and_round(choose));
    for (Group& g : groups_)
      if (g.error < g.least) {
        g.least = g.error;
        g.best = g.tried;
      }
  }

  /// The error of each group.
  void measure(const QuantizedMatrix& q) {
    backend_.dequantize(q, 0, {decoded_.data(), rows_, cols_}, executor_);
    each(groups_.size(), [&](std::size_t i) {
      const RoundedProduct<double> times;
      double sum = 0;
      members(i, [&](std::size_t k) {
        const auto d = static_cast<double>(decoded_[k] - original_[k]);
        sum += times(static_cast<double>(counts_[k]), times(d, d));
      });
      groups_[i].error = sum;
    });
  }

  const QuantSpec& spec_;
  std::string_view name_;
  const Backend& backend_;
  Executor& executor_;
  std::size_t rows_, cols_;
  QuantizedMatrix plain_;
  std::vector<float> original_, counts_, cut_, decoded_;
  std::vector<Group> groups_;
};

}  // namespace detail

NIBBLE_INLINE QuantizedMatrix quantize_by_importance(FloatMatrix weights, const QuantSpec& spec,
                                                     std::span<const float> importance, std::string_view name,
                                                     const Backend& backend, Executor& executor) {
  detail::check_importance(name, importance, weights.cols);
  if (importance.empty()) return backend.quantize(weights, spec, name, executor);
  return detail::LimitSearch(weights, spec, importance, name, backend, executor).run();
}

}  // namespace nibble::inline NIBBLE_ABI
