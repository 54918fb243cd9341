#include "distillation.h"

#include <algorithm>
#include <cmath>

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

/// log Σ exp(x)
double log_sum_exp(std::span<const float> x) {
  const float most = *std::ranges::max_element(x);
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(std::exp(v - most));
  return std::log(sum) + static_cast<double>(most);
}

/// Of one row; it becomes the gradient: softmax(logits) − (share·softmax(teacher) + (1 − share)·[target]).
double loss_of_row(std::span<float> logits, std::span<const float> teacher, std::size_t target, float share) {
  const double student_total = log_sum_exp(logits), teacher_total = log_sum_exp(teacher);
  const double missed = student_total - static_cast<double>(logits[target]);
  double divergence = 0;
  for (std::size_t v = 0; v < logits.size(); ++v) {
    const double log_student = static_cast<double>(logits[v]) - student_total,
                 log_teacher = static_cast<double>(teacher[v]) - teacher_total;
    const auto said = static_cast<double>(std::exp(static_cast<float>(log_teacher)));
    divergence += said * (log_teacher - log_student);
    logits[v] = std::exp(static_cast<float>(log_student)) - share * static_cast<float>(said);
  }
  logits[target] -= 1 - share;
  return static_cast<double>(share) * divergence + static_cast<double>(1 - share) * missed;
}

}  // namespace

CrossEntropy distillation_loss(MatrixView<float> logits, MatrixView<const float> teacher,
                               std::span<const std::size_t> targets, float share, Executor& executor) {
  std::vector<double> losses(logits.rows);
  parallel_for(executor, logits.rows, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) losses[t] = loss_of_row(logits.row(t), teacher.row(t), targets[t], share);
  });
  CrossEntropy out{.targets = losses.size()};
  for (const double loss : losses) out.loss += loss;
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::engine
