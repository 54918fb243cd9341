// Quantizing on the device, and decoding what is there.
#include "kernels/cuda/quantize.h"

#include "backend/cuda/matrix.h"
#include "kernels/cuda/dequantize.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

std::string place(std::string_view name, std::size_t row, std::size_t col) {
  return "tensor '" + std::string(name) + "', row " + std::to_string(row) + ", column " + std::to_string(col);
}

/// One element, brought to the host.
float element(const DeviceMatrix& m, std::size_t row, std::size_t col, cudaStream_t stream) {
  float kept = 0;  // room for any type
  const std::size_t size = size_of(m.type);
  WaitOnError work(stream);
  check(cudaMemcpyAsync(&kept, static_cast<const std::byte*>(m.data) + (row * m.stride + col) * size, size,
                        cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync", "reading the value that cannot be quantized");
  work.wait("reading the value that cannot be quantized");
  return float_at(m.type, &kept, 0);
}

void check_status(const QuantizeStatus& status, const DeviceMatrix& m, const QuantSpec& spec, std::string_view name,
                  cudaStream_t stream) {
  if (status.non_finite != 0) {
    const std::size_t at = place_of(status.non_finite), row = at / m.cols, col = at % m.cols;
    const float x = element(m, row, col, stream);
    throw Error(ErrorCode::non_finite, place(name, row, col) + ": the value is " +
                                           (x != x  ? "NaN"
                                            : x > 0 ? "+infinity"
                                                    : "-infinity") +
                                           "; only finite values can be quantized");
  }
  if (status.unfit_scale == 0) return;
  const auto [row, col] = spec.grouping().begin_of(place_of(status.unfit_scale), m.cols);
  throw Error(ErrorCode::non_finite, place(name, row, col) +
                                         ": the scale of the group that begins here does not fit its type; choose "
                                         "fp32 or bf16 scales");
}

}  // namespace

MatrixPtr quantize(const Context& context, const DeviceMatrix& weights, const QuantSpec& spec, std::string_view name,
                   cudaStream_t stream) {
  spec.validate();
  if (spec.scheme > SchemeKind::llm_int8)
    throw Error(ErrorCode::unsupported, "tensor '" + std::string(name) + "': " + spec.to_string() +
                                            " is quantized to by no kernel; quantize on the CPU");
  if (!is_matrix_type(weights.type))
    throw Error(ErrorCode::unsupported, "tensor '" + std::string(name) + "' is " + std::string(name_of(weights.type)) +
                                            "; only F32, F16 and BF16 can be quantized");
  if (weights.rows == 0 || weights.cols == 0)
    throw Error(ErrorCode::invalid_argument, "a matrix of " + std::to_string(weights.rows) + " × " +
                                                 std::to_string(weights.cols) + " has nothing to quantize");
  if (weights.stride < weights.cols)
    throw Error(ErrorCode::shape_mismatch, "tensor '" + std::string(name) + "': the row stride " +
                                               std::to_string(weights.stride) + " is less than the " +
                                               std::to_string(weights.cols) + " columns");
  const DeviceScope scope(context.device().ordinal);
  auto s = Matrix::Storage::quantized(context, spec, weights.rows, weights.cols, false, stream);
  const DeviceBuffer workspace(quantize_workspace(spec, weights.rows, weights.cols), context.allocator(), stream);
  const DeviceBuffer device_status(sizeof(QuantizeStatus), context.allocator(), stream);
  const std::vector<float> codebook = QuantizedMatrix::allocate(spec, 1, 1).codebook;
  QuantizeStatus status{};
  WaitOnError work(stream);
  const CanonicalBuffers to{s->codes.as<std::uint8_t>(),
                            s->view.pitch,
                            s->scales.as<>(),
                            s->zero_points.as<>(),
                            s->nested_absmax.as<float>(),
                            s->nested_map.as<float>(),
                            s->nested_offset.as<float>()};
  check_kernel(quantize(weights.data, weights.type, weights.rows, weights.cols, weights.stride, spec, to,
                        workspace.as<>(), device_status.as<QuantizeStatus>(), stream),
               "quantize");
  if (!codebook.empty())
    check(cudaMemcpyAsync(s->codebook.as<>(), codebook.data(), s->codebook.size(), cudaMemcpyHostToDevice, stream),
          "cudaMemcpyAsync", "uploading the codebook");
  check(cudaMemcpyAsync(&status, device_status.as<>(), sizeof status, cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync", "downloading the status");
  work.wait("quantizing");
  check_status(status, weights, spec, name, stream);
  return std::make_shared<const Matrix>(std::move(s));
}

void dequantize(const Context& context, const Matrix& w, std::size_t first_row, const MutableDeviceMatrix& out,
                cudaStream_t stream) {
  if (!w.is_quantized()) throw Error(ErrorCode::unsupported, "unquantized weights need no decoding");
  if (!is_matrix_type(out.type))
    throw Error(ErrorCode::unsupported,
                "weights decode to F32, F16 and BF16, not to " + std::string(name_of(out.type)));
  if (out.cols != w.cols() || first_row > w.rows() || out.rows > w.rows() - first_row || out.stride < out.cols)
    throw Error(ErrorCode::shape_mismatch,
                "dequantize: rows " + std::to_string(first_row) + " to " + std::to_string(first_row + out.rows) +
                    " of " + std::to_string(out.cols) + " columns, " + std::to_string(out.stride) +
                    " apart, were asked of a matrix of " + std::to_string(w.rows()) + " × " + std::to_string(w.cols()));
  const DeviceScope scope(context.device().ordinal);
  check_kernel(dequantize(w.storage().view, first_row, out.data, out.type, out.rows, out.stride, stream), "dequantize");
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
