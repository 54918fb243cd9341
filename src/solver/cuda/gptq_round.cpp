// Rounding to nearest, with the loss that gptq::layer_loss() would tell: ½·tr(ΔW·H·ΔWᵀ).
#include "kernels/cuda/gptq_dense.h"
#include "nibble/solver/impl/gptq_setup.h"
#include "solver/cuda/gptq_work.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

std::size_t size_of_row(FloatMatrix m) { return m.cols * size_of(m.type); }

/// The weights on the device in their own type, without gaps.
DeviceBuffer upload_weights(const GptqWork& work) {
  const FloatMatrix& w = work.weights;
  DeviceBuffer out = work.buffer(w.rows * size_of_row(w));
  WaitOnError wait(work.stream);
  check(cudaMemcpy2DAsync(out.as<>(), size_of_row(w), w.data, w.stride * size_of(w.type), size_of_row(w), w.rows,
                          cudaMemcpyHostToDevice, work.stream),
        "cudaMemcpy2DAsync", "uploading weights");
  wait.wait("uploading weights");
  return out;
}

/// The weights on the device as floats.
DeviceBuffer upload_floats(const GptqWork& work) {
  const FloatMatrix& w = work.weights;
  DeviceBuffer out = work.buffer(w.rows * w.cols * sizeof(float));
  std::vector<float> wide;
  wide.reserve(w.rows * w.cols);
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t c = 0; c < w.cols; ++c) wide.push_back(w(r, c));
  WaitOnError wait(work.stream);
  work.upload<float>(out, wide, "uploading weights");
  wait.wait("uploading weights");
  return out;
}

/// H, both triangles.
DeviceBuffer upload_hessian(const GptqWork& work) {
  const std::size_t n = work.hessian.channels();
  const double scale = gptq::scale_of(work.hessian);
  DeviceBuffer out = work.buffer(n * n * sizeof(float));
  std::vector<float> full(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j <= i; ++j)
      full[i * n + j] = full[j * n + i] = static_cast<float>(scale * work.hessian.row(i)[j]);
  WaitOnError wait(work.stream);
  work.upload<float>(out, full, "uploading the Hessian");
  wait.wait("uploading the Hessian");
  return out;
}

double loss_of(const GptqWork& work, const Matrix& q) {
  const std::size_t rows = work.weights.rows, n = work.weights.cols;
  const DeviceBuffer original = upload_floats(work), hessian = upload_hessian(work);
  const DeviceBuffer delta = work.buffer(rows * n * sizeof(float)), sums = work.buffer(rows * sizeof(double)),
                     blas_workspace = work.buffer(kBlasWorkspace);
  dequantize(work.context, q, 0, {delta.as<>(), DType::f32, rows, n, n}, work.stream);
  check_kernel(gptq_subtract(original.as<float>(), n, delta.as<float>(), n, delta.as<float>(), n, rows, n, work.stream),
               "gptq_subtract");
  {
    const float one = 1, zero = 0;
    const auto blas = work.context.libraries().blas(work.stream, blas_workspace.span());
    check(cublasGemmEx(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, narrow(n), narrow(rows), narrow(n), &one, hessian.as<>(),
                       CUDA_R_32F, narrow(n), delta.as<>(), CUDA_R_32F, narrow(n), &zero, original.as<>(), CUDA_R_32F,
                       narrow(n), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx", "the loss");
  }
  check_kernel(gptq_row_products(original.as<float>(), delta.as<float>(), rows, n, sums.as<double>(), work.stream),
               "gptq_row_products");
  double loss = 0;
  for (const double sum : work.download<double>(sums, "downloading losses")) loss += sum / 2;
  return loss;
}

}  // namespace

QuantizedMatrix gptq_round(const GptqWork& work, double& loss) {
  const FloatMatrix& w = work.weights;
  const MatrixPtr q = [&] {
    const DeviceBuffer weights = upload_weights(work);
    return quantize(work.context, {weights.as<>(), w.type, w.rows, w.cols, w.cols}, gptq::spec_of(work.options),
                    work.options.name, work.stream);
  }();
  loss = loss_of(work, *q);
  return unpack(work.context, *q, work.stream);
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
