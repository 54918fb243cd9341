#include "kernels/cuda/dequantize.h"

#include "kernels/cuda/dequantize.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

template <int Bits, bool IsCodebook, class Out>
int launch_dequantize(const CanonicalMatrix& q, std::size_t first_row, void* out, std::size_t rows, std::size_t stride,
                      cudaStream_t stream) {
  constexpr std::size_t columns = kDequantizeRuns * kRun, most_y = 65535;
  const std::size_t across = (q.cols + columns - 1) / columns;
  const dim3 grid(static_cast<unsigned>((rows + kDequantizeRows - 1) / kDequantizeRows),
                  static_cast<unsigned>(across < most_y ? across : most_y));
  return launch(dequantize_kernel<Bits, IsCodebook, Out>, grid, dim3(kDequantizeRuns, kDequantizeRows), 0, stream, q,
                group_map(q.spec, q.cols, q.g_idx), first_row, static_cast<Out*>(out), rows, stride);
}

template <class Out>
int dispatch(const CanonicalMatrix& q, std::size_t first_row, void* out, std::size_t rows, std::size_t stride,
             cudaStream_t stream) {
  if (q.spec.is_codebook() && q.spec.bits != 4 && q.spec.bits != 8) return cudaErrorInvalidValue;
  if (q.spec.is_codebook())
    return (q.spec.bits == 4 ? launch_dequantize<4, true, Out> : launch_dequantize<8, true, Out>)(q, first_row, out,
                                                                                                  rows, stride, stream);
  switch (q.spec.bits) {
    case 2: return launch_dequantize<2, false, Out>(q, first_row, out, rows, stride, stream);
    case 3: return launch_dequantize<3, false, Out>(q, first_row, out, rows, stride, stream);
    case 4: return launch_dequantize<4, false, Out>(q, first_row, out, rows, stride, stream);
    case 5: return launch_dequantize<5, false, Out>(q, first_row, out, rows, stride, stream);
    case 6: return launch_dequantize<6, false, Out>(q, first_row, out, rows, stride, stream);
    case 7: return launch_dequantize<7, false, Out>(q, first_row, out, rows, stride, stream);
    case 8: return launch_dequantize<8, false, Out>(q, first_row, out, rows, stride, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

int dequantize(const CanonicalMatrix& q, std::size_t first_row, void* out, DType type, std::size_t rows,
               std::size_t stride, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const bool has_order = q.spec.bits == 4 || (q.spec.bits == 8 && !q.spec.is_codebook());
  if (q.codes == nullptr && (q.tensor_codes == nullptr || !has_order)) return cudaErrorInvalidValue;
  switch (type) {
    case DType::f32: return dispatch<float>(q, first_row, out, rows, stride, stream);
    case DType::f16: return dispatch<f16>(q, first_row, out, rows, stride, stream);
    case DType::bf16: return dispatch<bf16>(q, first_row, out, rows, stride, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
