#include "training_pass.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "distillation.h"
#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

void check_row(const train::Row& row, std::size_t vocabulary) {
  if (row.ids.size() != row.trained.size() || (!row.ids.empty() && (row.starts.empty() || row.starts.front() != 0)))
    throw Error(ErrorCode::shape_mismatch, "a row of " + std::to_string(row.ids.size()) + " tokens with " +
                                               std::to_string(row.trained.size()) + " marks and " +
                                               std::to_string(row.starts.size()) + " samples is none");
  for (std::size_t i = 1; i < row.starts.size(); ++i)
    if (row.starts[i] <= row.starts[i - 1] || row.starts[i] >= row.ids.size())
      throw Error(ErrorCode::invalid_argument, "sample " + std::to_string(i) + " of a row begins at token " +
                                                   std::to_string(row.starts[i]) + ", which is not behind the last");
  for (std::size_t t = 0; t < row.ids.size(); ++t)
    if (row.ids[t] < 0 || static_cast<std::size_t>(row.ids[t]) >= vocabulary)
      throw Error(ErrorCode::invalid_argument, "token " + std::to_string(t) + " is " + std::to_string(row.ids[t]) +
                                                   "; the vocabulary has ids 0 to " + std::to_string(vocabulary - 1));
}

Matrix rows_of(MatrixView<const float> x, std::span<const std::size_t> rows) {
  Matrix out(rows.size(), x.cols);
  for (std::size_t i = 0; i < rows.size(); ++i) std::ranges::copy(x.row(rows[i]), out.view().row(i).begin());
  return out;
}

/// The final norm, the head and the loss, over the rows of what the last block gave that have a target: some at a time.
class Head {
 public:
  Head(const Model& base, float distillation) : base_(base), distillation_(distillation) {}

  /// Where `grad` has data it becomes the gradient; `taught` is what the teacher's last block gave, if there is one.
  train::Loss operator()(MatrixView<const float> x, MatrixView<const float> taught,
                         std::span<const std::size_t> targets, MatrixView<float> grad) const {
    std::vector<std::size_t> rows;
    for (std::size_t t = 0; t < targets.size(); ++t)
      if (targets[t] != train::kNoTarget) rows.push_back(t);
    train::Loss loss;
    const std::size_t most = logit_rows(base_.config().vocab);
    for (std::size_t first = 0; first < rows.size(); first += most)
      loss += part(x, taught, targets, std::span(rows).subspan(first, std::min(most, rows.size() - first)), grad);
    return loss;
  }

 private:
  [[nodiscard]] Executor& executor() const { return base_.executor(); }
  [[nodiscard]] float cap() const { return static_cast<float>(base_.config().logit_cap); }

  /// Logits of states, capped; the normed states are kept.
  Matrix logits_of(const Matrix& states, Matrix& normed) const {
    rms_norm(states.view(), base_.final_norm(), base_.config().rms_eps, normed.view());
    Matrix logits(states.view().rows, base_.config().vocab);
    const LinearOutput output[] = {{base_.head(), logits.view()}};
    apply_linears(normed.view(), output, Activations::fp32, executor());
    if (cap() != 0)
      each_row(executor(), logits.view().rows, [&](std::size_t r) {
        for (float& logit : logits.view().row(r)) logit = std::tanh(logit / cap()) * cap();
      });
    return logits;
  }

  CrossEntropy loss_of(Matrix& logits, MatrixView<const float> taught, std::span<const std::size_t> rows,
                       std::span<const std::size_t> wanted, bool with_gradient) const {
    if (!with_gradient || distillation_ == 0)
      return cross_entropy(logits.view(), wanted, with_gradient ? 1.0f : 0.0f, executor(),
                           &base_.head().weight->backend());
    const Matrix states = rows_of(taught, rows);
    Matrix normed(states.view().rows, states.view().cols);
    const Matrix teacher = logits_of(states, normed);
    return distillation_loss(logits.view(), teacher.view(), wanted, distillation_, executor());
  }

  train::Loss part(MatrixView<const float> x, MatrixView<const float> taught, std::span<const std::size_t> targets,
                   std::span<const std::size_t> rows, MatrixView<float> grad) const {
    const std::size_t n = rows.size();
    const bool with_gradient = grad.data != nullptr;
    const Matrix states = rows_of(x, rows);
    Matrix normed(n, x.cols);
    std::vector<std::size_t> wanted(n);
    for (std::size_t i = 0; i < n; ++i) wanted[i] = targets[rows[i]];
    Matrix logits = logits_of(states, normed);
    const Matrix capped = cap() != 0 && with_gradient ? logits : Matrix();
    const CrossEntropy result = loss_of(logits, taught, rows, wanted, with_gradient);
    if (!with_gradient) return {result.loss, result.targets};
    if (cap() != 0)
      each_row(executor(), n, [&](std::size_t r) {
        for (std::size_t c = 0; c < base_.config().vocab; ++c) {
          const float share = capped(r, c) / cap();
          logits(r, c) *= 1 - share * share;
        }
      });
    Matrix grad_normed(n, x.cols), grad_states = Matrix::zeros(n, x.cols);
    const LinearGradient back[] = {{base_.head(), logits.view()}};
    linear_gradients(normed.view(), back, grad_normed.view(), executor());
    rms_norm_gradient(states.view(), base_.final_norm(), base_.config().rms_eps, grad_normed.view(), grad_states.view(),
                      {});
    for (std::size_t i = 0; i < n; ++i) std::ranges::copy(grad_states.view().row(i), grad.row(rows[i]).begin());
    return {result.loss, result.targets};
  }

  const Model& base_;
  float distillation_;
};

/// The state between two blocks, as it is kept for the way back: in 16 bits a value, where it has no more.
class KeptState {
 public:
  KeptState() = default;
  KeptState(MatrixView<const float> x, DType type, const Model& base)
      : isa_(&kernels_of(&base.head().weight->backend())), cols_(x.cols) {
    if (type == DType::f32) {
      all_ = Matrix(x);
      return;
    }
    halves_.resize(x.rows * x.cols);
    each_row(base.executor(), x.rows,
             [&](std::size_t r) { isa_->store_bf16(x.row(r).data(), cols_, halves_.data() + r * cols_, false); });
  }
  /// Gives its memory back.
  Matrix take(Executor& executor) {
    if (halves_.empty()) return std::move(all_);
    Matrix out(halves_.size() / cols_, cols_);
    each_row(executor, out.view().rows,
             [&](std::size_t r) { isa_->load_bf16(halves_.data() + r * cols_, cols_, out.view().row(r).data()); });
    halves_ = {};
    return out;
  }

 private:
  const kernels::KernelTable* isa_ = nullptr;
  Matrix all_;
  std::vector<std::uint16_t> halves_;
  std::size_t cols_ = 0;
};

/// What a pass over one row shares.
class Run {
 public:
  Run(const TrainingPass& pass, const train::Row& row, const train::Dropout& dropout)
      : pass_(pass),
        row_(row),
        layout_(config(), row.starts, row.ids.size()),
        training_(config(), layout_, dropout, pass.base.executor()),
        undropped_(config(), layout_, {}, pass.base.executor()) {}

  [[nodiscard]] Matrix embedded() const {
    Matrix x(row_.ids.size(), config().hidden);
    pass_.base.embedding().look_up(row_.ids, x.view(), pass_.base.executor());
    scale_embedded(config(), x.view());
    return x;
  }

  train::Loss loss() const {
    Matrix x = embedded();
    for (std::size_t b = 0; b < pass_.blocks.size(); ++b) {
      round_state(x);
      (void)undropped_.forward(pass_.blocks[b], b, x.view());
    }
    round_state(x);
    return Head(pass_.base, 0)(x.view(), {}, train::targets_of(row_), {});
  }

  train::Loss add_gradients() const {
    Matrix x = embedded();
    std::vector<BlockTrace> traces(pass_.blocks.size());
    std::vector<KeptState> kept(pass_.blocks.size());
    forward(x, traces, kept);
    Matrix grad = Matrix::zeros(row_.ids.size(), config().hidden);
    const Matrix taught = pass_.distillation == 0 ? Matrix() : of_the_base();
    const train::Loss loss =
        Head(pass_.base, pass_.distillation)(x.view(), taught.view(), train::targets_of(row_), grad.view());
    x = {};
    for (std::size_t b = pass_.blocks.size(); b-- > pass_.first_block;) {
      if (pass_.checkpointing) {
        Matrix again = kept[b].take(executor());
        traces[b] = training_.forward(pass_.blocks[b], b, again.view());
      }
      training_.backward(pass_.blocks[b], b, std::move(traces[b]), pass_.gradients[b], b > pass_.first_block,
                         grad.view());
      if (pass_.after_block) pass_.after_block(b);
    }
    return loss;
  }

 private:
  [[nodiscard]] const model::Config& config() const { return pass_.base.config(); }

  [[nodiscard]] Executor& executor() const { return pass_.base.executor(); }

  void round_state(Matrix& x) const {
    if (pass_.activations == DType::f32) return;
    const kernels::KernelTable& isa = kernels_of(&pass_.base.head().weight->backend());
    const std::size_t cols = x.view().cols;
    row_ranges(executor(), x.view().rows, [&](std::size_t first, std::size_t count) {
      std::vector<std::uint16_t> halves(cols);
      for (float* row = &x(first, 0); count-- > 0; row += cols) {
        isa.store_bf16(row, cols, halves.data(), false);
        isa.load_bf16(halves.data(), cols, row);
      }
    });
  }

  /// Of each block that is trained, or lies behind one, the input or the whole trace.
  void forward(Matrix& x, std::vector<BlockTrace>& traces, std::vector<KeptState>& kept) const {
    for (std::size_t b = 0; b < pass_.blocks.size(); ++b) {
      const bool trained = b >= pass_.first_block;
      round_state(x);
      if (trained && pass_.checkpointing) kept[b] = KeptState(x.view(), pass_.activations, pass_.base);
      BlockTrace trace = training_.forward(pass_.blocks[b], b, x.view());
      if (trained && !pass_.checkpointing) traces[b] = std::move(trace);
    }
    round_state(x);
  }

  [[nodiscard]] Matrix of_the_base() const {
    Matrix x = embedded();
    const std::vector<Block>& blocks = pass_.base.blocks();
    for (std::size_t b = 0; b < blocks.size(); ++b) (void)undropped_.forward(blocks[b], b, x.view());
    return x;
  }

  const TrainingPass& pass_;
  const train::Row& row_;
  RowLayout layout_;
  BlockTraining training_, undropped_;
};

}  // namespace

std::size_t logit_rows(std::size_t vocabulary) {
  return std::max<std::size_t>(1, (std::size_t{16} << 20) / vocabulary);
}

void require_trainable(const model::Architecture& architecture, const char* what) {
  if (!architecture.has_experts()) return;
  throw Error(ErrorCode::unsupported, std::string(what) + ": a model of the architecture '" +
                                          std::string(architecture.model_type) +
                                          "' is a mixture of experts, and no gradient finds its way back through a "
                                          "router here; it can be run and quantized, not trained");
}

std::size_t block_floats(const model::Config& c) {
  const std::size_t queries = c.heads * c.head_dim, keys = c.kv_heads * c.head_dim;
  const std::size_t attention = 2 * c.hidden + 2 * queries + 2 * keys;  // of the trace
  // The trace of the second half with the gradients of its output and its gates; or those of the first half, later.
  std::size_t ffn = 3 * c.hidden + 4 * c.intermediate, heads = 2 * c.hidden + 2 * queries + 2 * keys;
  // Of layers of several in one the gradients lie joined beside what they were joined from.
  if (c.architecture().has(model::Role::gate_up)) ffn += c.hidden;
  if (c.architecture().has(model::Role::query_key_value)) heads += queries + 2 * keys;
  return attention + std::max(ffn, heads);
}

train::Loss TrainingPass::add_gradients(const train::Row& row) const {
  check_row(row, base.config().vocab);
  return row.ids.empty() ? train::Loss() : Run(*this, row, dropout).add_gradients();
}

train::Loss TrainingPass::loss(const train::Row& row) const {
  check_row(row, base.config().vocab);
  return row.ids.empty() ? train::Loss() : Run(*this, row, {}).loss();
}

}  // namespace nibble::inline NIBBLE_ABI::engine
