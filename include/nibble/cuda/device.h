// Quantized matrices in the memory of a CUDA device: for engines whose activations live there already.
//
//   nibble::cuda::Context context;                                    // a device; once
//   auto w = nibble::cuda::pack(context, q, stream);                  // upload; once, at load
//   nibble::cuda::DeviceBuffer scratch(nibble::cuda::matmul_workspace(*w, tokens, nibble::DType::f16),
//                                      context.allocator(), stream);
//   nibble::cuda::matmul(context, x, *w, y, scratch.span(), stream);  // every token; returns before it is done
//
// The only public header that speaks of CUDA, and it needs none of the toolkit's. Its library is nibble::cuda. Behind
// the Backend interface the same kernels take host memory: after register_backend(), find_backend("cuda"), which only
// its name chooses.
//
// Calls that take a stream put their work on it and return; they neither wait for the device nor allocate on it, but
// where they say so. (CUDA itself loads a kernel when it is first launched, which may wait; CUDA_MODULE_LOADING=EAGER
// has it load all at once.) What they are given must live until the stream has got there: memory that a stream of
// another order still reads, a Matrix say, must not be given back before. A Context may serve several threads and
// streams; buffers and matrices are as thread safe as the memory they are.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "nibble/backend/backend.h"
#include "nibble/core/error.h"
#include "nibble/core/matrix_view.h"
#include "nibble/matrix/quantized_matrix.h"

using cudaStream_t = struct CUstream_st*;  // as cuda_runtime.h has it; a null stream is the device's default one

namespace nibble::inline NIBBLE_ABI::cuda {

/// A call of the CUDA runtime, cuBLAS or cuSOLVER failed: Error{device}. The message holds the call, what it was for
/// and the library's own words.
class CudaError final : public Error {
 public:
  CudaError(const std::string& message, int status) : Error(ErrorCode::device, message), status_(status) {}
  /// The cudaError_t, cublasStatus_t or cusolverStatus_t.
  [[nodiscard]] int status() const noexcept { return status_; }

 private:
  int status_;
};

/// What a device is.
struct DeviceInfo {
  int ordinal = 0;
  std::string name;
  int compute_capability = 0;  ///< 10·major + minor: 80 for an A100, 90 for an H100.
  int multiprocessors = 0;
  std::size_t memory_bytes = 0;
  std::size_t l2_bytes = 0;
  std::size_t shared_bytes_per_block = 0;  ///< The most that a kernel can ask for.
};

/// The least compute capability the kernels are built for.
inline constexpr int kMinComputeCapability = 75;

/// Why the device cannot be used, for people: no driver, no device, one that is too old. Empty if it can. Asks the
/// driver anew at each call.
[[nodiscard]] std::string why_unavailable(int device = 0);
/// Error{unsupported} with why_unavailable().
[[nodiscard]] DeviceInfo device_info(int device = 0);

/// Where device memory comes from. An engine that pools its memory brings its own.
class DeviceAllocator {
 public:
  virtual ~DeviceAllocator() = default;
  /// `bytes` > 0, aligned to 256, for use by work that is put on `stream` from now on. Throws where there is none.
  [[nodiscard]] virtual void* allocate(std::size_t bytes, cudaStream_t stream) = 0;
  /// Work that was put on `stream` before may still use it.
  virtual void deallocate(void* memory, std::size_t bytes, cudaStream_t stream) noexcept = 0;
};
/// cudaMalloc and cudaFree; the latter waits for the device.
DeviceAllocator& default_allocator();

/// Bytes on the device.
struct DeviceSpan {
  void* data = nullptr;
  std::size_t size = 0;
};

/// Owns device memory; gives it back to its allocator, in the order of its stream, which must still be there. Not
/// initialised.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// Of the current device. No bytes: no memory. Errors: the allocator's.
  DeviceBuffer(std::size_t bytes, DeviceAllocator& allocator, cudaStream_t stream);
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    DeviceBuffer(std::move(other)).swap(*this);
    return *this;
  }
  ~DeviceBuffer();

  [[nodiscard]] std::size_t size() const { return size_; }
  template <class T = std::byte>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data_);
  }
  [[nodiscard]] DeviceSpan span() const { return {data_, size_}; }
  void swap(DeviceBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(allocator_, other.allocator_);
    std::swap(stream_, other.stream_);
  }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
  DeviceAllocator* allocator_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

/// A row-major matrix on the device; does not own. f32, f16 or bf16, rows `stride` elements apart.
struct DeviceMatrix {
  const void* data = nullptr;
  DType type = DType::f32;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;
};
/// The same to be written.
struct MutableDeviceMatrix {
  void* data = nullptr;
  DType type = DType::f32;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;
  operator DeviceMatrix() const { return {data, type, rows, cols, stride}; }
};

/// A device, the allocator for what lives on it, and its cuBLAS and cuSOLVER handles. The latter is made when GPTQ
/// first needs it; both take some memory of the device's, beside the allocator's.
class Context {
 public:
  /// Error{unsupported} with why_unavailable(); CudaError. The allocator must outlive all that was made with the
  /// context.
  explicit Context(int device = 0, DeviceAllocator& allocator = default_allocator());
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  [[nodiscard]] const DeviceInfo& device() const { return device_; }
  [[nodiscard]] DeviceAllocator& allocator() const { return *allocator_; }

  class Libraries;
  /// For this library's own sources.
  [[nodiscard]] Libraries& libraries() const { return *libraries_; }

 private:
  DeviceInfo device_;
  DeviceAllocator* allocator_;
  std::unique_ptr<Libraries> libraries_;
};

/// How codes lie on the device.
enum class CodeLayout {
  canonical,    ///< As in matrix/quantized_matrix.h, rows at multiples of 16 bytes: products of few tokens, any x.
  tensor_core,  ///< For tensor cores (kernels/cuda/gemm_layout.h): from a few tokens on, x in f16 or bf16.
  both,         ///< Each product by what serves it best, at twice the memory for codes.
};

/// Weights on a device, [rows = out, cols = in]: quantized, or in a float type. Immutable.
class Matrix {
 public:
  struct Storage;
  explicit Matrix(std::unique_ptr<const Storage> storage);
  ~Matrix();
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  [[nodiscard]] std::size_t rows() const;
  [[nodiscard]] std::size_t cols() const;
  [[nodiscard]] bool is_quantized() const;
  /// Of quantized weights.
  [[nodiscard]] const QuantSpec& spec() const;
  [[nodiscard]] CodeLayout code_layout() const;
  /// Bytes on the device.
  [[nodiscard]] std::size_t storage_bytes() const;
  /// For this library's own sources.
  [[nodiscard]] const Storage& storage() const { return *storage_; }

 private:
  std::unique_ptr<const Storage> storage_;
};
using MatrixPtr = std::shared_ptr<const Matrix>;

/// Uploads. Allocates, and waits for the stream. Whatever `layout`, matrices that no tensor-core kernel takes stay
/// canonical. matmul() takes on tensor cores 4 bits (symmetric, asymmetric, NF4, FP4; act-order, too) of a multiple of
/// 8 columns, every 32 neighbours of which share a scale; matmul_int8() takes 8 bits (symmetric, LLM.int8) with one
/// scale a row or for all. Their layout pads rows to 128 and columns to 64 (8 bits: 128), and repeats scales and zero
/// points in its own order, double-quantized ones as fp32. Errors: corrupt_file (buffers of another size than the spec
/// asks for), CudaError.
MatrixPtr pack(const Context& context, const QuantizedMatrix& q, cudaStream_t stream,
               CodeLayout layout = CodeLayout::canonical);
/// The same for weights in host memory that stay unquantized, in their own type. Errors: unsupported (another type),
/// shape_mismatch (a stride less than the columns), invalid_argument (empty), CudaError.
MatrixPtr pack(const Context& context, FloatMatrix weights, cudaStream_t stream);
/// What pack() was given, or quantize() made, exactly. Waits for the stream. Error{unsupported} for unquantized
/// weights.
QuantizedMatrix unpack(const Context& context, const Matrix& w, cudaStream_t stream);

/// Quantizes weights on the device, bit for bit as Backend::quantize does. Allocates, and waits for the stream. Errors:
/// as Backend::quantize, CudaError.
MatrixPtr quantize(const Context& context, const DeviceMatrix& weights, const QuantSpec& spec, std::string_view name,
                   cudaStream_t stream);

/// Decodes rows [first_row, first_row + out.rows), bit for bit as Backend::dequantize_to, but for the bits of a NaN,
/// which a file's scale can bring. Errors: shape_mismatch, unsupported (unquantized weights, another type), CudaError.
void dequantize(const Context& context, const Matrix& w, std::size_t first_row, const MutableDeviceMatrix& out,
                cudaStream_t stream);

/// How a product is made.
enum class Tier {
  gemv,         ///< Up to 8 tokens: a kernel that reads canonical codes once and decodes them on the way.
  tensor_core,  ///< 4-bit weights in that layout, x in f16 or bf16: decoded in registers, multiplied on tensor cores.
  blas,         ///< The rest: weights are decoded to x's type, at most 64 MiB at a time, and multiplied by cuBLAS.
};
/// The tier of a product with so many tokens of this type. Where several can serve, a table by device and scheme says
/// up to how many tokens each does (src/backend/cuda/tier_table.inc); the command cuda_tier_table makes it from a
/// model of the devices, or measures it.
[[nodiscard]] Tier matmul_tier(const Matrix& w, std::size_t tokens, DType x_type);

/// Bytes that matmul() works in, for so many tokens of this type. Tier::gemv: 0. Tier::tensor_core: all are needed. In
/// Tier::blas 32 MiB are cuBLAS's, the rest holds decoded weights; with less, down to one row, fewer are decoded at a
/// time.
[[nodiscard]] std::size_t matmul_workspace(const Matrix& w, std::size_t tokens, DType x_type);

/// y [n, out] = x [n, in] · Wᵀ on the stream. y is of x's type or f32. ε = 2⁻²⁴, u what rounding to x's type adds to a
/// weight (2⁻¹¹ for f16 within its normal range, 2⁻⁸ for bf16, 0 for f32); before y is rounded to its type,
///   Tier::gemv: |error| ≤ 1.01·(in/1024 + 40)·ε·Σ|x·w|, of 8 bits 1.01·(in/512 + 24)·ε·Σ|x·w|, the same for any number
///   of tokens;
///   Tier::tensor_core: |error| ≤ 1.01·(v + (in/16 + 149)·ε)·Σ|x·w|, v = u where the weights are NF4 or FP4, else 0;
///   Tier::blas: |error| ≤ (u + 1.01·(in + 1)·ε)·Σ|x·w| for x in f32, else (u + 2.3·(in + 16)·ε)·Σ|x·w|, since tensor
///   cores cut off where they add; unquantized weights: u = 0, and x must be of their type.
/// LLM.int8 weights are multiplied as they decode: activations are not rounded here. Columns of x in act-order need no
/// change. Results depend on nothing but the operands, the layout and the device; in Tier::blas also on cuBLAS's
/// version, the workspace's size and the alignment of x and y. Errors: shape_mismatch (names the shapes);
/// invalid_argument (a workspace that holds no row, or not aligned to 256; a shape beyond 2³¹−1; weights of another
/// device than the context's); unsupported (types); CudaError.
void matmul(const Context& context, const DeviceMatrix& x, const Matrix& w, const MutableDeviceMatrix& y,
            DeviceSpan workspace, cudaStream_t stream);

/// Whether matmul_int8() takes the matrix: 8 bits, in a layout for tensor cores.
[[nodiscard]] bool has_matmul_int8(const Matrix& w);
/// Bytes that matmul_int8() works in.
[[nodiscard]] std::size_t matmul_int8_workspace(const Matrix& w, std::size_t tokens);
/// matmul with activations rounded to 8 bits, a scale a token, multiplied as integers on tensor cores. LLM.int8 weights
/// take their outlier columns of x, where some |x| ≥ the spec's threshold, in fp32 instead; how many there are stays on
/// the device. Where y is f32, bit for bit what the CPU's Backend::matmul_int8 gives (LLM.int8: Backend::matmul), else
/// that rounded.
///
/// `non_finite` (on the device, aligned to 8, or null) gets 0, or 2⁶⁴−1 − (t·in + c) of the first NaN or infinity in x:
/// that token's results then mean nothing. Errors: as matmul's; unsupported unless has_matmul_int8().
void matmul_int8(const Context& context, const DeviceMatrix& x, const Matrix& w, const MutableDeviceMatrix& y,
                 DeviceSpan workspace, unsigned long long* non_finite, cudaStream_t stream);

/// Makes find_backend("cuda") find the device behind the Backend interface; once is enough, and repeating it does
/// nothing. Nothing is asked of the driver until then. That backend takes host memory: each call uploads, computes and
/// downloads on a stream of its own and waits. Codes, scales and decoded values are bit for bit the CPU backends',
/// products within matmul()'s bounds, with 8-bit activations and of LLM.int8 weights bit for bit, too. 8-bit symmetric
/// weights are packed in both layouts, LLM.int8's in the one for tensor cores. GGUF's blocks are packed as
/// cuda_blocks.h does to fp32: those of an exact_spec keep their size, the others take 4 bytes a weight. It never
/// computes on the host instead: what it cannot do is Error{unsupported}.
/// Device 0; memory from `allocator`, which must live for ever.
void register_backend(DeviceAllocator& allocator = default_allocator());

}  // namespace nibble::inline NIBBLE_ABI::cuda
