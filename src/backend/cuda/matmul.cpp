#include "backend/cuda/matmul.h"

#include <algorithm>
#include <climits>
#include <cstdint>

#include "backend/cuda/libraries.h"
#include "backend/cuda/tensor_core.h"
#include "backend/cuda/tier_table.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/gemv.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

/// What matmul decodes at a time: so much that each product fills the device, so little that it stays near.
constexpr std::size_t kBandBytes = std::size_t{64} << 20;

/// Bands begin at multiples of so many rows, where there is room for them: cuBLAS's fastest kernels want results that
/// are aligned. (2048 tokens of 4096 x 14336 took an H100 1369 µs in bands of 2340 rows, 437 in such of 2304.)
constexpr std::size_t kBandStep = 256;

/// Rows that a workspace has room for.
std::size_t band_rows(const Matrix& w, DType type, DeviceSpan workspace) {
  const std::size_t room = workspace.size < kBlasWorkspace ? 0 : workspace.size - kBlasWorkspace;
  const std::size_t rows = std::min(room / (w.cols() * size_of(type)), w.rows());
  return rows < kBandStep || rows == w.rows() ? rows : rows / kBandStep * kBandStep;
}

std::size_t blas_workspace(const Matrix& w, DType type) {
  const std::size_t row = w.cols() * size_of(type);
  return kBlasWorkspace + (w.is_quantized() ? row * std::clamp<std::size_t>(kBandBytes / row, 1, w.rows()) : 0);
}

std::string shape(std::size_t rows, std::size_t cols, std::size_t stride) {
  return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "] with rows " + std::to_string(stride) + " apart";
}

std::size_t least_blas_workspace(const Matrix& w, DType type) {
  return kBlasWorkspace + (w.is_quantized() ? w.cols() * size_of(type) : 0);
}

/// Rows of the weights in x's type, one after another: calls body(first, rows, row-major data).
template <class Body>
void for_each_band(const Matrix& w, DType type, DeviceSpan workspace, cudaStream_t stream, const Body& body) {
  const Matrix::Storage& s = w.storage();
  if (!s.is_quantized) return body(std::size_t{0}, w.rows(), static_cast<const void*>(s.codes.as<>()));
  void* band = static_cast<std::byte*>(workspace.data) + kBlasWorkspace;
  const std::size_t most = band_rows(w, type, workspace);
  for (std::size_t first = 0; first < w.rows(); first += most) {
    const std::size_t rows = std::min(most, w.rows() - first);
    check_kernel(dequantize(s.view, first, band, type, rows, w.cols(), stream), "dequantize");
    body(first, rows, static_cast<const void*>(band));
  }
}

const std::byte* at(const DeviceMatrix& m, std::size_t col) {
  return static_cast<const std::byte*>(m.data) + col * size_of(m.type);
}
std::byte* at(const MutableDeviceMatrix& m, std::size_t col) {
  return static_cast<std::byte*>(m.data) + col * size_of(m.type);
}

}  // namespace

void check_operands(const Context& context, const DeviceMatrix& x, const Matrix& w, const DeviceMatrix& y,
                    std::size_t in, std::size_t out) {
  if (w.storage().device != context.device().ordinal)
    throw Error(ErrorCode::invalid_argument, "matmul: the weights lie on CUDA device " +
                                                 std::to_string(w.storage().device) + ", the context is of device " +
                                                 std::to_string(context.device().ordinal));
  if (x.cols != in || y.cols != out || x.rows != y.rows || x.stride < x.cols || y.stride < y.cols)
    throw Error(ErrorCode::shape_mismatch, "matmul: x is " + shape(x.rows, x.cols, x.stride) + ", the weights are [" +
                                               std::to_string(w.rows()) + ", " + std::to_string(w.cols()) + "], y is " +
                                               shape(y.rows, y.cols, y.stride));
  if (!is_matrix_type(x.type) || (y.type != x.type && y.type != DType::f32))
    throw Error(ErrorCode::unsupported, "matmul: x is " + std::string(name_of(x.type)) + " and y " +
                                            std::string(name_of(y.type)) +
                                            "; x must be F32, F16 or BF16, y of the same type or F32");
  if (!w.is_quantized() && w.storage().type != x.type)
    throw Error(ErrorCode::unsupported, "matmul: x is " + std::string(name_of(x.type)) + ", the unquantized weights " +
                                            std::string(name_of(w.storage().type)));
  for (const std::size_t n : {x.rows, x.stride, y.stride, w.rows(), w.cols()})
    if (n > INT_MAX)
      throw Error(
          ErrorCode::invalid_argument,
          "matmul: " + std::to_string(n) + " rows, columns or elements from row to row are more than cuBLAS takes");
}

void check_workspace(DeviceSpan workspace, std::size_t least, std::size_t best) {
  if (workspace.size < least)
    throw Error(ErrorCode::invalid_argument, "matmul: the workspace has " + std::to_string(workspace.size) +
                                                 " bytes; " + std::to_string(least) + " are the least" +
                                                 (best > least ? ", " + std::to_string(best) + " are better" : ""));
  if (reinterpret_cast<std::uintptr_t>(workspace.data) % 256 != 0)
    throw Error(ErrorCode::invalid_argument, "matmul: the workspace is not aligned to 256 bytes");
}

bool can_serve(const Matrix& w, Tier tier, std::size_t tokens, DType x_type) {
  const Matrix::Storage& s = w.storage();
  if (tier == Tier::blas) return true;
  if (!s.is_quantized) return false;
  if (tier == Tier::tensor_core) return tensor_core_plan(s, tokens, x_type).blocks > 0;
  return tokens <= kMaxGemvTokens && s.view.codes != nullptr && has_gemv(s.view.spec) && s.has_small_zeros;
}

Tier matmul_tier(const Matrix& w, std::size_t tokens, DType x_type) {
  const bool few = can_serve(w, Tier::gemv, tokens, x_type),
             tensor_core = can_serve(w, Tier::tensor_core, tokens, x_type);
  if (!tensor_core) return few ? Tier::gemv : Tier::blas;
  const TierLimits limits = tier_limits(w.storage().compute_capability, tier_family(w.spec()));
  const bool in_order = w.storage().view.g_idx == nullptr;  // else gemv looks up each column's group
  if (few && in_order && tokens <= limits.gemv) return Tier::gemv;
  return tokens <= limits.tensor_core ? Tier::tensor_core : Tier::blas;
}

std::size_t tier_workspace(const Matrix& w, Tier tier, std::size_t tokens, DType x_type) {
  switch (tier) {
    case Tier::gemv: return 0;
    case Tier::tensor_core: return tensor_core_workspace(w.storage(), tokens, x_type);
    case Tier::blas: break;
  }
  return blas_workspace(w, x_type);
}

std::size_t matmul_workspace(const Matrix& w, std::size_t tokens, DType x_type) {
  return tier_workspace(w, matmul_tier(w, tokens, x_type), tokens, x_type);
}

void matmul(const Context& context, const DeviceMatrix& x, const Matrix& w, const MutableDeviceMatrix& y,
            DeviceSpan workspace, cudaStream_t stream) {
  check_operands(context, x, w, y, w.cols(), w.rows());
  if (x.rows > 0) matmul_by(matmul_tier(w, x.rows, x.type), context, x, w, y, workspace, stream);
}

// cuBLAS counts columns first: a row-major matrix is to it the transposed one, so that yᵀ = W·xᵀ is asked for.
void matmul_by(Tier tier, const Context& context, const DeviceMatrix& x, const Matrix& w, const MutableDeviceMatrix& y,
               DeviceSpan workspace, cudaStream_t stream) {
  const DeviceScope scope(context.device().ordinal);
  if (tier == Tier::gemv)
    return check_kernel(gemv(w.storage().view, x.data, x.type, x.stride, x.rows, y.data, y.type, y.stride, stream),
                        "gemv");
  const std::size_t best = tier_workspace(w, tier, x.rows, x.type);
  check_workspace(workspace, tier == Tier::blas ? least_blas_workspace(w, x.type) : best, best);
  if (tier == Tier::tensor_core) return gemm_tensor_core(w.storage(), x, y, workspace, stream);
  const auto blas = context.libraries().blas(stream, {workspace.data, kBlasWorkspace});
  const float one = 1, zero = 0;
  const cudaDataType type = blas_type(x.type);
  const int in = narrow(w.cols());
  for_each_band(w, x.type, workspace, stream, [&](std::size_t first, std::size_t rows, const void* band) {
    check(cublasGemmEx(blas.handle, CUBLAS_OP_T, CUBLAS_OP_N, narrow(rows), narrow(x.rows), in, &one, band, type, in,
                       x.data, type, narrow(x.stride), &zero, at(y, first), blas_type(y.type), narrow(y.stride),
                       CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx", "matmul");
  });
}

void matmul_transposed(const Context& context, const DeviceMatrix& x, const Matrix& w, const MutableDeviceMatrix& y,
                       DeviceSpan workspace, cudaStream_t stream) {
  check_operands(context, x, w, y, w.rows(), w.cols());
  if (x.rows == 0) return;
  check_workspace(workspace, least_blas_workspace(w, x.type), blas_workspace(w, x.type));
  const DeviceScope scope(context.device().ordinal);
  const auto blas = context.libraries().blas(stream, {workspace.data, kBlasWorkspace});
  const float one = 1, zero = 0;
  const cudaDataType type = blas_type(x.type);
  const int in = narrow(w.cols());
  for_each_band(w, x.type, workspace, stream, [&](std::size_t first, std::size_t rows, const void* band) {
    check(cublasGemmEx(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, in, narrow(x.rows), narrow(rows), &one, band, type, in,
                       at(x, first), type, narrow(x.stride), first == 0 ? &zero : &one, y.data, blas_type(y.type),
                       narrow(y.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx", "matmul_transposed");
  });
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
