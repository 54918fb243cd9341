// The device behind the Backend interface, for host memory.
#include <mutex>

#include "backend/cuda/matmul.h"
#include "kernels/cuda/gemv.h"
#include "nibble/cuda/blocks.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

/// One call's stream: waits for all that was put on it before it ends, however it ends.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  ~Stream() {
    if (cudaStreamSynchronize(stream_) != cudaSuccess)
      (void)cudaGetLastError();  // wait() told, or an error is on its way
    if (cudaStreamDestroy(stream_) != cudaSuccess) (void)cudaGetLastError();
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  [[nodiscard]] cudaStream_t get() const { return stream_; }
  void wait(std::string_view purpose) const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize", purpose); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Packed weights outlive the call that makes them, and are given back in the order of a stream that must outlive them:
/// the default one.
constexpr cudaStream_t kPackingStream = nullptr;

class CudaMatrix final : public PackedMatrix {
 public:
  CudaMatrix(const Backend& backend, MatrixPtr matrix)
      : PackedMatrix(backend, matrix->rows(), matrix->cols()), matrix_(std::move(matrix)) {}
  std::size_t storage_bytes() const override { return matrix_->storage_bytes(); }
  [[nodiscard]] const Matrix& matrix() const { return *matrix_; }

 private:
  MatrixPtr matrix_;
};

/// A host matrix's place on the device, rows one after another.
class Staged {
 public:
  Staged(const Context& context, DType type, std::size_t rows, std::size_t cols, cudaStream_t stream)
      : stream_(stream),
        view_{nullptr, type, rows, cols, cols},
        buffer_(rows * cols * size_of(type), context.allocator(), stream) {
    view_.data = buffer_.as<>();
  }
  void upload(const FloatMatrix& from) const {
    const std::size_t size = size_of(view_.type), width = view_.cols * size;
    if (view_.rows > 0)
      check(cudaMemcpy2DAsync(view_.data, width, from.data, from.stride * size, width, view_.rows,
                              cudaMemcpyHostToDevice, stream_),
            "cudaMemcpy2DAsync", "uploading a matrix");
  }
  void download(const MutableFloatMatrix& to) const {
    const std::size_t size = size_of(view_.type), width = view_.cols * size;
    if (view_.rows > 0)
      check(cudaMemcpy2DAsync(to.data, to.stride * size, view_.data, width, width, view_.rows, cudaMemcpyDeviceToHost,
                              stream_),
            "cudaMemcpy2DAsync", "downloading a matrix");
  }
  [[nodiscard]] const MutableDeviceMatrix& view() const { return view_; }

 private:
  cudaStream_t stream_;
  MutableDeviceMatrix view_;
  DeviceBuffer buffer_;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(DeviceAllocator& allocator) : allocator_(allocator) {}

  std::string_view name() const noexcept override { return "cuda"; }
  std::string_view description() const noexcept override { return "an NVIDIA GPU, by its name only"; }
  bool available() const noexcept override {
    try {
      return cuda::why_unavailable().empty();
    } catch (...) {
      return false;
    }
  }
  std::string why_unavailable() const override { return cuda::why_unavailable(); }
  /// What a device can hold; a registered codebook of 4 or 8 bits is packed, though not quantized to, there. Small
  /// floats and real zero points have no kernel yet.
  bool supports(const QuantSpec& spec) const noexcept override {
    if (spec.has_real_zeros()) return false;
    return !spec.is_codebook() || (!spec.has_float_codes() && (spec.bits == 4 || spec.bits == 8));
  }

  QuantizedMatrix quantize(FloatMatrix weights, const QuantSpec& spec, std::string_view name,
                           Executor&) const override {
    check_quantizable(weights, name);
    const Context& c = context();
    const DeviceScope scope(c.device().ordinal);
    const Stream stream;
    const Staged w(c, weights.type, weights.rows, weights.cols, stream.get());
    w.upload(weights);
    const MatrixPtr made = cuda::quantize(c, w.view(), spec, name, stream.get());
    return cuda::unpack(c, *made, stream.get());
  }

  void dequantize(const QuantizedMatrix& q, std::size_t first_row, MatrixView<float> out,
                  Executor& executor) const override {
    dequantize_to(q, first_row, out, executor);
  }
  void dequantize_to(const QuantizedMatrix& q, std::size_t first_row, MutableFloatMatrix out,
                     Executor&) const override {
    const Context& c = context();
    const DeviceScope scope(c.device().ordinal);
    const Stream stream;
    const MatrixPtr w = cuda::pack(c, q, stream.get());
    const Staged values(c, out.type, out.rows, out.cols, stream.get());
    cuda::dequantize(c, *w, first_row, values.view(), stream.get());
    values.download(out);
    stream.wait("dequantize");
  }

  using Backend::pack;
  PackedMatrixPtr pack(QuantizedMatrix q, Executor&) const override {
    const DeviceScope scope(context().device().ordinal);
    const CodeLayout layout = q.spec.scheme == SchemeKind::llm_int8 ? CodeLayout::tensor_core
                              : q.spec.bits == 8                    ? CodeLayout::both
                                                                    : CodeLayout::canonical;
    return std::make_shared<const CudaMatrix>(*this, cuda::pack(context(), q, kPackingStream, layout));
  }
  /// As fp32, the type of the activations that this interface brings.
  PackedMatrixPtr pack(FloatMatrix weights, Executor&) const override {
    const DeviceScope scope(context().device().ordinal);
    if (weights.type != DType::f16 && weights.type != DType::bf16)
      return std::make_shared<const CudaMatrix>(*this, cuda::pack(context(), weights, kPackingStream));
    std::vector<float> values(weights.rows * weights.cols);
    const MatrixView<float> wide(values.data(), weights.rows, weights.cols);
    upcast(weights, wide);
    return std::make_shared<const CudaMatrix>(*this, cuda::pack(context(), FloatMatrix(wide), kPackingStream));
  }
  /// As codes where a spec has them, else decoded to fp32.
  PackedMatrixPtr pack(BlockMatrix blocks, Executor&) const override {
    blocks.validate("weights");
    if (is_float(blocks.type)) return pack(blocks.aligned().as_floats());
    const DeviceScope scope(context().device().ordinal);
    return std::make_shared<const CudaMatrix>(*this, cuda::pack(context(), blocks, DType::f32, kPackingStream));
  }
  QuantizedMatrix unpack(const PackedMatrix& packed) const override {
    const DeviceScope scope(context().device().ordinal);
    const Stream stream;
    return cuda::unpack(context(), own(packed), stream.get());
  }

  void matmul(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y, Executor&) const override {
    const Matrix& m = own(w);
    // By definition, whatever the activations that are asked for.
    if (is_llm_int8(m)) return gemm_int8(x, m, y);
    multiply(x, w, y, cuda::matmul, x.rows);
  }
  bool has_int8_matmul(const PackedMatrix& w) const noexcept override {
    if (&w.backend() != this) return false;
    const Matrix& m = static_cast<const CudaMatrix&>(w).matrix();
    return cuda::has_matmul_int8(m) && !is_llm_int8(m);
  }
  void matmul_int8(MatrixView<const float> x, const PackedMatrix& packed, MatrixView<float> y,
                   Executor&) const override {
    const Matrix& w = own(packed);
    if (is_llm_int8(w))
      throw Error(ErrorCode::unsupported, "LLM.int8 weights round activations their own way; use matmul");
    gemm_int8(x, w, y);
  }
  void matmul_transposed(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
                         Executor&) const override {
    multiply(x, w, y, cuda::matmul_transposed, kMaxGemvTokens + 1);
  }

 private:
  using Product = void(const Context&, const DeviceMatrix&, const Matrix&, const MutableDeviceMatrix&, DeviceSpan,
                       cudaStream_t);

  /// `tokens` says how much workspace the product needs.
  void multiply(MatrixView<const float> x, const PackedMatrix& packed, MatrixView<float> y, Product* product,
                std::size_t tokens) const {
    const Matrix& w = own(packed);
    const Context& c = context();
    const DeviceScope scope(c.device().ordinal);
    const Stream stream;
    const Staged dx(c, DType::f32, x.rows, x.cols, stream.get()), dy(c, DType::f32, y.rows, y.cols, stream.get());
    const DeviceBuffer workspace(matmul_workspace(w, tokens, DType::f32), c.allocator(), stream.get());
    dx.upload(x);
    product(c, dx.view(), w, dy.view(), workspace.span(), stream.get());
    dy.download(y);
    stream.wait("matmul");
  }

  void gemm_int8(MatrixView<const float> x, const Matrix& w, MatrixView<float> y) const {
    const Context& c = context();
    const DeviceScope scope(c.device().ordinal);
    const Stream stream;
    const Staged dx(c, DType::f32, x.rows, x.cols, stream.get()), dy(c, DType::f32, y.rows, y.cols, stream.get());
    const DeviceBuffer workspace(matmul_int8_workspace(w, x.rows), c.allocator(), stream.get());
    const DeviceBuffer place(sizeof(unsigned long long), c.allocator(), stream.get());
    dx.upload(x);
    cuda::matmul_int8(c, dx.view(), w, dy.view(), workspace.span(), place.as<unsigned long long>(), stream.get());
    unsigned long long first = 0;
    WaitOnError work(stream.get());
    check(cudaMemcpyAsync(&first, place.as<>(), sizeof first, cudaMemcpyDeviceToHost, stream.get()), "cudaMemcpyAsync",
          "downloading the place of a value that is not finite");
    work.wait("matmul_int8");
    if (first != 0) refuse_activation(~first, x.cols);
    dy.download(y);
    stream.wait("matmul_int8");
  }

  static bool is_llm_int8(const Matrix& w) { return w.is_quantized() && w.spec().scheme == SchemeKind::llm_int8; }

  const Matrix& own(const PackedMatrix& packed) const {
    if (&packed.backend() != this)
      throw Error(ErrorCode::invalid_argument, "weights packed by the backend '" +
                                                   std::string(packed.backend().name()) +
                                                   "' were given to the backend 'cuda'");
    return static_cast<const CudaMatrix&>(packed).matrix();
  }

  [[noreturn]] static void refuse_activation(unsigned long long at, std::size_t cols) {
    throw Error(ErrorCode::non_finite, "activation row " + std::to_string(at / cols) + ", column " +
                                           std::to_string(at % cols) + " is not finite");
  }

  static void check_quantizable(const FloatMatrix& weights, std::string_view name) {
    if (weights.stride < weights.cols)
      throw Error(ErrorCode::shape_mismatch, "tensor '" + std::string(name) + "': the row stride " +
                                                 std::to_string(weights.stride) + " is less than the " +
                                                 std::to_string(weights.cols) + " columns");
  }

  /// Made at the first call; a failure is tried again at the next.
  const Context& context() const {
    const std::lock_guard lock(mutex_);
    if (!context_) context_ = std::make_unique<Context>(0, allocator_);
    return *context_;
  }

  DeviceAllocator& allocator_;
  mutable std::mutex mutex_;
  mutable std::unique_ptr<Context> context_;
};

}  // namespace

void register_backend(DeviceAllocator& allocator) {
  static std::once_flag once;
  std::call_once(once, [&] { nibble::register_backend(std::make_unique<CudaBackend>(allocator)); });
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
