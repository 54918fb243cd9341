// All rows, solved step by step with the factor: a kernel for a step's columns, cuBLAS for what they ask of the rest.
#include <cmath>

#include "kernels/cuda/gptq_update.h"
#include "nibble/core/bit_pack.h"
#include "nibble/solver/impl/gptq_setup.h"
#include "solver/cuda/gptq_work.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

/// Positions group by group, as GptqBuffers has them.
struct Members {
  std::vector<std::int32_t> group, positions, first;

  explicit Members(const gptq::Plan& plan) : positions(plan.cols()), first(plan.groups + 1) {
    for (const std::size_t g : plan.group) {
      group.push_back(static_cast<std::int32_t>(g));
      ++first[g + 1];
    }
    for (std::size_t g = 0; g < plan.groups; ++g) first[g + 1] += first[g];
    std::vector<std::int32_t> next(first.begin(), first.end() - 1);
    for (std::size_t i = 0; i < plan.cols(); ++i)
      positions[static_cast<std::size_t>(next[plan.group[i]]++)] = static_cast<std::int32_t>(i);
  }
};

template <class T>
class Solving {
 public:
  Solving(const GptqWork& work, const gptq::Plan& plan, const GptqFactor& factor)
      : work_(work), plan_(plan), factor_(factor), rows_(work.weights.rows), n_(plan.cols()) {}

  void run(const std::vector<std::size_t>& dead) {
    const std::vector<T> host_weights = arrange(dead);
    const Members members(plan_);
    weights_ = work_.buffer(host_weights.size() * sizeof(T));
    blas_workspace_ = work_.buffer(kBlasWorkspace);
    codes_ = work_.buffer(n_ * rows_);
    scales_ = work_.buffer(plan_.groups * rows_ * sizeof(float));
    zero_points_ = work_.buffer(plan_.groups * rows_ * sizeof(std::int32_t));
    losses_ = work_.buffer(rows_ * sizeof(double));
    const std::size_t longest = longest_step(), drifts = factor_.drift.size() != 0;
    const DeviceBuffer errors = work_.buffer(longest * rows_ * sizeof(T)),
                       currents = work_.buffer(drifts * longest * rows_ * sizeof(T)),
                       group = work_.buffer(n_ * sizeof(std::int32_t)),
                       positions = work_.buffer(n_ * sizeof(std::int32_t)),
                       first = work_.buffer(members.first.size() * sizeof(std::int32_t));
    buffers_ = {weights_.as<T>(),
                factor_.inverse.as<T>(),
                factor_.drift.as<T>(),
                group.as<std::int32_t>(),
                positions.as<std::int32_t>(),
                first.as<std::int32_t>(),
                codes_.as<std::uint8_t>(),
                scales_.as<float>(),
                zero_points_.as<std::int32_t>(),
                errors.as<T>(),
                currents.as<T>(),
                losses_.as<double>()};
    WaitOnError wait(work_.stream);
    work_.upload<T>(weights_, host_weights, "uploading weights");
    work_.upload<std::int32_t>(group, members.group, "uploading groups");
    work_.upload<std::int32_t>(positions, members.positions, "uploading groups");
    work_.upload<std::int32_t>(first, members.first, "uploading groups");
    check(cudaMemsetAsync(losses_.as<>(), 0, losses_.size(), work_.stream), "cudaMemsetAsync", "losses");
    take_steps();
    wait.wait("solving");
  }

  /// ½Σe².
  double store(QuantizedMatrix& q) const {
    const gptq::Options& o = work_.options;
    const auto scales = work_.download<float>(scales_, "downloading scales");
    const auto zeros = work_.download<std::int32_t>(zero_points_, "downloading zero points");
    for (std::size_t r = 0; r < rows_; ++r)
      for (std::size_t g = 0; g < plan_.groups; ++g) {
        const std::size_t at = g * rows_ + r;
        gptq::check_scale(o, r, g, scales[at]);
        gptq::store_group(q, o, r, g, plan_.groups, {scales[at], zeros[at]});
      }
    const auto codes = work_.download<std::uint8_t>(codes_, "downloading codes");
    std::vector<std::uint8_t> row(n_);
    for (std::size_t r = 0; r < rows_; ++r) {
      for (std::size_t i = 0; i < n_; ++i) row[plan_.order[n_ - 1 - i]] = codes[i * rows_ + r];
      pack_codes(row.data(), n_, o.bits, q.codes.writable<std::uint8_t>() + r * q.row_bytes());
    }
    double loss = 0;
    for (const double l : work_.download<double>(losses_, "downloading losses")) loss += l / 2;
    return loss;
  }

 private:
  /// Weights as the kernel reads them, dead channels' 0.
  [[nodiscard]] std::vector<T> arrange(const std::vector<std::size_t>& dead) const {
    std::vector<T> out(n_ * rows_);
    std::vector<bool> is_dead(n_);
    for (const std::size_t c : dead) is_dead[c] = true;
    std::vector<std::size_t> reversed(n_);
    for (std::size_t i = 0; i < n_; ++i) reversed[plan_.order[n_ - 1 - i]] = i;
    for (std::size_t r = 0; r < rows_; ++r)
      for (std::size_t c = 0; c < n_; ++c) {
        const float w = work_.weights(r, c);
        if (!is_finite(w)) gptq::refuse_weight(work_.options, r, c, w);
        out[reversed[c] * rows_ + r] = is_dead[c] ? T(0) : static_cast<T>(w);
      }
    return out;
  }

  [[nodiscard]] std::size_t longest_step() const {
    std::size_t longest = 0;
    for (const gptq::Step& s : plan_.steps) longest = std::max(longest, s.end - s.begin);
    return longest;
  }

  void take_steps() {
    const gptq::Options& o = work_.options;
    GptqStep step;
    step.rows = rows_;
    step.cols = n_;
    step.groups = plan_.groups;
    step.grids = plan_.grids_first ? GptqGrids::given : o.compat ? GptqGrids::at_step : GptqGrids::at_group;
    step.grid_search = o.grid_search;
    step.rule = {o.bits, o.symmetric, o.compat, o.scale_type};
    if (plan_.grids_first) check_kernel(gptq_fit(step, buffers_, work_.stream), "gptq_fit");
    for (const gptq::Step& s : plan_.steps) {
      step.begin = s.begin;
      step.end = s.end;
      check_kernel(gptq_update(step, buffers_, work_.stream), "gptq_update");
      spread(s, -1, buffers_.errors, factor_.inverse, "spreading errors");
      if (factor_.drift.size() != 0) spread(s, 1, buffers_.currents, factor_.drift, "spreading the drift");
    }
  }

  /// What a step asks of the columns after it, which lie before it: W += sign·E·U.
  void spread(const gptq::Step& s, T sign, const T* errors, const DeviceBuffer& factor, const char* purpose) const {
    const std::size_t left = n_ - s.end;
    if (left == 0) return;
    constexpr bool twice = std::is_same_v<T, double>;
    constexpr auto type = twice ? CUDA_R_64F : CUDA_R_32F;
    const T one = 1;
    const int rows = narrow(rows_);
    const T* u = factor.as<T>() + left * n_;
    const auto blas = work_.context.libraries().blas(work_.stream, blas_workspace_.span());
    check(cublasGemmEx(blas.handle, CUBLAS_OP_N, CUBLAS_OP_T, rows, narrow(left), narrow(s.end - s.begin), &sign,
                       errors, type, rows, u, type, narrow(n_), &one, weights_.as<>(), type, rows,
                       twice ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx", purpose);
  }

  const GptqWork& work_;
  const gptq::Plan& plan_;
  const GptqFactor& factor_;
  std::size_t rows_, n_;
  GptqBuffers<T> buffers_;
  DeviceBuffer weights_, blas_workspace_, codes_, scales_, zero_points_, losses_;
};

}  // namespace

template <class T>
double gptq_solve_rows(const GptqWork& work, const gptq::Plan& plan, const GptqFactor& factor,
                       const std::vector<std::size_t>& dead, QuantizedMatrix& out) {
  Solving<T> solving(work, plan, factor);
  solving.run(dead);
  return solving.store(out);
}
template double gptq_solve_rows<float>(const GptqWork&, const gptq::Plan&, const GptqFactor&,
                                       const std::vector<std::size_t>&, QuantizedMatrix&);
template double gptq_solve_rows<double>(const GptqWork&, const gptq::Plan&, const GptqFactor&,
                                        const std::vector<std::size_t>&, QuantizedMatrix&);

}  // namespace nibble::inline NIBBLE_ABI::cuda
