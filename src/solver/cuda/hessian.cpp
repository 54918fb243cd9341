// Sums over calibration tokens by cuBLAS.
#include <climits>

#include "kernels/cuda/gptq_dense.h"
#include "nibble/cuda/gptq.h"
#include "solver/cuda/gptq_work.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

/// Tokens of which the difference of the inputs is held at a time.
constexpr std::size_t kTokensTogether = 256;

}  // namespace

DeviceHessian::DeviceHessian(const Context& context, std::size_t channels, std::string name, cudaStream_t stream,
                             bool asymmetric)
    : context_(&context), channels_(channels), name_(std::move(name)) {
  if (channels == 0 || channels > INT_MAX)
    throw Error(ErrorCode::invalid_argument,
                "the Hessian of '" + name_ + "' has " + std::to_string(channels) + " channels; 1 to 2147483647 can be");
  const DeviceScope scope(context.device().ordinal);
  const auto zeroed = [&](std::size_t bytes) {
    DeviceBuffer out(bytes, context.allocator(), stream);
    check(cudaMemsetAsync(out.as<>(), 0, out.size(), stream), "cudaMemsetAsync", "a Hessian");
    return out;
  };
  sums_ = zeroed(channels * channels * sizeof(float));
  workspace_ = DeviceBuffer(kBlasWorkspace, context.allocator(), stream);
  if (!asymmetric) return;
  cross_ = zeroed(channels * channels * sizeof(float));
  difference_ = DeviceBuffer(kTokensTogether * channels * sizeof(float), context.allocator(), stream);
}

void DeviceHessian::check_batch(const DeviceMatrix& x, const char* which) const {
  const std::string what = std::string(which) + " '" + name_ + "'";
  if (x.type != DType::f32)
    throw Error(ErrorCode::unsupported,
                what + " are " + std::string(name_of(x.type)) + "; only F32 can be summed on the device");
  if (x.cols != channels_ || x.stride < x.cols || x.rows > INT_MAX || x.stride > INT_MAX)
    throw Error(ErrorCode::shape_mismatch, what + " are " + std::to_string(x.rows) + " × " + std::to_string(x.cols) +
                                               " with rows " + std::to_string(x.stride) + " apart; the Hessian has " +
                                               std::to_string(channels_) + " channels");
}

void DeviceHessian::add(const DeviceMatrix& x, cudaStream_t stream) {
  check_batch(x, "activations");
  if (asymmetric())
    throw Error(ErrorCode::invalid_argument,
                "the Hessian of '" + name_ + "' is asymmetric: add() needs the full-precision activations too");
  if (x.rows == 0) return;
  const DeviceScope scope(context_->device().ordinal);
  add_squares(x, stream);
  tokens_ += x.rows;
}

void DeviceHessian::add(const DeviceMatrix& x, const DeviceMatrix& full, cudaStream_t stream) {
  check_batch(x, "activations");
  check_batch(full, "full-precision activations");
  if (!asymmetric()) throw Error(ErrorCode::invalid_argument, "the Hessian of '" + name_ + "' was not made asymmetric");
  if (x.rows != full.rows)
    throw Error(ErrorCode::shape_mismatch, "activations '" + name_ + "': " + std::to_string(x.rows) + " tokens, but " +
                                               std::to_string(full.rows) + " in full precision");
  if (x.rows == 0) return;
  const DeviceScope scope(context_->device().ordinal);
  add_squares(x, stream);
  for (std::size_t t = 0; t < x.rows; t += kTokensTogether) {
    const std::size_t tokens = std::min(kTokensTogether, x.rows - t);
    const float* from = static_cast<const float*>(x.data) + t * x.stride;
    check_kernel(gptq_subtract(static_cast<const float*>(full.data) + t * full.stride, full.stride, from, x.stride,
                               difference_.as<float>(), channels_, tokens, channels_, stream),
                 "gptq_subtract");
    const auto blas = context_->libraries().blas(stream, workspace_.span());
    const float one = 1;
    const int n = narrow(channels_);
    check(cublasGemmEx(blas.handle, CUBLAS_OP_N, CUBLAS_OP_T, n, n, narrow(tokens), &one, from, CUDA_R_32F,
                       narrow(x.stride), difference_.as<>(), CUDA_R_32F, n, &one, cross_.as<>(), CUDA_R_32F, n,
                       CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx", "the cross statistic");
  }
  tokens_ += x.rows;
}

void DeviceHessian::add_squares(const DeviceMatrix& x, cudaStream_t stream) {
  const auto blas = context_->libraries().blas(stream, workspace_.span());
  const float one = 1;
  check(cublasSsyrk(blas.handle, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, narrow(channels_), narrow(x.rows), &one,
                    static_cast<const float*>(x.data), narrow(x.stride), &one, sums_.as<float>(), narrow(channels_)),
        "cublasSsyrk", "the Hessian");
}

Hessian DeviceHessian::download(cudaStream_t stream) const {
  const DeviceScope scope(context_->device().ordinal);
  std::vector<float> sums(channels_ * channels_), cross(asymmetric() ? channels_ * channels_ : 0);
  WaitOnError work(stream);
  check(cudaMemcpyAsync(sums.data(), sums_.as<>(), sums_.size(), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync",
        "downloading a Hessian");
  if (asymmetric())
    check(cudaMemcpyAsync(cross.data(), cross_.as<>(), cross_.size(), cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync", "downloading a cross statistic");
  work.wait("downloading a Hessian");
  std::vector<double> rows(sums.size());
  for (std::size_t i = 0; i < channels_; ++i)
    for (std::size_t j = 0; j <= i; ++j) rows[i * channels_ + j] = static_cast<double>(sums[j * channels_ + i]);
  const MatrixView<const double> square(rows.data(), channels_, channels_);
  if (!asymmetric()) return Hessian::from_sum(square, tokens_, name_);
  const std::vector<double> wide(cross.begin(), cross.end());
  return Hessian::from_sum(square, MatrixView<const double>(wide.data(), channels_, channels_), tokens_, name_);
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
