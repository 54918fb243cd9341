#include "linear.h"

#include "matrix.h"
#include "nibble/train/lora.h"
#include "nibble/train/weight_gradient.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

bool has_gain(const Linear& linear) { return linear.adapter && !linear.adapter->gain.empty(); }

void product(const Linear& linear, MatrixView<const float> x, MatrixView<float> y, Executor& executor) {
  linear.weight->backend().matmul(x, *linear.weight, y, executor);
}

void add_lora_of(const Linear& linear, MatrixView<const float> x, MatrixView<float> y, const train::Dropout& dropout,
                 Executor& executor) {
  const LinearAdapter& l = *linear.adapter;
  const train::LoraProduct p{x, l.a, l.b, y, l.scale, dropout};
  train::add_lora({&p, 1}, executor, &linear.weight->backend());
}

/// W·x + scale·B·(A·x) of the masked x: what DoRA's gain multiplies.
Matrix adapted(const Linear& linear, MatrixView<const float> x, const train::Dropout& dropout, Executor& executor) {
  Matrix masked(dropout.rate == 0 ? 0 : x.rows, x.cols), y(x.rows, linear.adapter->b.rows);
  if (dropout.rate != 0) {
    dropout.apply(x, masked.view(), executor, &linear.weight->backend());
    x = masked.view();
  }
  product(linear, x, y.view(), executor);
  add_lora_of(linear, x, y.view(), {}, executor);
  return y;
}

/// From y = W·x. With dropout, DoRA's correction of the frozen product is of the masked x too, as PEFT has it:
/// y = W·x − W·x' + gain·(W·x' + scale·B·(A·x')).
void finish_with_gain(const LinearOutput& out, MatrixView<const float> x, Executor& executor) {
  const Linear& linear = out.linear;
  const std::span<const float> gain = linear.adapter->gain;
  const auto bias = [&](std::size_t c) { return linear.bias.empty() ? 0.0f : linear.bias[c]; };
  if (out.dropout.rate == 0) {
    add_lora_of(linear, x, out.y, {}, executor);
    each_row(executor, x.rows, [&](std::size_t r) {
      for (std::size_t c = 0; c < gain.size(); ++c) out.y(r, c) = gain[c] * out.y(r, c) + bias(c);
    });
    return;
  }
  Matrix masked(x.rows, x.cols), frozen(x.rows, gain.size());
  out.dropout.apply(x, masked.view(), executor, &linear.weight->backend());
  product(linear, masked.view(), frozen.view(), executor);
  Matrix whole = frozen;
  add_lora_of(linear, masked.view(), whole.view(), {}, executor);
  each_row(executor, x.rows, [&](std::size_t r) {
    for (std::size_t c = 0; c < gain.size(); ++c)
      out.y(r, c) = out.y(r, c) - frozen(r, c) + gain[c] * whole(r, c) + bias(c);
  });
}

/// What becomes of a gradient that others are added to.
enum class Put { first, added };

/// The transposed product of grad_y, masked as the input was.
void transposed(const Linear& linear, MatrixView<const float> grad_y, const train::Dropout& dropout, Put put,
                MatrixView<float> grad_x, Executor& executor) {
  Matrix apart(put == Put::first ? 0 : grad_x.rows, grad_x.cols);
  const MatrixView<float> back = put == Put::first ? grad_x : apart.view();
  linear.weight->backend().matmul_transposed(grad_y, *linear.weight, back, executor);
  if (dropout.rate != 0) dropout.apply(back, back, executor, &linear.weight->backend());
  if (put == Put::added) add(back, grad_x, executor);
}

/// grad_y with column c multiplied by factor(c).
template <class Factor>
Matrix scaled(MatrixView<const float> grad_y, const Factor& factor, Executor& executor) {
  Matrix out(grad_y.rows, grad_y.cols);
  each_row(executor, grad_y.rows, [&](std::size_t r) {
    for (std::size_t c = 0; c < grad_y.cols; ++c) out(r, c) = grad_y(r, c) * factor(c);
  });
  return out;
}

void add_lora_gradient(const LinearGradient& g, MatrixView<const float> x, MatrixView<const float> grad_y,
                       MatrixView<float> grad_x, Executor& executor) {
  const LinearAdapter& l = *g.linear.adapter;
  const train::LoraGradient gradient{x, l.a, l.b, grad_y, grad_x, g.to.a, g.to.b, l.scale, g.dropout};
  train::add_lora_gradients({&gradient, 1}, executor, &g.linear.weight->backend());
}

void add_gradient_with_gain(const LinearGradient& g, MatrixView<const float> x, MatrixView<float> grad_x, Put put,
                            Executor& executor) {
  const std::span<const float> gain = g.linear.adapter->gain;
  if (!g.to.magnitude.empty()) {
    const Matrix whole = adapted(g.linear, x, g.dropout, executor);
    parallel_for(executor, gain.size(), 64, [&](std::size_t begin, std::size_t end) {
      for (std::size_t r = 0; r < x.rows; ++r)
        for (std::size_t c = begin; c < end; ++c)
          g.to.magnitude[c] += g.grad_y(r, c) * whole(r, c) * g.to.inverse_norm[c];
    });
  }
  const Matrix through = scaled(
      g.grad_y, [&](std::size_t c) { return gain[c]; }, executor);
  if (grad_x.data != nullptr) {
    if (g.dropout.rate == 0) {
      transposed(g.linear, through.view(), {}, put, grad_x, executor);
    } else {
      transposed(g.linear, g.grad_y, {}, put, grad_x, executor);
      const Matrix correction = scaled(
          g.grad_y, [&](std::size_t c) { return gain[c] - 1; }, executor);
      transposed(g.linear, correction.view(), g.dropout, Put::added, grad_x, executor);
    }
  }
  add_lora_gradient(g, x, through.view(), grad_x, executor);
}

}  // namespace

void apply_linears(MatrixView<const float> x, std::span<const LinearOutput> outputs, Activations activations,
                   Executor& executor) {
  std::vector<Projection> projections;
  for (const LinearOutput& out : outputs)
    projections.push_back({out.linear.weight.get(), out.y,
                           has_gain(out.linear) ? std::span<const float>() : std::span<const float>(out.linear.bias)});
  const Linear& first = outputs.front().linear;
  try {
    first.weight->backend().matmul_fused(x, projections, activations, executor);
    for (const LinearOutput& out : outputs) {
      if (has_gain(out.linear)) finish_with_gain(out, x, executor);
      else if (out.linear.adapter) add_lora_of(out.linear, x, out.y, out.dropout, executor);
    }
  } catch (const Error& e) {
    rethrow_for(first, e);
  }
}

void finish_product(const LinearOutput& out, MatrixView<const float> x, Executor& executor) {
  const Linear& linear = out.linear;
  if (has_gain(linear)) return finish_with_gain(out, x, executor);
  if (!linear.bias.empty())
    each_row(executor, x.rows, [&](std::size_t r) {
      for (std::size_t c = 0; c < linear.bias.size(); ++c) out.y(r, c) += linear.bias[c];
    });
  if (linear.adapter) add_lora_of(linear, x, out.y, out.dropout, executor);
}

void linear_gradients(MatrixView<const float> x, std::span<const LinearGradient> gradients, MatrixView<float> grad_x,
                      Executor& executor) {
  Put put = Put::first;
  for (const LinearGradient& g : gradients) {
    try {
      if (has_gain(g.linear)) {
        add_gradient_with_gain(g, x, grad_x, put, executor);
      } else {
        if (grad_x.data != nullptr) transposed(g.linear, g.grad_y, {}, put, grad_x, executor);
        if (g.linear.adapter) add_lora_gradient(g, x, g.grad_y, grad_x, executor);
        else if (g.to.weight.data != nullptr)
          train::add_weight_gradient(x, g.grad_y, g.to.weight, executor, &g.linear.weight->backend());
      }
    } catch (const Error& e) {
      rethrow_for(g.linear, e);
    }
    put = Put::added;
  }
}

}  // namespace nibble::inline NIBBLE_ABI::engine
