#include "nibble/engine/batch.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "linear.h"
#include "matrix.h"
#include "nibble/core/error.h"
#include "nibble/engine/operations.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

using model::Role;

[[noreturn]] void refuse(std::size_t turn, const std::string& what) {
  throw Error(ErrorCode::invalid_argument, "forward_batch: turn " + std::to_string(turn) + " " + what);
}

/// Whether two models multiply by the same packed matrices.
bool share_weights(const Model& a, const Model& b) {
  if (a.blocks().size() != b.blocks().size() || a.head().weight != b.head().weight) return false;
  for (std::size_t i = 0; i < a.blocks().size(); ++i)
    if (a.blocks()[i].router.weight != b.blocks()[i].router.weight) return false;
  for (std::size_t i = 0; i < a.blocks().size(); ++i)
    for (std::size_t role = 0; role < model::kLinearRoles; ++role)
      if (a.blocks()[i].linears[role].weight != b.blocks()[i].linears[role].weight) return false;
  return true;
}

void check(std::span<const BatchItem> turns) {
  for (std::size_t t = 0; t < turns.size(); ++t) {
    if (!share_weights(turns[t].model, turns[0].model)) refuse(t, "is of another base than the first");
    for (std::size_t other = 0; other < t; ++other)
      if (&turns[other].cache == &turns[t].cache) refuse(t, "has the cache of turn " + std::to_string(other));
    try {
      turns[t].model.check_ids(turns[t].ids);
      turns[t].cache.check_room(turns[t].model.config(), turns[t].ids.size());
    } catch (const Error& e) {
      throw Error(e.code(), "turn " + std::to_string(t) + ": " + e.what());
    }
  }
}

/// The rows of all turns, one turn behind the other.
class Batch {
 public:
  explicit Batch(std::span<const BatchItem> turns)
      : turns_(turns), base_(turns[0].model), pass_(config(), executor(), base_.activations(), nullptr) {
    for (const BatchItem& turn : turns) {
      begins_.push_back(rows_);
      rows_ += turn.ids.size();
      ropes_.emplace_back(config(), turn.cache.size(), turn.ids.size());
    }
  }

  std::vector<float> logits() {
    Matrix x(rows_, config().hidden);
    for (std::size_t t = 0; t < turns_.size(); ++t)
      base_.embedding().look_up(turns_[t].ids, part(x.view(), t), executor());
    scale_embedded(config(), x.view());
    for (std::size_t b = 0; b < base_.blocks().size(); ++b) {
      add_attention(b, x.view());
      add_ffn(b, x.view());
    }
    for (const BatchItem& turn : turns_) turn.cache.append(turn.ids.size());
    return head(x.view());
  }

 private:
  [[nodiscard]] const model::Config& config() const { return base_.config(); }
  [[nodiscard]] Executor& executor() const { return base_.executor(); }
  [[nodiscard]] const Block& block(std::size_t b) const { return base_.blocks()[b]; }
  template <class T>
  [[nodiscard]] MatrixView<T> part(MatrixView<T> m, std::size_t turn) const {
    return m.row_range(begins_[turn], turns_[turn].ids.size());
  }

  struct Output {
    Role role;
    MatrixView<float> y;
  };
  /// One product for all rows, and then each turn's bias and adapter for its own.
  void apply(std::size_t b, MatrixView<const float> x, std::initializer_list<Output> outputs) const {
    std::vector<Projection> projections;
    for (const Output& out : outputs) projections.push_back({block(b)[out.role].weight.get(), out.y});
    const Linear& first = block(b)[outputs.begin()->role];
    try {
      first.weight->backend().matmul_fused(x, projections, base_.activations(), executor());
      for (std::size_t t = 0; t < turns_.size(); ++t)
        for (const Output& out : outputs)
          finish_product({turns_[t].model.blocks()[b][out.role], part(out.y, t)}, part(x, t), executor());
    } catch (const Error& e) {
      rethrow_for(first, e);
    }
  }

  /// The same, or `fused` in their place where the block has it, whose output is split.
  void apply(std::size_t b, Role fused, MatrixView<const float> x, std::initializer_list<Output> outputs) const {
    if (!block(b)[fused]) return apply(b, x, outputs);
    split_product(outputs, executor(), [&](MatrixView<float> y) { apply(b, x, {{fused, y}}); });
  }

  void add_output(std::size_t b, Role linear, Role post_norm, const Matrix& input, MatrixView<float> x) const {
    Matrix y(x.rows, x.cols);
    apply(b, input.view(), {{linear, y.view()}});
    if (const auto& weight = block(b).norm(post_norm); !weight.empty()) pass_.norm(y.view(), weight, y.view());
    add(y.view(), x, executor());
  }

  void add_attention(std::size_t b, MatrixView<float> x) const {
    const std::size_t width = config().heads * config().head_dim, kv_width = config().kv_heads * config().head_dim;
    Matrix normed(x.rows, x.cols), query(x.rows, width), key(x.rows, kv_width), value(x.rows, kv_width),
        mixed(x.rows, width);
    pass_.norm(x, block(b).norm(Role::attention_norm), normed.view());
    apply(b, Role::query_key_value, normed.view(),
          {{Role::query, query.view()}, {Role::key, key.view()}, {Role::value, value.view()}});
    for (std::size_t t = 0; t < turns_.size(); ++t) {
      const KeyValues cache = turns_[t].cache.layer(b);
      const MatrixView<const float> keys = part(key.view(), t), values = part(value.view(), t);
      for (std::size_t r = 0; r < keys.rows; ++r) {
        std::ranges::copy(keys.row(r), cache.keys.row(cache.seen + r).begin());
        std::ranges::copy(values.row(r), cache.values.row(cache.seen + r).begin());
      }
      pass_.attend(block(b), part(query.view(), t), ropes_[t].of(block(b)), cache, part(mixed.view(), t));
    }
    add_output(b, Role::attention_output, Role::attention_post_norm, mixed, x);
  }

  void add_ffn(std::size_t b, MatrixView<float> x) const {
    Matrix normed(x.rows, x.cols);
    pass_.norm(x, block(b).norm(Role::ffn_norm), normed.view());
    if (block(b).router) {  // experts have no adapters
      Matrix out(x.rows, x.cols);
      pass_.ffn(block(b), normed.view(), out.view());
      return pass_.add_ffn_output(block(b), out.view(), x);
    }
    Matrix gate(x.rows, config().intermediate), up(x.rows, config().intermediate);
    apply(b, Role::gate_up, normed.view(), {{Role::gate, gate.view()}, {Role::up, up.view()}});
    each_row(executor(), x.rows, [&](std::size_t r) {
      apply_gate(config().architecture().activation, gate.view().row(r), up.view().row(r), gate.view().row(r),
                 block(b).backend());
    });
    add_output(b, Role::down, Role::ffn_post_norm, gate, x);
  }

  /// Of the last row of each turn.
  std::vector<float> head(MatrixView<const float> x) const {
    Matrix last(turns_.size(), x.cols), normed(turns_.size(), x.cols);
    for (std::size_t t = 0; t < turns_.size(); ++t)
      std::ranges::copy(x.row(begins_[t] + turns_[t].ids.size() - 1), last.view().row(t).begin());
    pass_.norm(last.view(), base_.final_norm(), normed.view());
    std::vector<float> logits(turns_.size() * config().vocab);
    pass_.linear(base_.head(), normed.view(), {logits.data(), turns_.size(), config().vocab});
    if (const auto cap = static_cast<float>(config().logit_cap); cap != 0)
      for (float& logit : logits) logit = std::tanh(logit / cap) * cap;
    return logits;
  }

  std::span<const BatchItem> turns_;
  const Model& base_;  ///< The first turn's: its adapter is looked at like the others'.
  BlockPass pass_;
  std::size_t rows_ = 0;
  std::vector<std::size_t> begins_;
  std::vector<RopeAngles> ropes_;
};

}  // namespace

std::vector<float> forward_batch(std::span<const BatchItem> turns) {
  if (turns.empty()) return {};
  check(turns);
  return Batch(turns).logits();
}

}  // namespace nibble::inline NIBBLE_ABI::engine
