#include "nibble/train/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <utility>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/buffer.h"
#include "nibble/core/error.h"
#include "nibble/matrix/scheme_registry.h"
#include "paged_memory.h"

namespace nibble::inline NIBBLE_ABI::train {

namespace {

/// Elements that one task works on: whole blocks. Where tasks end shows in no bit but the norm's, so it is fixed.
constexpr std::size_t kChunk = 64 * kAdam8Block;
/// A gradient below it has a square that fp32 holds.
constexpr double kMaxGradient = 0x1p63;

constexpr SchemeEntry kSignedMap = codebook_scheme<dynamic_map<true>>(kAdam8Block),
                      kUnsignedMap = codebook_scheme<dynamic_map<false>>(kAdam8Block);
static_assert(kSignedMap.ranks_are_codes && kUnsignedMap.ranks_are_codes);
static_assert(kRankKeys<dynamic_map<true>>.holds() && kRankKeys<dynamic_map<false>>.holds());
static_assert(kernels::kMomentBlock == kAdam8Block);

/// A moment of a tensor: fp32, or codes and a scale for each block.
struct Moment {
  std::span<std::byte> values;
  Buffer absmax;  ///< Empty where the values are fp32.

  template <class T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(values.data());
  }
};

struct Tensor {
  Parameter parameter;
  std::vector<Moment> moments;
  bool eight_bits = false;
};

/// A moment in 8 bits from element `first` on, where a block begins.
kernels::CodedMoment coded(const SchemeEntry& map, const Moment& moment, std::size_t first) {
  return {moment.as<std::uint8_t>() + first, moment.absmax.writable<float>() + first / kAdam8Block, map.codebook.data(),
          map.rank_keys};
}

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::invalid_argument, "optimizer: " + what); }

void check_share(const char* name, double value, bool below_one) {
  if (value >= 0 && (below_one ? value < 1 : value <= 1)) return;
  refuse(std::string(name) + " is " + std::to_string(value) + "; it must be from 0 up to 1");
}

void check(const OptimizerOptions& o) {
  std::visit(
      [](const auto& rule) {
        check_share("beta1", rule.beta1, true);
        check_share("beta2", rule.beta2, true);
        if (!(rule.weight_decay >= 0 && std::isfinite(rule.weight_decay)))
          refuse("weight_decay is " + std::to_string(rule.weight_decay) + "; it must be 0 or more");
      },
      o.rule);
  if (const auto* adam = std::get_if<AdamOptions>(&o.rule); adam != nullptr && !(adam->epsilon > 0))
    refuse("epsilon is " + std::to_string(adam->epsilon) + "; it must be above 0");
  if (o.state_bits != 8 && o.state_bits != 32)
    refuse("state_bits is " + std::to_string(o.state_bits) + "; 8 and 32 are possible");
  if (!(o.max_grad_norm >= 0)) refuse("max_grad_norm is " + std::to_string(o.max_grad_norm) + "; it must be 0 or more");
}

kernels::OptimizerFactors factors_of(const AdamOptions& o, double learning_rate, std::uint64_t t) {
  AdamOptions now = o;
  now.learning_rate = learning_rate;
  const AdamStep s = adam_step(now, t);
  return {s.beta1, s.rest1, s.beta2, s.rest2, s.rate, s.epsilon, s.keep};
}
kernels::OptimizerFactors factors_of(const LionOptions& o, double learning_rate, std::uint64_t) {
  LionOptions now = o;
  now.learning_rate = learning_rate;
  const LionStep s = lion_step(now);
  return {s.beta1, s.rest1, s.beta2, s.rest2, s.rate, 0, s.keep};
}

/// Eight sums side by side, for the compiler's vectors.
double sum_of_squares(std::span<const float> x) {
  std::array<double, 8> sums{};
  std::size_t i = 0;
  for (; i + sums.size() <= x.size(); i += sums.size())
    for (std::size_t j = 0; j < sums.size(); ++j)
      sums[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  double sum = 0;
  for (; i < x.size(); ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (const double s : sums) sum += s;
  return sum;
}

}  // namespace

struct Optimizer::Impl {
  OptimizerOptions options;
  std::vector<Tensor> tensors;
  struct Chunk {
    std::size_t tensor, first, last;
  };
  std::vector<Chunk> chunks;
  std::vector<std::size_t> windows;  ///< Where runs of chunks end that are worked on together: all, unless paged.
  Buffer memory;                     ///< Of the moments, or
  std::unique_ptr<PagedMemory> pages;
  std::uint64_t steps = 0;

  Impl(std::vector<Parameter> parameters, const OptimizerOptions& o) : options(o) {
    check(options);
    std::set<std::string> names;
    for (Parameter& p : parameters) {
      if (p.gradient.size() != p.values.size())
        throw Error(ErrorCode::shape_mismatch, "parameter '" + p.name + "' has " + std::to_string(p.values.size()) +
                                                   " elements and its gradient " + std::to_string(p.gradient.size()));
      if (!names.insert(p.name).second) refuse("there are two parameters '" + p.name + "'");
      if (!(p.rate >= 0 && std::isfinite(p.rate)))
        refuse("the rate of '" + p.name + "' is " + std::to_string(p.rate) + "; it must be 0 or more");
      add(std::move(p));
    }
    place_moments();
  }

  [[nodiscard]] std::size_t moments() const { return std::holds_alternative<AdamOptions>(options.rule) ? 2 : 1; }

  void add(Parameter p) {
    const std::size_t n = p.values.size(), blocks = (n + kAdam8Block - 1) / kAdam8Block;
    Tensor t{std::move(p), {}, options.state_bits == 8 && n >= options.min_8bit_size};
    for (std::size_t m = 0; m < moments(); ++m)
      t.moments.push_back({{}, t.eight_bits ? Buffer::allocate(blocks * sizeof(float)) : Buffer()});
    for (std::size_t first = 0; first < n; first += kChunk)
      chunks.push_back({tensors.size(), first, std::min(n, first + kChunk)});
    tensors.push_back(std::move(t));
  }

  static std::size_t moment_bytes(const Tensor& t, std::size_t elements) {
    return elements * (t.eight_bits ? 1 : sizeof(float));
  }

  /// Gives the moments their memory: each begins at a cache line.
  void place_moments() {
    constexpr std::size_t kAlign = 64;
    const auto room = [](const Tensor& t) {
      return (moment_bytes(t, t.parameter.values.size()) + kAlign - 1) / kAlign * kAlign;
    };
    std::size_t bytes = 0;
    for (const Tensor& t : tensors) bytes += moments() * room(t);
    if (options.resident_bytes != 0 && bytes > options.resident_bytes)
      pages = std::make_unique<PagedMemory>(bytes, options.paging_folder);
    else memory = Buffer::allocate(bytes);
    std::byte* at = pages ? pages->bytes().data() : memory.writable<std::byte>();
    for (Tensor& t : tensors)
      for (Moment& m : t.moments) {
        m.values = {at, moment_bytes(t, t.parameter.values.size())};
        at += room(t);
      }
    std::size_t held = 0;
    for (std::size_t c = 0; c < chunks.size(); ++c) {
      held += moments() * moment_bytes(tensors[chunks[c].tensor], chunks[c].last - chunks[c].first);
      if (c + 1 == chunks.size() || (pages && held + moments() * kChunk * sizeof(float) > options.resident_bytes)) {
        windows.push_back(c + 1);
        held = 0;
      }
    }
  }

  void release(const Chunk& c) const {
    const Tensor& t = tensors[c.tensor];
    for (const Moment& m : t.moments)
      PagedMemory::release(m.values.subspan(moment_bytes(t, c.first), moment_bytes(t, c.last - c.first)));
  }

  [[nodiscard]] Executor& executor() const {
    return options.executor != nullptr ? *options.executor : default_executor();
  }

  /// √Σ g². Error{non_finite} names the first gradient that is none.
  [[nodiscard]] double norm() const {
    std::vector<double> sums(chunks.size());
    parallel_for(executor(), chunks.size(), 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t c = begin; c < end; ++c)
        sums[c] = sum_of_squares(
            tensors[chunks[c].tensor].parameter.gradient.subspan(chunks[c].first, chunks[c].last - chunks[c].first));
    });
    double sum = 0;
    for (const double s : sums) sum += s;
    if (!std::isfinite(sum)) refuse_gradient();
    return std::sqrt(sum);
  }

  [[noreturn]] void refuse_gradient() const {
    for (const Tensor& t : tensors)
      for (std::size_t i = 0; i < t.parameter.gradient.size(); ++i)
        if (const float g = t.parameter.gradient[i]; !is_finite(g))
          throw Error(ErrorCode::non_finite, "the gradient of '" + t.parameter.name + "', element " +
                                                 std::to_string(i) + ", is " + std::to_string(g) +
                                                 "; nothing was changed. A lower learning rate, or a longer warm-up, "
                                                 "may help");
    throw Error(ErrorCode::non_finite, "a gradient changed while the optimizer read it");
  }

  /// Elements [first, first + n) of a tensor, where a block begins.
  void update(const kernels::KernelTable& isa, const kernels::OptimizerFactors& step, const Tensor& t,
              std::size_t first, std::size_t n, const float* gradient) const {
    float* values = t.parameter.values.data() + first;
    const bool adam = moments() == 2;
    if (t.eight_bits) {
      const kernels::CodedMoment m = coded(kSignedMap, t.moments[0], first);
      if (adam) isa.adam8(step, gradient, n, m, coded(kUnsignedMap, t.moments[1], first), values);
      else isa.lion8(step, gradient, n, m, values);
      return;
    }
    float* m = t.moments[0].as<float>() + first;
    if (adam) isa.adam(step, gradient, n, m, t.moments[1].as<float>() + first, values);
    else isa.lion(step, gradient, n, m, values);
  }

  void update(const kernels::KernelTable& isa, std::span<const kernels::OptimizerFactors> steps, const Chunk& c,
              float scale) const {
    const Tensor& t = tensors[c.tensor];
    kernels::OptimizerFactors step = steps[c.tensor];
    if (!t.parameter.decay) step.keep = 1;
    const float* gradient = t.parameter.gradient.data();
    if (scale == 1 && t.eight_bits) return update(isa, step, t, c.first, c.last - c.first, gradient + c.first);
    std::array<float, kAdam8Block> scaled;
    // Moments in fp32 too block after block: on Zen 5 one long pass over the four arrays takes 1.3 times as long.
    for (std::size_t at = c.first; at < c.last; at += kAdam8Block) {
      const std::size_t n = std::min(kAdam8Block, c.last - at);
      if (scale != 1)
        for (std::size_t i = 0; i < n; ++i) scaled[i] = gradient[at + i] * scale;
      update(isa, step, t, at, n, scale == 1 ? gradient + at : scaled.data());
    }
  }
};

Optimizer::Optimizer(std::vector<Parameter> parameters, const OptimizerOptions& options)
    : impl_(std::make_unique<Impl>(std::move(parameters), options)) {}
Optimizer::~Optimizer() = default;
Optimizer::Optimizer(Optimizer&&) noexcept = default;
Optimizer& Optimizer::operator=(Optimizer&&) noexcept = default;

StepReport Optimizer::step(double learning_rate, double gradient_scale) {
  Impl& o = *impl_;
  if (!(learning_rate >= 0 && std::isfinite(learning_rate)))
    refuse("the learning rate is " + std::to_string(learning_rate) + "; it must be 0 or more");
  if (!(gradient_scale > 0 && std::isfinite(gradient_scale)))
    refuse("gradient_scale is " + std::to_string(gradient_scale) + "; it must be above 0");
  StepReport report{.gradient_norm = o.norm() * gradient_scale};
  if (o.options.max_grad_norm > 0)
    report.clipped_by = std::min(1.0, o.options.max_grad_norm / (report.gradient_norm + 1e-6));
  if (report.gradient_norm * report.clipped_by > kMaxGradient)
    throw Error(ErrorCode::non_finite, "the gradients' norm is " + std::to_string(report.gradient_norm) +
                                           ", whose square fp32 does not hold; nothing was changed");
  const auto scale = static_cast<float>(gradient_scale * report.clipped_by);
  std::vector<kernels::OptimizerFactors> steps;
  for (const Tensor& t : o.tensors)
    steps.push_back(
        std::visit([&](const auto& rule) { return factors_of(rule, learning_rate * t.parameter.rate, o.steps + 1); },
                   o.options.rule));
  const kernels::KernelTable& isa = kernels_of(o.options.backend);
  std::size_t first = 0;
  for (const std::size_t last : o.windows) {
    parallel_for(o.executor(), last - first, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t c = first + begin; c < first + end; ++c) {
        o.update(isa, steps, o.chunks[c], scale);
        if (o.pages) o.release(o.chunks[c]);
      }
    });
    first = last;
  }
  ++o.steps;
  return report;
}

std::uint64_t Optimizer::steps() const { return impl_->steps; }
void Optimizer::set_steps(std::uint64_t steps) { impl_->steps = steps; }

std::vector<StateTensor> Optimizer::state() {
  std::vector<StateTensor> out;
  for (const Tensor& t : impl_->tensors)
    for (std::size_t m = 0; m < t.moments.size(); ++m) {
      const auto add = [&](const char* part, std::span<std::byte> bytes, bool codes) {
        if (!bytes.empty()) out.push_back({t.parameter.name + "." + part + std::to_string(m + 1), codes, bytes});
      };
      const Buffer& absmax = t.moments[m].absmax;
      add("state", t.moments[m].values, t.eight_bits);
      add("absmax", {absmax.writable<std::byte>(), absmax.size()}, false);
    }
  return out;
}

std::size_t Optimizer::state_bytes() const {
  std::size_t bytes = 0;
  for (const Tensor& t : impl_->tensors)
    for (const Moment& m : t.moments) bytes += m.values.size() + m.absmax.size();
  return bytes;
}

bool Optimizer::paged() const { return impl_->pages != nullptr; }

}  // namespace nibble::inline NIBBLE_ABI::train
