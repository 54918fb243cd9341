// Products with activations of 8 bits.
#include "backend/cuda/matmul.h"
#include "backend/cuda/tensor_core.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

/// What the rounded activations and the list of outlier columns take.
struct Int8Workspace {
  std::size_t codes_stride;
  std::int8_t* codes;
  float* absmax;
  unsigned long long* non_finite;
  std::uint32_t* is_outlier;
  std::int32_t* columns;
  std::int32_t* count;
  std::size_t bytes;

  Int8Workspace(std::size_t tokens, std::size_t cols, DeviceSpan space = {}) : codes_stride(round_up(cols, 16)) {
    Pieces pieces(space);
    codes = pieces.take<std::int8_t>(tokens * codes_stride);
    absmax = pieces.take<float>(tokens);
    non_finite = pieces.take<unsigned long long>(1);
    is_outlier = pieces.take<std::uint32_t>(cols);
    columns = pieces.take<std::int32_t>(cols);
    count = pieces.take<std::int32_t>(1);
    bytes = pieces.used();
  }
};

/// 0 where every column is rounded.
float outlier_threshold(const QuantSpec& spec) { return spec.scheme == SchemeKind::llm_int8 ? spec.threshold : 0.0f; }

}  // namespace

bool has_matmul_int8(const Matrix& w) {
  const TensorCoreCodes* t = w.storage().tensor.get();
  return t != nullptr && t->int8.rows > 0;
}

std::size_t matmul_int8_workspace(const Matrix& w, std::size_t tokens) { return Int8Workspace(tokens, w.cols()).bytes; }

void matmul_int8(const Context& context, const DeviceMatrix& x, const Matrix& w, const MutableDeviceMatrix& y,
                 DeviceSpan workspace, unsigned long long* non_finite, cudaStream_t stream) {
  if (!has_matmul_int8(w))
    throw Error(ErrorCode::unsupported,
                "matmul_int8 takes 8-bit symmetric and LLM.int8 weights with one scale a row, packed for tensor cores; "
                "these are " +
                    (w.is_quantized() ? w.spec().to_string() : std::string("unquantized")) +
                    (w.is_quantized() && w.code_layout() == CodeLayout::canonical ? ", packed canonically" : ""));
  check_operands(context, x, w, y, w.cols(), w.rows());
  const DeviceScope scope(context.device().ordinal);
  if (x.rows == 0) {
    if (non_finite != nullptr)
      check(cudaMemsetAsync(non_finite, 0, sizeof *non_finite, stream), "cudaMemsetAsync", "matmul_int8");
    return;
  }
  const std::size_t bytes = matmul_int8_workspace(w, x.rows);
  check_workspace(workspace, bytes, bytes);
  const Int8Workspace space(x.rows, w.cols(), workspace);
  const ActivationMatrix activations{x.data, x.type, x.rows, x.cols, x.stride};
  const float threshold = outlier_threshold(w.spec());
  OutlierColumns outliers;
  if (threshold > 0) {
    check_kernel(find_outlier_columns(activations, threshold, space.is_outlier, space.columns, space.count, stream),
                 "find_outlier_columns");
    outliers = {activations, space.columns, space.count};
  }
  check_kernel(
      round_activations(activations, threshold > 0 ? space.is_outlier : nullptr, space.codes, space.codes_stride,
                        space.absmax, non_finite != nullptr ? non_finite : space.non_finite, stream),
      "round_activations");
  check_kernel(gemm_w8a8(w.storage().tensor->int8, {space.codes, space.codes_stride, space.absmax, x.rows}, outliers,
                         y.data, y.type, y.stride, int8_tile(x.rows, context.device().shared_bytes_per_block), stream),
               "gemm_w8a8");
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
