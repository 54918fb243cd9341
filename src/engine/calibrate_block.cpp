#include "calibrate_block.h"

#include "nibble/quantize/quantize.h"

namespace nibble::inline NIBBLE_ABI::engine {

using model::Input;
using model::Role;

BlockRunner::BlockRunner(const CalibrationContext& c, Block& block)
    : context_(c), block_(block), pass_(c.config, c.executor, Activations::fp32, nullptr) {
  const std::size_t n = c.states.tokens();
  states_.resize(n * c.states.width());
  keys_.resize(n * c.config.kv_heads * c.config.head_dim);
  values_.resize(keys_.size());
}

KeyValues BlockRunner::cache() {
  const std::size_t n = context_.states.tokens(), width = context_.config.kv_heads * context_.config.head_dim;
  return {{keys_.data(), n, width}, {values_.data(), n, width}, 0};
}

void BlockRunner::each(bool keep, double first, double last, const std::string& what, const Visit& visit) {
  model::CalibrationStore& store = context_.states;
  const MatrixView<float> x(states_.data(), store.tokens(), store.width());
  for (std::size_t s = 0; s < store.sequences(); ++s) {
    report(context_.progress, first + (last - first) * static_cast<double>(s) / static_cast<double>(store.sequences()),
           what);
    store.read(s, x);
    visit(s, x);
    if (keep) store.write(s, x);
  }
}

void BlockRunner::advance(double first, double last) {
  each(true, first, last, "running the block", [&](std::size_t, MatrixView<float> x) {
    add_attention(x);
    add_mlp(x);
  });
}

void BlockRunner::add_mixed(MatrixView<const float> mixed, MatrixView<float> x) {
  pass_.add_attention_output(block_, mixed, x, scratch_);
}

MatrixView<const float> BlockRunner::input(Input input, MatrixView<const float> x) {
  normed_.resize(x.rows * x.cols);
  const MatrixView<float> y(normed_.data(), x.rows, x.cols);
  const bool of_attention = input == Input::attention || input == Input::heads;
  pass_.norm(x, block_.norm(of_attention ? Role::attention_norm : Role::ffn_norm), y);
  if (input == Input::attention || input == Input::ffn) return y;
  const model::Config& c = context_.config;
  const std::size_t width = input == Input::heads ? c.heads * c.head_dim : c.intermediate;
  inner_.resize(x.rows * width);
  const MatrixView<float> inner(inner_.data(), x.rows, width);
  if (input == Input::heads) pass_.mix(block_, y, context_.rope.of(block_), cache(), inner);
  else pass_.gate(block_, y, inner);
  return inner;
}

std::string input_name(const Block& block, const model::Architecture& architecture, Input input) {
  return "inputs of " + block[architecture.linears(input).front().role].name;
}

model::FinishedBlock::Layer round_layer(const CalibrationContext& c, const std::string& name,
                                        const model::CalibratedMethod& method) {
  const FloatMatrix weights = c.checkpoint.matrix(name + ".weight");
  model::FinishedBlock::Layer out;
  out.report.layer = name;
  out.report.method = method.to_string();
  out.dtype = weights.type;
  out.matrix = c.backend.quantize(weights, method.spec, name + ".weight", c.executor);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::engine
