// Optimizers over a caller's tensors: AdamW and Lion, with their moments in fp32 or in blocks of 8 bits.
//
//   std::vector<train::Parameter> parameters{{"q_proj.lora_A", a, grad_a}, {"q_proj.lora_B", b, grad_b}, …};
//   train::Optimizer optimizer(parameters, {.state_bits = 8, .max_grad_norm = 0.3});
//   for (std::size_t t = 0; t < schedule.steps; ++t) {
//     … add up the gradients of a batch …
//     optimizer.step(2e-4 * schedule.factor(t), 1.0 / tokens);
//   }
//
// The arithmetic is train/adam8.h's and train/lion8.h's, element by element, whatever the CPU; neither that nor the
// number of threads changes a bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "nibble/core/parallel.h"
#include "nibble/train/adam8.h"
#include "nibble/train/lion8.h"

namespace nibble::inline NIBBLE_ABI {

class Backend;

namespace train {

/// A tensor that is trained. Values and gradient stay the caller's, and must outlive the optimizer.
struct Parameter {
  std::string name;  ///< For errors and for the names of the state.
  std::span<float> values;
  std::span<const float> gradient;  ///< As long as the values.
  bool decay = true;                ///< False for what weight decay leaves alone: norms and biases.
  double rate = 1;  ///< The step's learning rate is multiplied by it: scales of a grid, say, move in other steps than
                    ///< weights. Finite, 0 or more; 0 leaves the tensor as it is.
};

struct OptimizerOptions {
  std::variant<AdamOptions, LionOptions> rule = AdamOptions{.learning_rate = 2e-4};
  int state_bits = 32;               ///< Of the moments: 32, or 8 (blocks of kAdam8Block elements and an fp32 absmax).
  std::size_t min_8bit_size = 4096;  ///< Tensors of fewer elements keep fp32 moments, as bitsandbytes' do.
  double max_grad_norm = 0;          ///< Gradients are scaled down to this global norm; 0: never.
  /// Where the moments take more than so many bytes they lie in a file without a name in `paging_folder`, and of them
  /// that much at most is in the process at a time (Dettmers et al. 2023, section 3, "Paged Optimizers"). 0: no limit.
  std::size_t resident_bytes = 0;
  std::filesystem::path paging_folder = {};
  Executor* executor = nullptr;      ///< Null: default_executor().
  const Backend* backend = nullptr;  ///< Whose kernels compute; null: default_backend(). It never shows in a result.
};

/// What a step did.
struct StepReport {
  double gradient_norm = 0;  ///< Over all parameters, after the caller's scale and before clipping.
  double clipped_by = 1;     ///< What the gradients were multiplied by for max_grad_norm: min(1, max/(norm + 1e-6)).
};

/// A piece of the optimizer's state, to be saved or put back: "<parameter>.<part>", with bitsandbytes' words for the
/// parts: state1 and state2 are the moments (fp32, or codes of 8 bits), absmax1 and absmax2 the blocks' scales.
struct StateTensor {
  std::string name;
  bool codes = false;  ///< Bytes that are codes; else fp32.
  std::span<std::byte> bytes;
};

class Optimizer {
 public:
  /// Error{shape_mismatch}: a gradient is not as long as its values; {invalid_argument}: a name is there twice, or an
  /// option is out of range; {io}: there is no room for the file of the moments. They begin as 0.
  Optimizer(std::vector<Parameter> parameters, const OptimizerOptions& options);
  ~Optimizer();
  Optimizer(Optimizer&&) noexcept;
  Optimizer& operator=(Optimizer&&) noexcept;

  /// One step at a learning rate, on gradients that are first multiplied by `gradient_scale` (1 over the tokens that
  /// a batch's losses were summed over). Error{non_finite}: a gradient is not finite; it names the parameter, the place
  /// and the value, and neither parameters nor state have changed.
  StepReport step(double learning_rate, double gradient_scale = 1);

  /// Steps taken: what Adam's corrections and a checkpoint need.
  [[nodiscard]] std::uint64_t steps() const;
  void set_steps(std::uint64_t steps);
  /// The state as it lies in memory, in the order of the parameters. Writing into it puts a saved one back.
  [[nodiscard]] std::vector<StateTensor> state();
  [[nodiscard]] std::size_t state_bytes() const;
  /// Whether the moments lie in a file.
  [[nodiscard]] bool paged() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace train
}  // namespace nibble::inline NIBBLE_ABI
