#include "rotate_plan.h"

#include <algorithm>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

[[noreturn]] void unsupported(const std::string& why) { throw Error(ErrorCode::unsupported, why); }

std::string shape_text(const std::vector<std::size_t>& shape) {
  std::string out;
  for (const std::size_t d : shape) out += (out.empty() ? "" : " × ") + std::to_string(d);
  return out.empty() ? "a single value" : out;
}

/// The row of a layer's output at which the values begin.
std::size_t first_value_row(Role role, const Config& c) {
  return role == Role::query_key_value ? (c.heads + c.kv_heads) * c.head_dim : 0;
}

bool gives_values(Role role) { return role == Role::value || role == Role::query_key_value; }

/// Tensors that files carry and no model computes with: frequencies that follow from the configuration.
bool is_constant(const std::string& tensor) { return tensor.find(".rotary_emb.") != std::string::npos; }

RandomRotation rotation(const char* what, std::size_t size, std::size_t stream, const RotateOptions& o) {
  try {
    return {size, {.seed = o.seed, .stream = static_cast<std::uint32_t>(stream), .block = o.block}};
  } catch (const Error& e) {
    throw Error(e.code(), std::string(what) + " is " + std::to_string(size) + ": " + e.what());
  }
}

}  // namespace

RotatePlan::RotatePlan(const Config& config, const Checkpoint& in, const RotateOptions& options)
    : config_(config), in_(in), options_(options) {
  check_architecture();
  make_rotations();
  for (std::size_t i = 0; i < config.layers; ++i) plan_block(i);
  plan_ends();
  check_tensors();
}

const TensorChange* RotatePlan::find(const std::string& tensor) const {
  const auto it = changes_.find(tensor);
  const bool changes =
      it != changes_.end() && (it->second.rotates() || it->second.neutral_norm || !it->second.norm.empty());
  return changes ? &it->second : nullptr;
}

std::vector<double> RotatePlan::norm(const std::string& tensor) const {
  const std::vector<float> stored = in_.read_f32(tensor);
  std::vector<double> out(stored.begin(), stored.end());
  if (config_.architecture().norm_plus_one)
    for (double& x : out) x += 1;
  return out;
}

void RotatePlan::check_architecture() const {
  const Architecture& a = config_.architecture();
  if (!options_.r1) return;
  for (const Module& m : a.block)
    if (m.role == Role::attention_post_norm || m.role == Role::ffn_post_norm)
      unsupported(
          "R1 of the architecture '" + std::string(a.model_type) + "': '" + std::string(m.name) +
          "' is a norm between a layer's output and the residual stream, and what it multiplies each channel by "
          "cannot be folded into anything behind it; leave R1 out (--no-r1), R2 is possible");
}

void RotatePlan::make_rotations() {
  if (options_.r1) r1_.emplace(rotation("hidden_size", config_.hidden, 0, options_));
  if (options_.r2)
    for (std::size_t i = 0; i < config_.layers; ++i)
      r2_.push_back(rotation("head_dim", config_.head_dim, 1 + i, options_));
}

void RotatePlan::plan_block(std::size_t index) {
  for (const BlockModule& m : config_.architecture().modules(index, config_.experts)) plan_module(index, m);
}

void RotatePlan::plan_module(std::size_t index, const BlockModule& m) {
  const Architecture& a = config_.architecture();
  const std::size_t rows = config_.elements(m->out);
  TensorChange change{.rows = rows, .cols = 1};
  if (m->is_norm()) {
    change.neutral_norm = options_.fold_norms && (m->role == Role::attention_norm || m->role == Role::ffn_norm);
    changes_.emplace(m.name + ".weight", change);
    return;
  }
  if (m->is_linear() && m->out == Size::hidden) change.output = r1();
  if (gives_values(m->role)) change.output = r2(index), change.first_row = first_value_row(m->role, config_);
  if (m->is_linear()) changes_.emplace(m.name + ".bias", change);
  change.cols = config_.elements(m->in);
  const bool router = m->role == Role::router;
  if (router || m->input == Input::attention || m->input == Input::ffn) {
    const Role before = router || m->input == Input::ffn ? Role::ffn_norm : Role::attention_norm;
    if (options_.fold_norms && a.has(before)) change.norm = a.name(index, before) + ".weight";
    change.input = r1();
  } else if (m->input == Input::heads) {
    change.input = r2(index);
  }
  changes_.emplace(m.name + ".weight", change);
}

void RotatePlan::plan_ends() {
  const Architecture& a = config_.architecture();
  const auto weight = [](const EndModule& end) { return std::string(end.name) + ".weight"; };
  const TensorChange embedding{.input = r1(), .rows = config_.vocab, .cols = config_.hidden};
  TensorChange head = embedding;
  if (options_.fold_norms) head.norm = weight(a.final_norm);
  changes_.emplace(weight(a.embedding), embedding);
  changes_.emplace(weight(a.final_norm),
                   TensorChange{.neutral_norm = options_.fold_norms, .rows = config_.hidden, .cols = 1});
  if (in_.contains(weight(a.head))) changes_.emplace(weight(a.head), head);
  else if (unties()) new_head_ = head;
}

void RotatePlan::check_tensors() const {
  for (const TensorInfo& t : in_.tensors()) {
    if (is_constant(t.name)) continue;
    const auto it = changes_.find(t.name);
    if (it == changes_.end())
      unsupported("tensor '" + t.name + "' belongs to no module of the architecture '" + config_.model_type +
                  "', so that nobody here knows whether the model would stay the same with it; remove it from the file "
                  "if the model does without");
    const TensorChange& c = it->second;
    const bool vector = c.cols == 1 && t.shape == std::vector<std::size_t>{c.rows};
    if (!vector && t.shape != std::vector<std::size_t>{c.rows, c.cols})
      throw Error(ErrorCode::shape_mismatch, "tensor '" + t.name + "' is " + shape_text(t.shape) +
                                                 "; the configuration needs " +
                                                 (c.cols == 1 ? shape_text({c.rows}) : shape_text({c.rows, c.cols})));
    if (!is_float(t.type))
      unsupported("tensor '" + t.name + "' is of " + std::string(name_of(t.type)) + ", which cannot be rotated");
  }
}

}  // namespace nibble::inline NIBBLE_ABI::model
