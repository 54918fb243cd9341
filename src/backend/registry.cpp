#include <algorithm>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <utility>

#include "core/narrow.h"
#include "cpu_matmul.h"
#include "cpu_quantize.h"
#include "kernels/cpu/kernels.h"
#include "nibble/backend/backend.h"
#include "nibble/core/cpu_features.h"
#include "nibble/core/error.h"
#include "thread_scratch.h"

namespace nibble::inline NIBBLE_ABI {

namespace {

/// Before memory is touched: what `q` holds, and that these rows of it and `out` are there.
template <class Out>
void check_dequantize(const QuantizedMatrix& q, std::size_t first_row, const Out& out) {
  const auto [rows, cols] = std::pair(out.rows, out.cols);
  out.validate("the values decoded to");
  q.validate_layout("matrix");
  if (cols == q.cols && first_row <= q.rows && rows <= q.rows - first_row) return;
  throw Error(ErrorCode::shape_mismatch, "dequantize: rows " + std::to_string(first_row) + " to " +
                                             std::to_string(first_row + rows) + " of " + std::to_string(cols) +
                                             " columns were asked of a matrix of " + std::to_string(q.rows) + " × " +
                                             std::to_string(q.cols));
}

void check_widen(FloatMatrix x, MatrixView<float> out) {
  x.validate("x");
  out.validate("the values widened to");
  if (x.rows != out.rows || x.cols != out.cols)
    throw Error(ErrorCode::shape_mismatch, "widen: x is " + std::to_string(x.rows) + " × " + std::to_string(x.cols) +
                                               ", the output " + std::to_string(out.rows) + " × " +
                                               std::to_string(out.cols));
}

/// One ISA's kernels behind the interface.
class CpuBackend final : public Backend {
 public:
  CpuBackend(std::string_view name, std::string_view description, const kernels::KernelTable& isa, bool available)
      : name_(name), description_(description), isa_(isa), available_(available) {}

  std::string_view name() const noexcept override { return name_; }
  std::string_view description() const noexcept override { return description_; }
  bool available() const noexcept override { return available_; }
  bool supports(const QuantSpec&) const noexcept override { return true; }

  QuantizedMatrix quantize(FloatMatrix weights, const QuantSpec& spec, std::string_view name,
                           Executor& executor) const override {
    return cpu_quantize(isa_, weights, spec, name, executor);
  }
  void dequantize(const QuantizedMatrix& q, std::size_t first_row, MatrixView<float> out,
                  Executor& executor) const override {
    dequantize_to(q, first_row, out, executor);
  }
  void dequantize_to(const QuantizedMatrix& q, std::size_t first_row, MutableFloatMatrix out,
                     Executor& executor) const override {
    check_dequantize(q, first_row, out);
    cpu_dequantize(isa_, q, first_row, out, executor);
  }
  PackedMatrixPtr pack(QuantizedMatrix q) const override { return cpu_pack(*this, std::move(q)); }
  QuantizedMatrix unpack(const PackedMatrix& packed) const override { return cpu_unpack(packed); }
  PackedMatrixPtr pack(FloatMatrix weights) const override { return cpu_pack(*this, weights); }
  PackedMatrixPtr pack(BlockMatrix blocks) const override { return cpu_pack(*this, std::move(blocks)); }
  void matmul(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
              Executor& executor) const override {
    cpu_matmul(isa_, x, {{Projection{&w, y}}}, Activations::fp32, executor);
  }
  void widen(FloatMatrix x, MatrixView<float> out) const override {
    check_widen(x, out);
    for (std::size_t r = 0; r < x.rows; ++r) {
      const float* from = cpu_load_row(isa_, x, r, 0, x.cols, &out(r, 0));
      if (from != &out(r, 0)) std::copy_n(from, x.cols, &out(r, 0));
    }
  }
  bool has_int8_matmul(const PackedMatrix& w) const noexcept override { return cpu_has_int8_matmul(w); }
  void matmul_int8(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
                   Executor& executor) const override {
    if (!cpu_has_int8_matmul(w))
      throw Error(ErrorCode::unsupported,
                  "8-bit activations need integer weights with groups inside rows; use matmul for the others");
    cpu_matmul(isa_, x, {{Projection{&w, y}}}, Activations::int8, executor);
  }
  void matmul_fused(MatrixView<const float> x, std::span<const Projection> projections, Activations activations,
                    Executor& executor) const override {
    cpu_matmul(isa_, x, projections, activations, executor);
  }
  void matmul_gated(MatrixView<const float> x, const PackedMatrix& gate, const PackedMatrix& up,
                    GatedActivation activation, MatrixView<float> y, Activations activations,
                    Executor& executor) const override {
    cpu_matmul_gated(isa_, x, gate, up, activation, y, activations, executor);
  }
  bool has_gather_rows(const PackedMatrix& w) const noexcept override { return cpu_has_gather_rows(w); }
  void gather_rows(const PackedMatrix& w, std::span<const std::int32_t> rows, MatrixView<float> out,
                   Executor& executor) const override {
    cpu_gather_rows(isa_, w, rows, out, executor);
  }
  void matmul_transposed(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
                         Executor& executor) const override {
    cpu_matmul_transposed(isa_, x, w, y, executor);
  }

 private:
  std::string_view name_;
  std::string_view description_;
  const kernels::KernelTable& isa_;
  bool available_;
};

/// The library's only mutable global. Entries are never removed, so references to them stay good.
struct Registry {
  std::mutex mutex;
  std::deque<std::unique_ptr<Backend>> entries;

  Registry() {
#if defined(__x86_64__)
    const CpuFeatures& cpu = cpu_features();
    add("avx512vnni", "AVX-512 with VNNI, 16 lanes", kernels::avx512vnni_kernels, cpu.avx512_vnni);
    add("avx512", "AVX-512 F/BW/DQ/VL, 16 lanes", kernels::avx512_kernels, cpu.avx512);
    add("avxvnni", "AVX2 with AVX-VNNI, 8 lanes", kernels::avxvnni_kernels, cpu.avx_vnni);
    add("avx2", "AVX2 with FMA and F16C, 8 lanes", kernels::avx2_kernels, cpu.avx2);
#elif defined(__aarch64__)
    add("neondot", "NEON with the dot product, 4 lanes", kernels::neondot_kernels, cpu_features().neon_dot);
    add("neon", "NEON, 4 lanes", kernels::neon_kernels, true);
#endif
    add("scalar", "plain C++, the reference", kernels::scalar_kernels, true);
#if defined(__x86_64__)
    // Behind the reference, so that only its name chooses it: nobody has measured whether it is faster.
    add("avx512amx", "AVX-512 with VNNI and AMX tiles, speed not measured so far", kernels::avx512amx_kernels,
        cpu.amx_int8);
#endif
  }
  void add(std::string_view name, std::string_view description, const kernels::KernelTable& isa, bool available) {
    entries.push_back(std::make_unique<CpuBackend>(name, description, isa, available));
  }
};

/// Never destroyed: a backend may own what its libraries tear down before it when the process ends.
Registry& registry() {
  static Registry& r = *new Registry;
  return r;
}

}  // namespace

void Backend::dequantize_to(const QuantizedMatrix& q, std::size_t first_row, MutableFloatMatrix out,
                            Executor& executor) const {
  check_dequantize(q, first_row, out);
  std::vector<float> values(out.cols);
  for (std::size_t r = 0; r < out.rows; ++r) {
    dequantize(q, first_row + r, {values.data(), 1, out.cols}, executor);
    check_narrowed(values, out.type, "matrix", q.cols, first_row + r);
    narrow_floats(out.type, values.data(), out.cols, out.row(r));
  }
}

void Backend::widen(FloatMatrix x, MatrixView<float> out) const {
  check_widen(x, out);
  for (std::size_t r = 0; r < x.rows; ++r) widen_floats(x.type, x.row(r), x.cols, out.row(r).data());
}

namespace {

/// x in fp32, in memory that the calling thread keeps.
template <class Multiply>
void with_widened(const Backend& backend, FloatMatrix x, const Multiply& multiply) {
  x.validate("x");
  const ThreadScratch<std::vector<float>> values;
  if (values->size() < x.rows * x.cols) values->resize(x.rows * x.cols);
  const MatrixView<float> wide(values->data(), x.rows, x.cols);
  backend.widen(x, wide);
  multiply(MatrixView<const float>(wide));
}

}  // namespace

void Backend::matmul(MatrixView<const f16> x, const PackedMatrix& w, MatrixView<float> y, Executor& executor) const {
  with_widened(*this, x, [&](MatrixView<const float> wide) { matmul(wide, w, y, executor); });
}

void Backend::matmul(MatrixView<const bf16> x, const PackedMatrix& w, MatrixView<float> y, Executor& executor) const {
  with_widened(*this, x, [&](MatrixView<const float> wide) { matmul(wide, w, y, executor); });
}

void Backend::matmul_int8(MatrixView<const float>, const PackedMatrix&, MatrixView<float>, Executor&) const {
  throw Error(ErrorCode::unsupported, "the backend '" + std::string(name()) + "' has no 8-bit activations");
}

void Backend::matmul_fused(MatrixView<const float> x, std::span<const Projection> projections, Activations activations,
                           Executor& executor) const {
  for (const Projection& p : projections) {
    if (p.weights == nullptr) throw Error(ErrorCode::invalid_argument, "matmul_fused: a projection has no weights");
    if (!p.bias.empty() && p.bias.size() != p.weights->rows())
      throw Error(ErrorCode::shape_mismatch, "matmul_fused: a bias has " + std::to_string(p.bias.size()) +
                                                 " values for " + std::to_string(p.weights->rows()) + " outputs");
  }
  for (const Projection& p : projections) {
    if (activations != Activations::fp32 && has_int8_matmul(*p.weights)) matmul_int8(x, *p.weights, p.y, executor);
    else matmul(x, *p.weights, p.y, executor);
    if (!p.bias.empty())
      for (std::size_t t = 0; t < p.y.rows; ++t)
        for (std::size_t j = 0; j < p.y.cols; ++j) p.y(t, j) += p.bias[j];
  }
}

void Backend::matmul_gated(MatrixView<const float> x, const PackedMatrix& gate, const PackedMatrix& up,
                           GatedActivation activation, MatrixView<float> y, Activations activations,
                           Executor& executor) const {
  y.validate("y");
  std::vector<float> ups(y.rows * y.cols);
  const MatrixView<float> other(ups.data(), y.rows, y.cols);
  const Projection both[] = {{&gate, y}, {&up, other}};
  matmul_fused(x, both, activations, executor);
  for (std::size_t t = 0; t < y.rows; ++t) apply_gate(activation, y.row(t), other.row(t), y.row(t));
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): backends that take them keep them
PackedMatrixPtr Backend::pack(BlockMatrix) const {
  throw Error(ErrorCode::unsupported, "the backend '" + std::string(name()) + "' does not take GGUF blocks");
}

void Backend::gather_rows(const PackedMatrix&, std::span<const std::int32_t>, MatrixView<float>, Executor&) const {
  throw Error(ErrorCode::unsupported, "the backend '" + std::string(name()) + "' gathers no rows of packed matrices");
}

QuantizedMatrix Backend::unpack(const PackedMatrix&) const {
  throw Error(ErrorCode::unsupported, "the backend '" + std::string(name()) + "' cannot unpack");
}

void register_backend(std::unique_ptr<Backend> backend) {
  if (backend == nullptr) throw Error(ErrorCode::invalid_argument, "register_backend: there is no backend");
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  for (const auto& entry : r.entries)
    if (entry->name() == backend->name())
      throw Error(ErrorCode::invalid_argument,
                  "a backend named '" + std::string(backend->name()) + "' is registered already");
  r.entries.push_back(std::move(backend));
}

std::vector<const Backend*> backends() {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  std::vector<const Backend*> out;
  for (const auto& entry : r.entries) out.push_back(entry.get());
  return out;
}

const Backend& find_backend(std::string_view name) {
  std::string names;
  for (const Backend* b : backends()) {
    if (b->name() == name) {
      if (b->available()) return *b;
      if (const std::string why = b->why_unavailable(); !why.empty())
        throw Error(ErrorCode::unsupported, "the backend '" + std::string(name) + "' cannot run here: " + why);
      throw Error(ErrorCode::unsupported, "this CPU cannot run the backend '" + std::string(name) + "' (" +
                                              std::string(b->description()) + ")");
    }
    names += (names.empty() ? "" : ", ") + std::string(b->name());
  }
  const char* hint = name == "cuda" ? "; this program does not use the library nibble::cuda, which a build with "
                                      "NIBBLE_CUDA has and nibble::cuda::register_backend() brings in"
                                    : "";
  throw Error(ErrorCode::not_found, "there is no backend '" + std::string(name) + "'; there are " + names + hint);
}

const Backend& default_backend() {
  if (const char* wanted = std::getenv("NIBBLE_BACKEND"); wanted != nullptr && *wanted != '\0')
    return find_backend(wanted);
  static const Backend& best = [&]() -> const Backend& {
    for (const Backend* b : backends())
      if (b->available()) return *b;
    return find_backend("scalar");
  }();
  return best;
}

}  // namespace nibble::inline NIBBLE_ABI
