#include "kernels/cuda/gemv.h"

#include <algorithm>

#include "kernels/cuda/gemv.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

/// Whether every piece (`piece` columns from a multiple of it on) of every row lies in one group.
bool pieces_are_uniform(const CanonicalMatrix& w, std::size_t piece) {
  switch (w.spec.granularity) {
    case Granularity::tensor:
    case Granularity::channel: return true;
    case Granularity::group:
      return w.g_idx == nullptr && (w.spec.group_size % piece == 0 || w.spec.group_size >= w.cols);
    case Granularity::block: return w.spec.group_size % piece == 0 && w.cols % piece == 0;
    case Granularity::tile: break;
  }
  return false;
}

struct Call {
  const CanonicalMatrix& w;
  GemvVectors x;
  std::size_t tokens;
  void* y;
  DType y_type;
  std::size_t y_stride;
  cudaStream_t stream;

  template <int Bits, bool IsCodebook, bool Uniform, int Tokens>
  cudaError_t run() const {
    constexpr std::size_t rows = kGemvWarps * kGemvRows, most = kGemvStaged / Tokens;
    const std::size_t columns = std::min(most, (w.cols + kGemvStep - 1) / kGemvStep * kGemvStep);
    return launch(gemv_kernel<Bits, IsCodebook, Uniform, Tokens>,
                  dim3(static_cast<unsigned>((w.rows + rows - 1) / rows)), dim3(kGemvThreads),
                  columns * Tokens * sizeof(float), stream, w, group_map(w.spec, w.cols, w.g_idx), x, tokens,
                  static_cast<unsigned>(columns), y, y_type, y_stride);
  }
  template <int Bits, bool IsCodebook>
  cudaError_t run() const {
    if (!pieces_are_uniform(w, kGemvPiece<Bits>)) return run<Bits, IsCodebook, false, 8>();
    if (tokens == 1) return run<Bits, IsCodebook, true, 1>();
    return tokens <= 4 ? run<Bits, IsCodebook, true, 4>() : run<Bits, IsCodebook, true, 8>();
  }
};

bool is_vector_type(DType type) { return type == DType::f32 || type == DType::f16 || type == DType::bf16; }

}  // namespace

int gemv(const CanonicalMatrix& w, const void* x, DType x_type, std::size_t x_stride, std::size_t tokens, void* y,
         DType y_type, std::size_t y_stride, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  if (w.codes == nullptr || tokens > kMaxGemvTokens || !has_gemv(w.spec) || w.pitch % kGemvPitch != 0 ||
      !is_vector_type(x_type) || !is_vector_type(y_type))
    return cudaErrorInvalidValue;
  const Call call{w, {x, x_type, x_stride}, tokens, y, y_type, y_stride, stream};
  if (w.spec.is_codebook()) return call.run<4, true>();
  switch (w.spec.bits) {
    case 2: return call.run<2, false>();
    case 3: return call.run<3, false>();
    case 4: return call.run<4, false>();
    default: return call.run<8, false>();
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
