#include "backend/cuda/matrix.h"

#include <algorithm>

#include "backend/cuda/tensor_core.h"
#include "kernels/cuda/gemv.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

/// The zero points that gemv.h promises to take.
constexpr std::int32_t kMaxGemvZero = std::int32_t{1} << 22;

bool has_small_zeros(const QuantizedMatrix& q) {
  if (!q.spec.has_zero_points() || q.spec.preserve_zero) return true;
  const auto* zeros = q.zero_points.as<std::int32_t>();
  return std::all_of(zeros, zeros + q.group_count(),
                     [](std::int32_t z) { return z >= -kMaxGemvZero && z <= kMaxGemvZero; });
}

void upload(const DeviceBuffer& to, const void* from, cudaStream_t stream) {
  if (to.size() > 0)
    check(cudaMemcpyAsync(to.as<>(), from, to.size(), cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync",
          "uploading weights");
}

void download(void* to, const DeviceBuffer& from, cudaStream_t stream) {
  if (from.size() > 0)
    check(cudaMemcpyAsync(to, from.as<>(), from.size(), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync",
          "downloading weights");
}

}  // namespace

std::unique_ptr<Matrix::Storage> Matrix::Storage::quantized(const Context& context, const QuantSpec& spec,
                                                            std::size_t rows, std::size_t cols, bool act_order,
                                                            cudaStream_t stream, bool canonical_codes) {
  const auto buffer = [&](std::size_t bytes) { return DeviceBuffer(bytes, context.allocator(), stream); };
  if (spec.is_codebook() && spec.bits != 4 && spec.bits != 8)
    throw Error(ErrorCode::unsupported, "a device decodes codebooks of 4 and 8 bits, not " + spec.to_string());
  if (spec.has_float_codes() || spec.has_real_zeros())
    throw Error(ErrorCode::unsupported, "a device has no kernel for " + spec.to_string() + "; multiply on the CPU");
  auto out = std::make_unique<Storage>();
  out->device = context.device().ordinal;
  out->compute_capability = context.device().compute_capability;
  CanonicalMatrix& view = out->view;
  view.spec = spec;
  view.rows = rows;
  view.cols = cols;
  view.pitch = (packed_bytes(cols, spec.bits) + kGemvPitch - 1) / kGemvPitch * kGemvPitch;
  const std::size_t groups = spec.group_count(rows, cols);
  if (canonical_codes) out->codes = buffer(rows * view.pitch);
  const std::size_t scale_bytes =
      spec.double_quant ? 1 : static_cast<std::size_t>(nibble::scale_bytes(spec.scale_type));
  out->scales = buffer(groups * scale_bytes);
  if (spec.has_zero_points()) out->zero_points = buffer(groups * (spec.preserve_zero ? 1 : sizeof(std::int32_t)));
  if (spec.is_codebook()) out->codebook = buffer((std::size_t{1} << spec.bits) * sizeof(float));
  if (act_order) out->g_idx = buffer(cols * sizeof(std::int32_t));
  if (spec.double_quant) {
    const std::size_t blocks = nested_count(groups);
    out->nested_absmax = buffer(blocks * sizeof(float));
    out->nested_map = buffer(256 * sizeof(float));
    out->nested_offset = buffer(sizeof(float));
  }
  view.codes = out->codes.as<std::uint8_t>();
  view.scales = out->scales.as<>();
  view.zero_points = out->zero_points.as<>();
  view.codebook = out->codebook.as<float>();
  view.g_idx = out->g_idx.as<std::int32_t>();
  view.nested_absmax = out->nested_absmax.as<float>();
  view.nested_map = out->nested_map.as<float>();
  view.nested_offset = out->nested_offset.as<float>();
  return out;
}

std::unique_ptr<Matrix::Storage> Matrix::Storage::floats(const Context& context, DType type, std::size_t rows,
                                                         std::size_t cols, cudaStream_t stream) {
  auto out = std::make_unique<Storage>();
  out->device = context.device().ordinal;
  out->is_quantized = false;
  out->type = type;
  out->view.rows = rows;
  out->view.cols = cols;
  out->codes = DeviceBuffer(rows * cols * size_of(type), context.allocator(), stream);
  return out;
}

Matrix::Matrix(std::unique_ptr<const Storage> storage) : storage_(std::move(storage)) {}
Matrix::~Matrix() = default;
std::size_t Matrix::rows() const { return storage_->view.rows; }
std::size_t Matrix::cols() const { return storage_->view.cols; }
bool Matrix::is_quantized() const { return storage_->is_quantized; }
const QuantSpec& Matrix::spec() const { return storage_->view.spec; }
std::size_t Matrix::storage_bytes() const {
  const Storage& s = *storage_;
  return s.codes.size() + s.scales.size() + s.zero_points.size() + s.codebook.size() + s.g_idx.size() +
         s.nested_absmax.size() + s.nested_map.size() + s.nested_offset.size() +
         (s.tensor == nullptr ? 0 : s.tensor->bytes());
}
CodeLayout Matrix::code_layout() const {
  if (storage_->tensor == nullptr) return CodeLayout::canonical;
  return storage_->codes.size() == 0 ? CodeLayout::tensor_core : CodeLayout::both;
}

MatrixPtr pack(const Context& context, const QuantizedMatrix& q, cudaStream_t stream, CodeLayout layout) {
  q.validate("weights to be packed");
  const DeviceScope scope(context.device().ordinal);
  if (!has_tensor_core_layout(q)) layout = CodeLayout::canonical;
  auto s = Matrix::Storage::quantized(context, q.spec, q.rows, q.cols, !q.g_idx.empty(), stream,
                                      layout != CodeLayout::tensor_core);
  s->has_small_zeros = has_small_zeros(q);
  if (layout != CodeLayout::canonical) pack_tensor_core(context, q, *s, stream);
  WaitOnError work(stream);
  if (layout != CodeLayout::tensor_core)
    check(cudaMemcpy2DAsync(s->codes.as<>(), s->view.pitch, q.codes.data(), q.row_bytes(), q.row_bytes(), q.rows,
                            cudaMemcpyHostToDevice, stream),
          "cudaMemcpy2DAsync", "uploading codes");
  upload(s->scales, q.scales.data(), stream);
  upload(s->zero_points, q.zero_points.data(), stream);
  upload(s->codebook, q.codebook.data(), stream);
  upload(s->g_idx, q.g_idx.data(), stream);
  upload(s->nested_absmax, q.nested.absmax.data(), stream);
  upload(s->nested_map, q.nested.map.data(), stream);
  upload(s->nested_offset, &q.nested.offset, stream);
  work.wait("uploading weights");
  return std::make_shared<const Matrix>(std::move(s));
}

MatrixPtr pack(const Context& context, FloatMatrix weights, cudaStream_t stream) {
  if (!is_matrix_type(weights.type))
    throw Error(ErrorCode::unsupported,
                "weights are " + std::string(name_of(weights.type)) + "; only F32, F16 and BF16 can be packed");
  if (weights.rows == 0 || weights.cols == 0)
    throw Error(ErrorCode::invalid_argument, "weights to be packed are empty: " + std::to_string(weights.rows) + " × " +
                                                 std::to_string(weights.cols));
  if (weights.stride < weights.cols)
    throw Error(ErrorCode::shape_mismatch, "weights to be packed: the row stride " + std::to_string(weights.stride) +
                                               " is less than the " + std::to_string(weights.cols) + " columns");
  const DeviceScope scope(context.device().ordinal);
  auto s = Matrix::Storage::floats(context, weights.type, weights.rows, weights.cols, stream);
  WaitOnError work(stream);
  const std::size_t size = size_of(weights.type), width = weights.cols * size;
  check(cudaMemcpy2DAsync(s->codes.as<>(), width, weights.data, weights.stride * size, width, weights.rows,
                          cudaMemcpyHostToDevice, stream),
        "cudaMemcpy2DAsync", "uploading weights");
  work.wait("uploading weights");
  return std::make_shared<const Matrix>(std::move(s));
}

QuantizedMatrix unpack(const Context& context, const Matrix& w, cudaStream_t stream) {
  if (!w.is_quantized()) throw Error(ErrorCode::unsupported, "unquantized weights have no canonical form to unpack");
  const DeviceScope scope(context.device().ordinal);
  const Matrix::Storage& s = w.storage();
  auto q = QuantizedMatrix::allocate(s.view.spec, s.view.rows, s.view.cols);
  q.g_idx.resize(s.g_idx.size() / sizeof(std::int32_t));
  q.nested.absmax.resize(s.nested_absmax.size() / sizeof(float));
  q.nested.map.resize(s.nested_map.size() / sizeof(float));
  WaitOnError work(stream);
  if (w.code_layout() == CodeLayout::tensor_core) unpack_tensor_core(s, q, stream);
  else
    check(cudaMemcpy2DAsync(q.codes.writable<std::byte>(), q.row_bytes(), s.codes.as<>(), s.view.pitch, q.row_bytes(),
                            q.rows, cudaMemcpyDeviceToHost, stream),
          "cudaMemcpy2DAsync", "downloading codes");
  download(q.scales.writable<std::byte>(), s.scales, stream);
  download(q.zero_points.writable<std::byte>(), s.zero_points, stream);
  download(q.codebook.data(), s.codebook, stream);
  download(q.g_idx.data(), s.g_idx, stream);
  download(q.nested.absmax.data(), s.nested_absmax, stream);
  download(q.nested.map.data(), s.nested_map, stream);
  download(&q.nested.offset, s.nested_offset, stream);
  work.wait("downloading weights");
  return q;
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
