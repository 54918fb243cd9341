// What backend/impl/cpu_backend.h declares.
#pragma once

#include "nibble/backend/impl/cpu_backend.h"

#include <algorithm>
#include <utility>

#include "nibble/backend/impl/checks.h"
#include "nibble/backend/impl/cpu/kernels.h"
#include "nibble/backend/impl/cpu_matmul.h"
#include "nibble/backend/impl/cpu_quantize.h"
#include "nibble/core/cpu_features.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

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
  using Backend::pack;
  PackedMatrixPtr pack(QuantizedMatrix q, Executor& executor) const override {
    return cpu_pack({*this, isa_, executor}, std::move(q));
  }
  QuantizedMatrix unpack(const PackedMatrix& packed) const override { return cpu_unpack(packed); }
  PackedMatrixPtr pack(FloatMatrix weights, Executor& executor) const override {
    return cpu_pack({*this, isa_, executor}, weights);
  }
  PackedMatrixPtr pack(BlockMatrix blocks, Executor& executor) const override {
    return cpu_pack({*this, isa_, executor}, std::move(blocks));
  }
  void matmul(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
              Executor& executor) const override {
    cpu_matmul(isa_, x, {{Projection{&w, y}}}, Activations::fp32, executor);
  }
  void upcast(FloatMatrix x, MatrixView<float> out) const override {
    check_upcast(x, out);
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
                  "8-bit activations need integer weights, or codebooks of 16 values, with groups inside rows; use "
                  "matmul for the others");
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

}  // namespace detail

NIBBLE_INLINE std::vector<std::unique_ptr<Backend>> make_cpu_backends() {
  std::vector<std::unique_ptr<Backend>> out;
  const auto add = [&](std::string_view name, std::string_view description, const kernels::KernelTable& isa,
                       bool available) {
    out.push_back(std::make_unique<detail::CpuBackend>(name, description, isa, available));
  };
  [[maybe_unused]] const CpuFeatures cpu = cpu_features();
#if defined(NIBBLE_ISA_AVX512VNNI)
  add("avx512vnni", "AVX-512 with VNNI, 16 lanes", kernels::avx512vnni_kernels, cpu.avx512_vnni);
#endif
#if defined(NIBBLE_ISA_AVX512)
  add("avx512", "AVX-512 F/BW/DQ/VL, 16 lanes", kernels::avx512_kernels, cpu.avx512);
#endif
#if defined(NIBBLE_ISA_AVXVNNI)
  add("avxvnni", "AVX2 with AVX-VNNI, 8 lanes", kernels::avxvnni_kernels, cpu.avx_vnni);
#endif
#if defined(NIBBLE_ISA_AVX2)
  add("avx2", "AVX2 with FMA and F16C, 8 lanes", kernels::avx2_kernels, cpu.avx2);
#endif
#if defined(NIBBLE_ISA_NEONDOT)
  add("neondot", "NEON with the dot product, 4 lanes", kernels::neondot_kernels, cpu.neon_dot);
#endif
#if defined(NIBBLE_ISA_NEON)
  add("neon", "NEON, 4 lanes", kernels::neon_kernels, true);
#endif
  add("scalar", "plain C++, the reference", kernels::scalar_kernels, true);
#if defined(NIBBLE_ISA_AVX512AMX)
  // Behind the reference, so that only its name chooses it: nobody has measured whether it is faster.
  add("avx512amx", "AVX-512 with VNNI and AMX tiles, speed not measured so far", kernels::avx512amx_kernels,
      cpu.amx_int8);
#endif
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI
