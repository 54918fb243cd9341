#include "nibble/format/awq.h"

#include <algorithm>
#include <cmath>

#include "config_writer.h"
#include "layer_format.h"
#include "layer_tensors.h"
#include "nibble/core/error.h"
#include "nibble/format/quantization_config.h"

namespace nibble::inline NIBBLE_ABI::format {

namespace {

using namespace awq_layout;

constexpr int kBits = 4;
constexpr std::uint8_t kMiddle = 8;

/// A matrix of eight nibbles by eight, turned over: nibble i of out[t] is nibble t of in[i].
constexpr std::array<std::uint32_t, 8> transpose_nibbles(const std::array<std::uint32_t, 8>& in) {
  std::array<std::uint32_t, 8> out{};
  for (std::size_t t = 0; t < 8; ++t)
    for (std::size_t i = 0; i < 8; ++i) out[t] |= (in[i] >> (4 * t) & 15u) << (4 * i);
  return out;
}
static_assert(transpose_nibbles({0x76543210u, 0, 0, 0, 0, 0, 0, 0})[3] == 3);
static_assert(transpose_nibbles(transpose_nibbles({1, 2, 3, 4, 5, 6, 7, 0x89ABCDEFu}))[7] == 0x89ABCDEFu);

/// GEMM's words [cols, rows/8] to canonical rows, eight columns of eight rows at a time; the last may be fewer columns.
void gemm_to_rows(const std::uint32_t* words, QuantizedMatrix& q) {
  const std::size_t width = q.rows / 8;
  auto* codes = q.codes.writable<std::uint8_t>();
  for (std::size_t k = 0; k < q.cols; k += 8)
    for (std::size_t c = 0; c < width; ++c) {
      const std::size_t n = std::min<std::size_t>(8, q.cols - k);
      std::array<std::uint32_t, 8> block{};
      for (std::size_t i = 0; i < n; ++i) block[i] = words[(k + i) * width + c];
      block = transpose_nibbles(block);
      for (std::size_t t = 0; t < 8; ++t)
        std::memcpy(codes + (8 * c + kOrder[t]) * q.row_bytes() + k / 2, &block[t], (n + 1) / 2);
    }
}

void rows_to_gemm(const QuantizedMatrix& q, std::uint32_t* words) {
  const std::size_t width = q.rows / 8;
  for (std::size_t k = 0; k < q.cols; k += 8)
    for (std::size_t c = 0; c < width; ++c) {
      const std::size_t n = std::min<std::size_t>(8, q.cols - k);
      std::array<std::uint32_t, 8> block{};
      for (std::size_t t = 0; t < 8; ++t) std::memcpy(&block[t], q.row_codes(8 * c + kOrder[t]) + k / 2, (n + 1) / 2);
      block = transpose_nibbles(block);
      for (std::size_t i = 0; i < n; ++i) words[(k + i) * width + c] = block[i];
    }
}

/// The zero point that −scale·zero_point was made of; what was stored is that product rounded to 16 bits once.
std::uint8_t zero_of_scaled(float stored, float scale, const std::string& name, std::size_t index) {
  const float zero = scale == 0 ? 0.0f : std::nearbyint(-stored / scale);
  const float error = std::fabs(stored + zero * scale);
  if (!(zero >= 0 && zero <= 15) || error > std::fabs(stored) * 0x1p-7f + 0x1p-24f)
    refuse(name, "value " + std::to_string(index) + ", " + std::to_string(stored) + ", is not −scale times 0 … 15, " +
                     "the scale being " + std::to_string(scale));
  return static_cast<std::uint8_t>(zero);
}

class AwqFormat final : public LayerFormat {
 public:
  explicit constexpr AwqFormat(AwqKind kind) : kind_(kind) {}

  bool holds(const TensorSource& source, const std::string& layer) const override {
    const QuantizationConfig* config = source.quantization();
    return config != nullptr && config->method() == "awq" && config->format() == version() &&
           source.contains(layer + ".qweight");
  }

  QuantizedMatrix decode(const TensorSource& source, const std::string& layer) const override {
    const LayerQuantization& as = layer_quantization(source, layer);
    if (as.bits != kBits)
      throw Error(ErrorCode::unsupported,
                  "layer '" + layer + "': AWQ codes of " + std::to_string(as.bits) + " bits are not read; 4 are");
    const NamedTensor qweight = need(source, layer + ".qweight", kind_ == AwqKind::gemv_fast ? DType::i16 : DType::i32);
    if (qweight.shape.size() != 2) refuse(qweight.name, "must have two dimensions");
    check_shape(qweight.name, qweight.shape[0], qweight.shape[1]);
    const auto [rows, cols] = shape_of(qweight.shape);
    check_shape(qweight.name, rows, cols);
    need_shape(qweight, qweight.shape);
    QuantSpec spec = affine_spec(as, as.symmetric, DType::f16);
    if (as.granularity == Granularity::group && cols % as.group_size != 0)
      refuse(qweight.name, "has " + std::to_string(cols) + " input features, no multiple of the group size " +
                               std::to_string(as.group_size));
    const std::size_t groups = spec.groups_per_row(cols);
    const NamedTensor scales = need_scales(source, layer + ".scales", scales_shape(rows, cols, groups));
    const auto zeros = read_zero_points(source, layer, scales, rows, cols, groups, as.symmetric);
    const bool symmetric = as.symmetric && std::all_of(zeros.begin(), zeros.end(), [](int z) { return z == kMiddle; });
    spec = affine_spec(as, symmetric, scales.type);

    QuantizedMatrix q = QuantizedMatrix::allocate(spec, rows, cols);
    read_codes(qweight, q);
    const std::size_t bytes = size_of(scales.type), width = scales.shape[1];
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t g = 0; g < groups; ++g)
        std::memcpy(q.scales.writable<std::byte>() + (r * groups + g) * bytes,
                    scales.bytes.data() + (kind_ == AwqKind::gemv ? r * width + g : g * width + r) * bytes, bytes);
    if (!symmetric) std::memcpy(q.zero_points.writable<std::uint8_t>(), zeros.data(), zeros.size());
    q.validate(layer + ".qweight");
    return q;
  }

  std::string obstacle(const LayerDescription& d) const override {
    if (kind_ == AwqKind::gemv_fast) return "this layout is only read, not written";
    if (std::string why = integer_obstacle(d); !why.empty()) return why;
    if (d.spec.bits != kBits) return std::to_string(d.spec.bits) + "-bit codes; AWQ has 4 bits";
    if (d.act_order) return "act-order groups (g_idx) have no place in AWQ";
    return shape_obstacle(d);
  }

  std::string value_loss(const QuantizedMatrix& q) const override { return inexact_scale(q, ScaleType::f16); }

  QuantSpec nearest(const LayerDescription& d) const override {
    LayerDescription stored = d;
    QuantSpec& spec = stored.spec = nearest_integer_spec(d.spec);
    if (kind_ == AwqKind::gemv_fast) throw Error(ErrorCode::unsupported, obstacle(d));
    if (spec.granularity == Granularity::group && !group_fits(spec.group_size, d.cols)) spec.group_size = 128;
    if (spec.granularity == Granularity::group && !group_fits(spec.group_size, d.cols)) {
      spec.granularity = Granularity::channel;
      spec.group_size = 0;
    }
    spec.bits = kBits;
    spec.scale_type = ScaleType::f16;
    if (const std::string why = shape_obstacle(stored); !why.empty()) throw Error(ErrorCode::unsupported, why);
    return spec;
  }

  std::vector<NamedTensor> declare(const std::string& layer, const LayerDescription& d) const override {
    const std::size_t groups = d.spec.groups_per_row(d.cols);
    if (kind_ == AwqKind::gemm)
      return {{layer + ".qweight", DType::i32, {d.cols, d.rows / 8}, {}},
              {layer + ".qzeros", DType::i32, {groups, d.rows / 8}, {}},
              {layer + ".scales", DType::f16, {groups, d.rows}, {}}};
    const std::size_t width = gemv_zeros_width(d.cols, d.cols / groups);
    return {{layer + ".qweight", DType::i32, {d.rows, d.cols / 8}, {}},
            {layer + ".qzeros", DType::i32, {d.rows, width}, {}},
            {layer + ".scales", DType::f16, {d.rows, 8 * width}, {}}};
  }

  void fill(const QuantizedMatrix& q, DType, std::vector<NamedTensor>& t) const override {
    for (NamedTensor& tensor : t)
      tensor.bytes = Buffer::allocate(tensor.shape[0] * tensor.shape[1] * size_of(tensor.type));
    const std::size_t groups = q.spec.groups_per_row(q.cols);
    const Buffer scales = scales_in(q, ScaleType::f16);
    auto* zeros = t[1].bytes.writable<std::uint8_t>();
    auto* out = t[2].bytes.writable<std::uint16_t>();
    if (kind_ == AwqKind::gemm) {
      rows_to_gemm(q, t[0].bytes.writable<std::uint32_t>());
      transpose(scales.as<std::uint16_t>(), q.rows, groups, out);
    } else {
      std::memcpy(t[0].bytes.writable<std::byte>(), q.codes.data(), q.codes.size());
    }
    for (std::size_t r = 0; r < q.rows; ++r)
      for (std::size_t g = 0; g < groups; ++g) {
        const auto zero = static_cast<std::uint8_t>(q.zero_point(r * groups + g));
        if (kind_ == AwqKind::gemm) {
          set_code(zeros, g * q.rows + r / 8 * 8 + nibble_of_column(r % 8), kBits, zero);
        } else {
          set_code(zeros, r * t[1].shape[1] * 8 + g, kBits, zero);
          out[r * t[2].shape[1] + g] = scales.as<std::uint16_t>()[r * groups + g];
        }
      }
  }

  std::string config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                     const QuantizationRun&) const override {
    return awq_config(layers, skipped, version());
  }

 private:
  [[nodiscard]] std::string version() const {
    return kind_ == AwqKind::gemm ? "gemm" : kind_ == AwqKind::gemv ? "gemv" : "gemv_fast";
  }

  struct Shape {
    std::size_t rows, cols;
  };
  /// Of the matrix, by qweight's. Each size is at most 2^28, so products of 8 do not overflow.
  [[nodiscard]] Shape shape_of(const std::vector<std::size_t>& s) const {
    switch (kind_) {
      case AwqKind::gemm: return {s[1] * 8, s[0]};
      case AwqKind::gemv: return {s[0], s[1] * 8};
      case AwqKind::gemv_fast: break;
    }
    return {s[0] * 4, s[1]};
  }

  [[nodiscard]] static std::size_t zeros_width(std::size_t cols, std::size_t groups) {
    return gemv_zeros_width(cols, cols / groups);
  }
  [[nodiscard]] std::vector<std::size_t> scales_shape(std::size_t rows, std::size_t cols, std::size_t groups) const {
    switch (kind_) {
      case AwqKind::gemm: return {groups, rows};
      case AwqKind::gemv: return {rows, 8 * zeros_width(cols, groups)};
      case AwqKind::gemv_fast: break;
    }
    return {8 * zeros_width(cols, groups), rows};
  }

  /// [row][group], as the canonical form has them. A symmetric file may leave them out.
  std::vector<std::uint8_t> read_zero_points(const TensorSource& source, const std::string& layer,
                                             const NamedTensor& scales, std::size_t rows, std::size_t cols,
                                             std::size_t groups, bool symmetric) const {
    std::vector<std::uint8_t> out(rows * groups, kMiddle);
    std::string name = layer + ".qzeros";
    if (kind_ == AwqKind::gemv_fast) {
      if (!source.find(name)) name = layer + ".scaled_zeros";
      const NamedTensor t = need_scales(source, name, scales.shape);
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t g = 0; g < groups; ++g)
          out[r * groups + g] =
              zero_of_scaled(float_at(t, g * rows + r), float_at(scales, g * rows + r), name, g * rows + r);
      return out;
    }
    if (symmetric && !source.find(name)) return out;
    if (kind_ == AwqKind::gemm) {
      const NamedTensor t = need(source, name, DType::i32, {groups, rows / 8});
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t g = 0; g < groups; ++g)
          out[r * groups + g] =
              get_code(t.bytes.as<std::uint8_t>(), g * rows + r / 8 * 8 + nibble_of_column(r % 8), kBits);
      return out;
    }
    const std::size_t width = zeros_width(cols, groups);
    const NamedTensor t = need(source, name, DType::i32, {rows, width});
    for (std::size_t r = 0; r < rows; ++r)
      unpack_codes(t.bytes.as<std::uint8_t>() + r * width * 4, groups, kBits, out.data() + r * groups);
    return out;
  }

  void read_codes(const NamedTensor& qweight, QuantizedMatrix& q) const {
    switch (kind_) {
      case AwqKind::gemm: return gemm_to_rows(qweight.bytes.as<std::uint32_t>(), q);
      case AwqKind::gemv: q.codes = qweight.bytes; return;
      case AwqKind::gemv_fast: break;
    }
    if (q.cols % 64 != 0)
      refuse(qweight.name, "has " + std::to_string(q.cols) + " columns; blocks of 64 are interleaved");
    const auto* words = qweight.bytes.as<std::uint16_t>();
    for (std::size_t r = 0; r < q.rows; ++r)
      for (std::size_t k = 0; k < q.cols; ++k) {
        const FastPosition p = fast_position(r, k);
        set_code(q.codes.writable<std::uint8_t>() + r * q.row_bytes(), k, kBits,
                 static_cast<std::uint8_t>(words[p.row * q.cols + p.column] >> (4 * p.nibble) & 15));
      }
  }

  [[nodiscard]] bool group_fits(std::size_t group_size, std::size_t cols) const {
    if (cols % group_size != 0) return false;
    return kind_ == AwqKind::gemm || group_size == 32 || group_size == 64 || group_size >= 128;
  }

  [[nodiscard]] std::string shape_obstacle(const LayerDescription& d) const {
    if (d.rows % 8 != 0 || (kind_ == AwqKind::gemv && d.cols % 8 != 0))
      return "its shape, " + shape_text(d.rows, d.cols) + ", is no multiple of the 8 codes of a word";
    const std::size_t group = d.spec.granularity == Granularity::group ? d.spec.group_size : d.cols;
    if (d.cols % group != 0)
      return "its " + std::to_string(d.cols) + " columns are no multiple of the group size " + std::to_string(group);
    if (!group_fits(group, d.cols)) return "groups of " + std::to_string(group) + "; GEMV has 32, 64 and from 128 on";
    return {};
  }

  AwqKind kind_;
};

constinit const AwqFormat kGemm(AwqKind::gemm), kGemv(AwqKind::gemv), kFast(AwqKind::gemv_fast);

}  // namespace

const LayerFormat& awq_format(AwqKind kind) {
  return kind == AwqKind::gemm ? kGemm : kind == AwqKind::gemv ? kGemv : kFast;
}

}  // namespace nibble::inline NIBBLE_ABI::format
