#include "kernels/cuda/blocks.h"

#include "backend/cuda/matrix.h"
#include "nibble/cuda/blocks.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

DType float_type(BlockType type) {
  return type == BlockType::f16 ? DType::f16 : type == BlockType::bf16 ? DType::bf16 : DType::f32;
}

/// Values of `type`, as a device would have decoded them.
struct HostValues {
  DType type;
  std::size_t rows, cols;
  std::vector<std::byte> bytes;
  [[nodiscard]] FloatMatrix view() const { return {bytes.data(), type, rows, cols, cols}; }
};

HostValues decoded_here(const BlockMatrix& m, DType type) {
  HostValues out{type, m.rows, m.cols, std::vector<std::byte>(m.rows * m.cols * size_of(type))};
  std::vector<float> row(m.cols);
  for (std::size_t r = 0; r < m.rows; ++r) {
    m.decode_row(r, row.data());
    std::byte* to = out.bytes.data() + r * m.cols * size_of(type);
    for (std::size_t c = 0; c < m.cols; ++c)
      visit_float(type, [&](auto zero) {
        const decltype(zero) value(row[c]);
        std::memcpy(to + c * sizeof value, &value, sizeof value);
      });
  }
  return out;
}

std::shared_ptr<const Matrix> decoded(const Context& context, const BlockMatrix& m, DType type, cudaStream_t stream) {
  auto storage = Matrix::Storage::floats(context, type, m.rows, m.cols, stream);
  const DeviceBuffer coded(m.blocks.size(), context.allocator(), stream);
  WaitOnError work(stream);
  check(cudaMemcpyAsync(coded.as<>(), m.blocks.data(), coded.size(), cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync",
        "uploading blocks");
  dequantize(context, m.type, coded.as<>(), {storage->codes.as<>(), type, m.rows, m.cols, m.cols}, stream);
  work.wait("decoding blocks");
  return std::make_shared<const Matrix>(std::move(storage));
}

}  // namespace

MatrixPtr pack(const Context& context, const BlockMatrix& m, DType type, cudaStream_t stream, std::string_view name) {
  m.validate(std::string(name));
  if (!is_matrix_type(type))
    throw Error(ErrorCode::unsupported, "tensor '" + std::string(name) + "': " + std::string(name_of(m.type)) +
                                            " blocks decode to F32, F16 and BF16, not to " +
                                            std::string(name_of(type)));
  if (exact_spec(m.type)) return pack(context, to_quantized(m), stream);
  if (is_float(m.type))
    return pack(context, FloatMatrix{m.blocks.data(), float_type(m.type), m.rows, m.cols, m.cols}, stream);
  if (!decodes_on_device(m.type)) return pack(context, decoded_here(m, type).view(), stream);
  const DeviceScope scope(context.device().ordinal);
  return decoded(context, m, type, stream);
}

void dequantize(const Context& context, BlockType type, const void* blocks, const MutableDeviceMatrix& out,
                cudaStream_t stream) {
  const std::string what(name_of(type));
  if (is_float(type)) throw Error(ErrorCode::unsupported, what + " blocks are plain floats and need no decoding");
  if (!decodes_on_device(type))
    throw Error(ErrorCode::unsupported, what + " blocks are decoded by the host alone; pack() does that");
  if (!is_matrix_type(out.type))
    throw Error(ErrorCode::unsupported,
                what + " blocks decode to F32, F16 and BF16, not to " + std::string(name_of(out.type)));
  if (out.cols % block_size(type) != 0 || out.stride < out.cols)
    throw Error(ErrorCode::shape_mismatch, what + " blocks of " + std::to_string(block_size(type)) +
                                               " values cannot fill rows of " + std::to_string(out.cols) +
                                               " columns, " + std::to_string(out.stride) + " apart");
  if (reinterpret_cast<std::uintptr_t>(blocks) % 4 != 0)
    throw Error(ErrorCode::invalid_argument, what + " blocks must be aligned to 4 bytes on the device");
  const DeviceScope scope(context.device().ordinal);
  check_kernel(dequantize_blocks(type, blocks, out.rows, out.cols, out.data, out.type, out.stride, stream),
               "dequantize_blocks");
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
