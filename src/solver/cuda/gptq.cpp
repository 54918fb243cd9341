#include <algorithm>
#include <climits>
#include <cmath>

#include "backend/cuda/libraries.h"
#include "backend/cuda/matrix.h"
#include "kernels/cuda/gptq_update.h"
#include "nibble/core/bit_pack.h"
#include "nibble/solver/gptq_cuda.h"
#include "solver/gptq_plan.h"

namespace nibble::cuda {

namespace {

using gptq::Options;
using gptq::Plan;
using gptq::Report;

[[noreturn]] void refuse(ErrorCode code, const Options& o, const std::string& why) {
  throw Error(code, "gptq of '" + o.name + "' on the device: " + why);
}

void check_options(FloatMatrix w, const Hessian& h, const Options& o) {
  if (o.static_groups || o.act_group_aware || o.group_size < 0 || o.grid_search || o.compat || o.double_precision ||
      o.asymmetric_share != 0)
    refuse(ErrorCode::unsupported, o,
           "static_groups, act_group_aware, one scale a row, grid_search, compat, double_precision and "
           "asymmetric_share are not there; use gptq::solve");
  const auto need = [&](bool ok, const char* why) {
    if (!ok) refuse(ErrorCode::invalid_argument, o, why);
  };
  need(o.bits >= 2 && o.bits <= 8, "bits must be 2 to 8");
  need(o.group_size >= 1, "group_size must be positive");
  need(o.damp >= 0 && o.damp <= 1, "damp must be 0 to 1");
  need(o.damp_increment >= 0.001 && o.damp_increment <= 1, "damp_increment must be 0.001 to 1");
  need(w.rows > 0 && w.cols > 0, "the matrix is empty");
  need(w.rows <= INT_MAX && w.cols <= INT_MAX, "cuBLAS takes at most 2147483647 rows and columns");
  need(h.tokens() > 0, "it saw no calibration tokens");
  if (w.type != DType::f32 && w.type != DType::f16 && w.type != DType::bf16)
    refuse(ErrorCode::unsupported, o,
           "it is " + std::string(name_of(w.type)) + "; only F32, F16 and BF16 can be quantized");
  if (w.cols != h.channels() || w.stride < w.cols)
    refuse(ErrorCode::shape_mismatch, o,
           "it is " + std::to_string(w.rows) + " × " + std::to_string(w.cols) + " with rows " +
               std::to_string(w.stride) + " apart; the Hessian '" + h.name() + "' has " + std::to_string(h.channels()) +
               " channels");
}

float element(FloatMatrix m, std::size_t r, std::size_t c) {
  switch (m.type) {
    case DType::f16: return static_cast<float>(static_cast<const f16*>(m.row(r))[c]);
    case DType::bf16: return static_cast<float>(static_cast<const bf16*>(m.row(r))[c]);
    default: return static_cast<const float*>(m.row(r))[c];
  }
}

int narrow(std::size_t n) { return static_cast<int>(n); }

/// One layer. Everything on the device is in reverse order of solving (kernels/cuda/gptq_update.h).
class Job {
 public:
  Job(const Context& context, FloatMatrix weights, const Hessian& hessian, const Options& options, cudaStream_t stream)
      : context_(context), w_(weights), h_(hessian), o_(options), stream_(stream), n_(weights.cols) {
    report_.name = o_.name;
    report_.tokens = h_.tokens();
    if (o_.calibration_tokens != 0)
      report_.coverage = static_cast<double>(h_.tokens()) / static_cast<double>(o_.calibration_tokens);
    report_.dead_channels = h_.dead_channels();
    if (report_.dead_channels.size() == n_)
      refuse(ErrorCode::invalid_argument, o_, "all its inputs were zero in calibration");
    scale_ = 2.0 / static_cast<double>(h_.tokens());
    double sum = 0;
    for (std::size_t c = 0; c < n_; ++c) diagonal_.push_back(scale_ * h_.row(c)[c]), sum += diagonal_.back();
    for (const std::size_t c : report_.dead_channels)
      diagonal_[c] = sum / static_cast<double>(n_ - report_.dead_channels.size());
    plan_ = gptq::make_plan(diagonal_, o_);
    for (const double d : diagonal_) mean_ += d / static_cast<double>(n_);
  }

  gptq::Result run() {
    load_weights();
    invert();
    solve();
    return store();
  }

 private:
  [[nodiscard]] DeviceBuffer buffer(std::size_t bytes) const { return {bytes, context_.allocator(), stream_}; }
  [[nodiscard]] std::size_t column(std::size_t reversed) const { return plan_.order[n_ - 1 - reversed]; }

  void load_weights() {
    host_weights_.assign(n_ * w_.rows, 0.0f);
    std::vector<bool> dead(n_);
    for (const std::size_t c : report_.dead_channels) dead[c] = true;
    for (std::size_t r = 0; r < w_.rows; ++r)
      for (std::size_t c = 0; c < n_; ++c)
        if (!std::isfinite(element(w_, r, c)))
          throw Error(ErrorCode::non_finite, "tensor '" + o_.name + "': row " + std::to_string(r) + ", column " +
                                                 std::to_string(c) + " is " + std::to_string(element(w_, r, c)));
    for (std::size_t i = 0; i < n_; ++i)
      for (std::size_t r = 0; r < w_.rows && !dead[column(i)]; ++r)
        host_weights_[i * w_.rows + r] = element(w_, r, column(i));
    weights_ = buffer(host_weights_.size() * sizeof(float));
  }

  /// H + λ·I, reversed, as cuSOLVER reads it: the lower triangle, columns first.
  [[nodiscard]] std::vector<float> reversed_hessian(double damp) const {
    std::vector<float> out(n_ * n_);
    for (std::size_t j = 0; j < n_; ++j)
      for (std::size_t i = j; i < n_; ++i)
        out[j * n_ + i] =
            static_cast<float>(i == j ? diagonal_[column(i)] + damp * mean_ : scale_ * h_.sum(column(i), column(j)));
    return out;
  }

  /// Whether H + λ·I is positive definite in fp32; `factor` then holds L.
  bool factor_with(double damp, const DeviceBuffer& factor) const {
    const std::vector<float> host = reversed_hessian(damp);
    int size = 0, failed_minor = 0;
    WaitOnError work(stream_);
    check(cudaMemcpyAsync(factor.as<>(), host.data(), factor.size(), cudaMemcpyHostToDevice, stream_),
          "cudaMemcpyAsync", "uploading the Hessian");
    const auto solver = context_.libraries().solver(stream_);
    check(cusolverDnSpotrf_bufferSize(solver.handle, CUBLAS_FILL_MODE_LOWER, narrow(n_), factor.as<float>(), narrow(n_),
                                      &size),
          "cusolverDnSpotrf_bufferSize");
    const DeviceBuffer scratch = buffer(static_cast<std::size_t>(size) * sizeof(float)), info = buffer(sizeof(int));
    check(cusolverDnSpotrf(solver.handle, CUBLAS_FILL_MODE_LOWER, narrow(n_), factor.as<float>(), narrow(n_),
                           scratch.as<float>(), size, info.as<int>()),
          "cusolverDnSpotrf");
    check(cudaMemcpyAsync(&failed_minor, info.as<>(), sizeof failed_minor, cudaMemcpyDeviceToHost, stream_),
          "cudaMemcpyAsync", "downloading the factorisation's outcome");
    work.wait("factoring the Hessian");
    return failed_minor == 0;
  }

  /// inverse_ = L⁻ᵀ.
  void invert() {
    const DeviceBuffer factor = buffer(n_ * n_ * sizeof(float));
    report_.damp = o_.damp;
    for (int step = 1; !factor_with(report_.damp, factor); ++step) {
      report_.damp = o_.damp + step * o_.damp_increment;
      if (report_.damp > 1)
        refuse(ErrorCode::invalid_argument, o_, "its Hessian is not positive definite in fp32 with any damp up to 1");
    }
    if (report_.damp != o_.damp)
      report_.recovery.push_back("fp32 failed at damp " + std::to_string(o_.damp) + ": damp raised to " +
                                 std::to_string(report_.damp));
    inverse_ = buffer(n_ * n_ * sizeof(float));
    workspace_ = buffer(kBlasWorkspace);
    const std::vector<float> ones(n_, 1.0f);
    const float one = 1;
    WaitOnError work(stream_);
    check(cudaMemsetAsync(inverse_.as<>(), 0, inverse_.size(), stream_), "cudaMemsetAsync");
    check(cudaMemcpy2DAsync(inverse_.as<>(), (n_ + 1) * sizeof(float), ones.data(), sizeof(float), sizeof(float), n_,
                            cudaMemcpyHostToDevice, stream_),
          "cudaMemcpy2DAsync", "setting a diagonal");
    const auto blas = context_.libraries().blas(stream_, workspace_.span());
    check(cublasStrsm(blas.handle, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_T, CUBLAS_DIAG_NON_UNIT,
                      narrow(n_), narrow(n_), &one, factor.as<float>(), narrow(n_), inverse_.as<float>(), narrow(n_)),
          "cublasStrsm", "inverting the factor");
    work.wait("inverting the factor");
  }

  void solve() {
    const std::size_t rows = w_.rows;
    codes_ = buffer(n_ * rows);
    scales_ = buffer(plan_.groups * rows * sizeof(float));
    zero_points_ = buffer(plan_.groups * rows * sizeof(std::int32_t));
    losses_ = buffer(rows * sizeof(double));
    const DeviceBuffer errors = buffer(kMostGptqColumns * rows * sizeof(float));
    GptqStep step{rows, n_, 0, 0, static_cast<std::size_t>(o_.group_size), o_.bits, o_.symmetric, o_.scale_type};
    const GptqBuffers buffers{weights_.as<float>(),
                              inverse_.as<float>(),
                              codes_.as<std::uint8_t>(),
                              scales_.as<float>(),
                              zero_points_.as<std::int32_t>(),
                              errors.as<float>(),
                              losses_.as<double>()};
    WaitOnError work(stream_);
    check(cudaMemcpyAsync(weights_.as<>(), host_weights_.data(), weights_.size(), cudaMemcpyHostToDevice, stream_),
          "cudaMemcpyAsync", "uploading weights");
    check(cudaMemsetAsync(losses_.as<>(), 0, losses_.size(), stream_), "cudaMemsetAsync");
    const auto blas = context_.libraries().blas(stream_, workspace_.span());
    for (const gptq::Step& s : plan_.steps) {
      step.begin = s.begin;
      step.end = s.end;
      check_kernel(gptq_update(step, buffers, stream_), "gptq_update");
      spread(step, errors, blas.handle);
    }
    work.wait("solving");
  }

  /// What the step's errors ask of the columns after it: W −= E·U, all in reverse order.
  void spread(const GptqStep& s, const DeviceBuffer& errors, cublasHandle_t blas) const {
    const std::size_t left = n_ - s.end;
    if (left == 0) return;
    const float minus = -1, one = 1;
    const int rows = narrow(s.rows);
    check(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_T, rows, narrow(left), narrow(s.end - s.begin), &minus,
                       errors.as<>(), CUDA_R_32F, rows, inverse_.as<float>() + left * n_, CUDA_R_32F, narrow(n_), &one,
                       weights_.as<>(), CUDA_R_32F, rows, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx", "spreading errors");
  }

  template <class T>
  [[nodiscard]] std::vector<T> download(const DeviceBuffer& from) const {
    std::vector<T> out(from.size() / sizeof(T));
    WaitOnError work(stream_);
    check(cudaMemcpyAsync(out.data(), from.as<>(), from.size(), cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync",
          "downloading a solution");
    work.wait("downloading a solution");
    return out;
  }

  gptq::Result store() {
    QuantSpec spec;
    spec.scheme = o_.symmetric ? SchemeKind::symmetric : SchemeKind::asymmetric;
    spec.bits = o_.bits;
    spec.group_size = static_cast<std::size_t>(o_.group_size);
    spec.scale_type = o_.scale_type;
    gptq::Result out{QuantizedMatrix::allocate(spec, w_.rows, n_), std::move(report_)};
    QuantizedMatrix& q = out.matrix;
    const auto codes = download<std::uint8_t>(codes_);
    std::vector<std::uint8_t> row(n_);
    for (std::size_t r = 0; r < w_.rows; ++r) {
      for (std::size_t i = 0; i < n_; ++i) row[column(i)] = codes[i * w_.rows + r];
      pack_codes(row.data(), n_, o_.bits, q.codes.writable<std::uint8_t>() + r * q.row_bytes());
    }
    store_groups(q);
    if (o_.act_order) {
      q.g_idx.resize(n_);
      for (std::size_t i = 0; i < n_; ++i) q.g_idx[plan_.order[i]] = static_cast<std::int32_t>(plan_.group[i]);
    }
    for (const double loss : download<double>(losses_)) out.report.loss += loss / 2;
    out.report.error = out.report.loss / static_cast<double>(w_.rows);
    return out;
  }

  void store_groups(QuantizedMatrix& q) const {
    const auto scales = download<float>(scales_);
    const auto zeros = download<std::int32_t>(zero_points_);
    for (std::size_t r = 0; r < w_.rows; ++r)
      for (std::size_t g = 0; g < plan_.groups; ++g) {
        const std::size_t from = g * w_.rows + r, to = r * plan_.groups + g;
        if (!std::isfinite(scales[from]))
          throw Error(ErrorCode::non_finite, "tensor '" + o_.name + "': the scale of row " + std::to_string(r) +
                                                 ", group " + std::to_string(g) + " does not fit its type");
        switch (o_.scale_type) {
          case ScaleType::f32: q.scales.writable<float>()[to] = scales[from]; break;
          case ScaleType::f16: q.scales.writable<f16>()[to] = f16(scales[from]); break;
          case ScaleType::bf16: q.scales.writable<bf16>()[to] = bf16(scales[from]); break;
        }
        if (!o_.symmetric) q.zero_points.writable<std::uint8_t>()[to] = static_cast<std::uint8_t>(zeros[from]);
      }
  }

  const Context& context_;
  FloatMatrix w_;
  const Hessian& h_;
  const Options& o_;
  cudaStream_t stream_;
  std::size_t n_;
  double scale_ = 0, mean_ = 0;
  Report report_;
  std::vector<double> diagonal_;
  Plan plan_;
  std::vector<float> host_weights_;
  DeviceBuffer weights_, inverse_, workspace_, codes_, scales_, zero_points_, losses_;
};

}  // namespace

DeviceHessian::DeviceHessian(const Context& context, std::size_t channels, std::string name, cudaStream_t stream)
    : context_(&context), channels_(channels), name_(std::move(name)) {
  if (channels == 0 || channels > INT_MAX)
    throw Error(ErrorCode::invalid_argument,
                "the Hessian of '" + name_ + "' has " + std::to_string(channels) + " channels; 1 to 2147483647 can be");
  const DeviceScope scope(context.device().ordinal);
  sums_ = DeviceBuffer(channels * channels * sizeof(float), context.allocator(), stream);
  workspace_ = DeviceBuffer(kBlasWorkspace, context.allocator(), stream);
  check(cudaMemsetAsync(sums_.as<>(), 0, sums_.size(), stream), "cudaMemsetAsync");
}

void DeviceHessian::add(const DeviceMatrix& x, cudaStream_t stream) {
  if (x.type != DType::f32)
    throw Error(ErrorCode::unsupported,
                "activations '" + name_ + "' are " + std::string(name_of(x.type)) + "; only F32 can be summed here");
  if (x.cols != channels_ || x.stride < x.cols || x.rows > INT_MAX || x.stride > INT_MAX)
    throw Error(ErrorCode::shape_mismatch, "activations '" + name_ + "' are " + std::to_string(x.rows) + " × " +
                                               std::to_string(x.cols) + " with rows " + std::to_string(x.stride) +
                                               " apart; the Hessian has " + std::to_string(channels_) + " channels");
  if (x.rows == 0) return;
  const DeviceScope scope(context_->device().ordinal);
  const auto blas = context_->libraries().blas(stream, workspace_.span());
  const float one = 1;
  check(cublasSsyrk(blas.handle, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, narrow(channels_), narrow(x.rows), &one,
                    static_cast<const float*>(x.data), narrow(x.stride), &one, sums_.as<float>(), narrow(channels_)),
        "cublasSsyrk", "the Hessian");
  tokens_ += x.rows;
}

Hessian DeviceHessian::download(cudaStream_t stream) const {
  const DeviceScope scope(context_->device().ordinal);
  std::vector<float> sums(channels_ * channels_);
  WaitOnError work(stream);
  check(cudaMemcpyAsync(sums.data(), sums_.as<>(), sums_.size(), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync",
        "downloading a Hessian");
  work.wait("downloading a Hessian");
  std::vector<double> rows(sums.size());
  for (std::size_t i = 0; i < channels_; ++i)
    for (std::size_t j = 0; j <= i; ++j) rows[i * channels_ + j] = static_cast<double>(sums[j * channels_ + i]);
  return Hessian::from_sum(MatrixView<const double>(rows.data(), channels_, channels_), tokens_, name_);
}

gptq::Result gptq_solve(const Context& context, FloatMatrix weights, const Hessian& hessian,
                        const gptq::Options& options, cudaStream_t stream) {
  check_options(weights, hessian, options);
  const DeviceScope scope(context.device().ordinal);
  return Job(context, weights, hessian, options, stream).run();
}

}  // namespace nibble::cuda
