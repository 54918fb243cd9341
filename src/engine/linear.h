// Linear layers with their adapters, forward and backward.
#pragma once

#include <span>

#include "nibble/core/error.h"
#include "nibble/engine/block.h"
#include "nibble/train/dropout.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// One of several layers with the same input.
struct LinearOutput {
  const Linear& linear;
  MatrixView<float> y;
  train::Dropout dropout = {};  ///< Of the adapter's input, in training.
};

/// All of them in one call of the backend, and then their adapters. Errors name the first layer.
void apply_linears(MatrixView<const float> x, std::span<const LinearOutput> outputs, Activations activations,
                   Executor& executor);

/// y = W·x, without the bias, becomes what the layer gives: for rows of a batch whose product was one with others'.
void finish_product(const LinearOutput& out, MatrixView<const float> x, Executor& executor);

/// Where the gradients of a layer's parts go; each is added to. Views without data: not wanted.
struct PartGradients {
  MatrixView<float> a = {}, b = {};  ///< Of the adapter.
  std::span<float> magnitude = {};
  std::span<const float> inverse_norm = {};  ///< [out], of the adapted rows: gain = magnitude·inverse_norm.
  MatrixView<float> weight = {};             ///< [out, in], of a layer without an adapter (train/weight_gradient.h).
};

struct LinearGradient {
  const Linear& linear;
  MatrixView<const float> grad_y;
  PartGradients to = {};
  train::Dropout dropout = {};
};

/// grad_x becomes what layers with the same input x give back to it, unless it is without data; the gradients of their
/// parts are added to.
void linear_gradients(MatrixView<const float> x, std::span<const LinearGradient> gradients, MatrixView<float> grad_x,
                      Executor& executor);

/// An error of a product, with the layer that it speaks of.
[[noreturn]] inline void rethrow_for(const Linear& linear, const Error& e) {
  throw Error(e.code(), "layer '" + linear.name + "': " + e.what());
}

}  // namespace nibble::inline NIBBLE_ABI::engine
