// This engine's blocks as calibration sees them: a group for each of model::Input, in its order, and of those that
// experts have one for each of them.
#include "calibrated_parts.h"
#include "matrix.h"
#include "nibble/solver/awq.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

using model::CalibratedLayer;
using model::Input;
using model::LayerGroup;
using model::LayerId;
using model::Module;
using model::Role;

class EngineBlock final : public model::CalibratedBlock {
 public:
  EngineBlock(CalibratedParts& shared, std::size_t index)
      : shared_(shared),
        block_(shared.loader->block(index)),
        pass_(shared.config, shared.loader->executor(), Activations::fp32, nullptr),
        weights_(shared.checkpoint) {
    for (const Input input : {Input::attention, Input::heads, Input::ffn, Input::gated}) {
      const bool of_experts = shared.architecture.linears(input).front().is_expert();
      for (std::size_t e = 0; e < (of_experts ? shared.config.experts : 1); ++e) {
        places_.push_back({input, e});
        groups_.push_back(describe(input, e, index));
      }
    }
  }

  std::span<const LayerGroup> groups() const override { return groups_; }
  FloatMatrix weights(LayerId id) override { return weights_.lend(linear(block_, id).name); }
  void replace(LayerId id, QuantizedMatrix weights) override {
    weights_.take_back();
    linear(block_, id).weight = shared_.loader->backend().pack(std::move(weights), shared_.loader->executor());
  }

  void replace_by_blocks(LayerId id, BlockMatrix weights) override {
    weights_.take_back();
    linear(block_, id).weight = shared_.loader->backend().pack(std::move(weights), shared_.loader->executor());
  }

  void run(MatrixView<float> x, Listener listen) override {
    const MatrixView<const float> normed = norm(x, Role::attention_norm);
    if (!listen(first_of(Input::attention), normed)) return;
    const model::Config& c = shared_.config;
    inner_.resize(x.rows * c.heads * c.head_dim);
    const MatrixView<float> mixed(inner_.data(), x.rows, c.heads * c.head_dim);
    pass_.attention(block_, normed, shared_.rope(block_, x.rows), cache(x.rows), mixed);
    if (!listen(first_of(Input::heads), mixed)) return;
    finish_attention(mixed, x, listen);
  }

  /// The heads are most of the work in a small model, so that their outputs are kept; the rest is a norm away.
  Resume resumes_at(std::size_t group) const override {
    if (group == first_of(Input::heads)) return Resume::with_input;
    return group == first_of(Input::ffn) ? Resume::with_states : Resume::never;
  }
  void resume(std::size_t group, MatrixView<const float> input, MatrixView<float> x, Listener listen) override {
    if (group == first_of(Input::heads)) finish_attention(input, x, listen);
    else feed_forward(x, listen);
  }

  std::span<const std::size_t> tokens_of(std::size_t) const override { return shown_tokens_; }

  void run_module(std::size_t group, std::span<const FloatMatrix> weights,
                  std::span<const MatrixView<const float>> inputs, Outputs outputs) override {
    Block tried = block_;
    for (std::size_t l = 0; l < weights.size(); ++l)
      linear(tried, {group, l}).weight = shared_.loader->backend().pack(weights[l], shared_.loader->executor());
    std::vector<float> values;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const MatrixView<const float> x = inputs[i];
      values.resize(x.rows * shared_.config.hidden);
      const MatrixView<float> y(values.data(), x.rows, shared_.config.hidden);
      if (group == first_of(Input::attention))
        pass_.attention_layer(tried, x, shared_.rope(tried, x.rows), cache(x.rows), y);
      else pass_.ffn(tried, x, y);
      outputs(i, y);
    }
  }

 private:
  [[nodiscard]] LayerGroup describe(Input input, std::size_t expert, std::size_t index) const {
    const model::Architecture& a = shared_.architecture;
    LayerGroup out;
    const std::vector<Module> modules = a.linears(input);
    for (const Module& m : modules) {
      CalibratedLayer& layer = out.layers.emplace_back(shared_.layer(a.name(index, m, expert)));
      layer.clips = m.role != Role::query && m.role != Role::key;  // as the reference
      layer.bias = shared_.vector(layer.name + ".bias");
    }
    const Module& source = a.module(modules.front().folds_into);
    const std::string name = a.name(index, source);
    if (source.is_linear()) {
      out.source.is_linear = true;
      out.source.linear = place_of(source, expert);
      if (input == Input::heads) {  // under grouped-query attention several channels come from one
        const model::Config& c = shared_.config;
        out.source.rows = awq::value_sources(c.heads, c.kv_heads, c.head_dim);
        out.source.last_rows = c.elements(model::Size::keys);
      }
    } else {
      out.source.norm = shared_.vector(name + ".weight");
      out.source.norm_plus_one = a.norm_plus_one;
    }
    out.routed = modules.front().is_expert();
    out.beside_previous = out.routed && expert > 0;
    out.has_module = input == Input::attention || (input == Input::ffn && !out.routed);
    if (input == Input::ffn && out.routed && expert == 0)
      out.scaled_along.push_back(shared_.vector(a.name(index, Role::router) + ".weight"));
    return out;
  }

  [[nodiscard]] std::size_t first_of(Input input) const {
    std::size_t group = 0;
    while (places_.at(group).input != input) ++group;
    return group;
  }

  [[nodiscard]] LayerId place_of(const Module& module, std::size_t expert) const {
    const std::vector<Module> modules = shared_.architecture.linears(module.input);
    std::size_t layer = 0;
    while (modules[layer].role != module.role) ++layer;
    return {first_of(module.input) + (module.is_expert() ? expert : 0), layer};
  }

  [[nodiscard]] Linear& linear(Block& block, LayerId id) const {
    const auto& [input, expert] = places_.at(id.group);
    const Module module = shared_.architecture.linears(input).at(id.layer);
    return (module.is_expert() ? block.experts.at(expert) : block.linears)[module.role];
  }

  [[nodiscard]] MatrixView<const float> norm(MatrixView<const float> x, Role role) {
    normed_.resize(x.rows * x.cols);
    const MatrixView<float> y(normed_.data(), x.rows, x.cols);
    pass_.norm(x, block_.norm(role), y);
    return y;
  }

  void finish_attention(MatrixView<const float> mixed, MatrixView<float> x, Listener listen) {
    pass_.add_attention_output(block_, mixed, x, scratch_);
    feed_forward(x, listen);
  }

  void feed_forward(MatrixView<float> x, Listener listen) {
    const MatrixView<const float> normed = norm(x, Role::ffn_norm);
    if (block_.router) return feed_forward_experts(normed, x, listen);
    if (!listen(first_of(Input::ffn), normed)) return;
    inner_.resize(x.rows * shared_.config.intermediate);
    const MatrixView<float> gated(inner_.data(), x.rows, shared_.config.intermediate);
    pass_.ffn_gated(block_, normed, gated);
    if (!listen(first_of(Input::gated), gated)) return;
    pass_.add_down(block_, gated, x, scratch_);
  }

  void feed_forward_experts(MatrixView<const float> normed, MatrixView<float> x, Listener listen) {
    const Routing routing = pass_.route(block_, normed);
    const std::size_t width = pass_.expert_width();
    Matrix rows(routing.places(), normed.cols), gated(routing.places(), width), out(x.rows, x.cols);
    pass_.gather(routing, normed, rows.view());
    if (!show(Input::ffn, routing, rows.view(), listen)) return;
    pass_.experts_gated(block_, routing, rows.view(), gated.view());
    if (!show(Input::gated, routing, gated.view(), listen)) return;
    pass_.experts_down(block_, routing, gated.view(), out.view());
    pass_.add_ffn_output(block_, out.view(), x);
  }

  /// Each expert's rows to its group.
  bool show(Input input, const Routing& routing, MatrixView<const float> rows, Listener listen) {
    for (std::size_t e = 0; e < routing.experts(); ++e) {
      shown_tokens_ = std::span(routing.tokens).subspan(routing.begins[e], routing.count(e));
      if (!listen(first_of(input) + e, rows.row_range(routing.begins[e], routing.count(e)))) return false;
    }
    return true;
  }

  [[nodiscard]] KeyValues cache(std::size_t tokens) {
    const std::size_t width = shared_.config.kv_heads * shared_.config.head_dim;
    keys_.resize(tokens * width);
    values_.resize(tokens * width);
    return {{keys_.data(), tokens, width}, {values_.data(), tokens, width}, 0};
  }

  CalibratedParts& shared_;
  Block block_;
  BlockPass pass_;
  BlockPass::Scratch scratch_;
  struct Place {
    Input input;
    std::size_t expert;
  };
  std::vector<Place> places_;  ///< By group.
  std::vector<LayerGroup> groups_;
  LentWeights weights_;
  std::span<const std::size_t> shown_tokens_;  ///< Of the expert whose rows the listener is being shown.
  std::vector<float> keys_, values_, normed_, inner_;
};

}  // namespace

std::unique_ptr<model::CalibratedBlock> calibrated_block(CalibratedParts& parts, std::size_t index) {
  return std::make_unique<EngineBlock>(parts, index);
}

}  // namespace nibble::inline NIBBLE_ABI::engine
