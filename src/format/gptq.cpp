#include "nibble/format/gptq.h"

#include <algorithm>

#include "config_writer.h"
#include "layer_format.h"
#include "layer_tensors.h"
#include "nibble/core/error.h"
#include "nibble/format/quantization_config.h"

namespace nibble::inline NIBBLE_ABI::format {

namespace {

using namespace gptq_layout;

std::size_t groups_of(const QuantSpec& spec, std::size_t cols) { return spec.groups_per_row(cols); }

/// How the stored fields of qzeros become zero points.
enum class ZeroRule { as_stored, plus_one, plus_one_by_word };

/// The fields of qzeros, [groups][rows]: `words` words to a group.
std::vector<std::uint8_t> read_fields(const NamedTensor& qzeros, std::size_t groups, std::size_t rows, int bits,
                                      std::uint32_t add) {
  const std::size_t words = qzeros.shape[1];
  std::vector<std::uint8_t> fields(groups * rows);
  std::vector<std::uint32_t> stream(words);
  for (std::size_t g = 0; g < groups; ++g) {
    const auto* from = qzeros.bytes.as<std::uint32_t>() + g * words;
    for (std::size_t i = 0; i < words; ++i) stream[i] = from[i] + add;
    unpack_codes(reinterpret_cast<const std::uint8_t*>(stream.data()), rows, bits, fields.data() + g * rows);
  }
  return fields;
}

/// Some files say v1 and store v2's zero points, or the other way round. Where they are symmetric, they tell.
ZeroRule zero_rule(const QuantizationConfig& config, const LayerQuantization& as,
                   const std::vector<std::uint8_t>& fields) {
  const auto middle = static_cast<std::uint8_t>(1 << (as.bits - 1));
  const auto all = [&](int value) {
    return std::all_of(fields.begin(), fields.end(), [&](int f) { return f == value; });
  };
  if (as.symmetric && all(middle)) return ZeroRule::as_stored;
  if (as.symmetric && all(middle - 1)) return ZeroRule::plus_one;
  if (config.format() == "gptq_v2") return ZeroRule::as_stored;
  return config.zeros_by_word() && as.bits != 3 ? ZeroRule::plus_one_by_word : ZeroRule::plus_one;
}

/// Zero points, [groups][rows].
std::vector<std::uint8_t> read_zero_points(const QuantizationConfig& config, const LayerQuantization& as,
                                           const NamedTensor& qzeros, std::size_t groups, std::size_t rows) {
  auto fields = read_fields(qzeros, groups, rows, as.bits, 0);
  switch (zero_rule(config, as, fields)) {
    case ZeroRule::as_stored: break;
    case ZeroRule::plus_one:
      for (std::uint8_t& f : fields) f = v1_zero_point(f, as.bits);
      break;
    case ZeroRule::plus_one_by_word: return read_fields(qzeros, groups, rows, as.bits, word_of_ones(as.bits));
  }
  return fields;
}

struct Shape {
  std::size_t rows, cols;
};

/// The matrix's shape by qweight's.
Shape shape_of(const NamedTensor& qweight, int bits) {
  if (qweight.shape.size() != 2) refuse(qweight.name, "must have two dimensions");
  const std::size_t words = qweight.shape[0], rows = qweight.shape[1];
  check_shape(qweight.name, rows, words);
  if (words * 32 % static_cast<std::size_t>(bits) != 0)
    refuse(qweight.name, std::to_string(words) + " words down a column are no whole number of " + std::to_string(bits) +
                             "-bit codes");
  const std::size_t cols = words * 32 / static_cast<std::size_t>(bits);
  check_shape(qweight.name, rows, cols);
  if (rows % codes_per_unit(bits) != 0)
    refuse(qweight.name, "has " + std::to_string(rows) + " columns (output features); " + std::to_string(bits) +
                             "-bit zero points need a multiple of " + std::to_string(codes_per_unit(bits)));
  need_shape(qweight, qweight.shape);
  return {rows, cols};
}

class GptqFormat final : public LayerFormat {
 public:
  explicit constexpr GptqFormat(bool v2) : v2_(v2) {}

  bool holds(const TensorSource& source, const std::string& layer) const override {
    const QuantizationConfig* config = source.quantization();
    return config != nullptr && config->method() == "gptq" && (config->format() == "gptq_v2") == v2_ &&
           source.contains(layer + ".qweight");
  }

  QuantizedMatrix decode(const TensorSource& source, const std::string& layer) const override {
    const LayerQuantization& as = layer_quantization(source, layer);
    if (!has_bits(as.bits))
      throw Error(ErrorCode::unsupported, "layer '" + layer + "': GPTQ codes of " + std::to_string(as.bits) +
                                              " bits are not read; 2, 3, 4 and 8 are");
    const NamedTensor qweight = need(source, layer + ".qweight", DType::i32);
    const auto [rows, cols] = shape_of(qweight, as.bits);
    QuantSpec spec = affine_spec(as, as.symmetric, DType::f16);
    const std::size_t groups = groups_of(spec, cols);
    const NamedTensor qzeros =
        need(source, layer + ".qzeros", DType::i32, {groups, rows * static_cast<std::size_t>(as.bits) / 32});
    const NamedTensor scales = need_scales(source, layer + ".scales", {groups, rows});

    const auto zeros = read_zero_points(*source.quantization(), as, qzeros, groups, rows);
    const bool symmetric =
        as.symmetric && std::all_of(zeros.begin(), zeros.end(), [&](int z) { return z == 1 << (as.bits - 1); });
    spec = affine_spec(as, symmetric, scales.type);
    QuantizedMatrix q = QuantizedMatrix::allocate(spec, rows, cols);
    transpose(qweight.bytes.as<std::uint32_t>(), qweight.shape[0], rows, q.codes.writable<std::uint32_t>());
    if (scales.type == DType::f32)
      transpose(scales.bytes.as<std::uint32_t>(), groups, rows, q.scales.writable<std::uint32_t>());
    else transpose(scales.bytes.as<std::uint16_t>(), groups, rows, q.scales.writable<std::uint16_t>());
    if (!symmetric) transpose(zeros.data(), groups, rows, q.zero_points.writable<std::uint8_t>());
    q.g_idx = read_g_idx(source, layer + ".g_idx", spec, cols);
    q.validate(layer + ".qweight");
    return q;
  }

  std::string obstacle(const LayerDescription& d) const override {
    if (std::string why = integer_obstacle(d); !why.empty()) return why;
    if (!has_bits(d.spec.bits)) return std::to_string(d.spec.bits) + "-bit codes; GPTQ has 2, 3, 4 and 8 bits";
    return shape_obstacle(d);
  }

  std::string value_loss(const QuantizedMatrix& q) const override { return inexact_scale(q, ScaleType::f16); }

  std::string tolerated_loss(const QuantizedMatrix& q) const override {
    if (v2_ || !q.spec.has_zero_points()) return {};
    const auto* zeros = q.zero_points.as<std::uint8_t>();
    const auto* zero = std::find(zeros, zeros + q.group_count(), 0);
    if (zero == zeros + q.group_count()) return {};
    return "the zero point of group " + std::to_string(zero - zeros) +
           " is 0, which v1 stores less 1 and its readers read back differently; gptq-v2 has no such doubt";
  }

  QuantSpec nearest(const LayerDescription& d) const override {
    QuantSpec spec = nearest_integer_spec(d.spec);
    if (!has_bits(spec.bits)) spec.bits = 8;
    spec.scale_type = ScaleType::f16;
    LayerDescription stored = d;
    stored.spec = spec;
    if (const std::string why = shape_obstacle(stored); !why.empty()) throw Error(ErrorCode::unsupported, why);
    return spec;
  }

  std::vector<NamedTensor> declare(const std::string& layer, const LayerDescription& d) const override {
    const auto bits = static_cast<std::size_t>(d.spec.bits);
    const std::size_t groups = groups_of(d.spec, d.cols);
    return {{layer + ".qweight", DType::i32, {d.cols * bits / 32, d.rows}, {}},
            {layer + ".qzeros", DType::i32, {groups, d.rows * bits / 32}, {}},
            {layer + ".scales", DType::f16, {groups, d.rows}, {}},
            {layer + ".g_idx", DType::i32, {d.cols}, {}}};
  }

  void fill(const QuantizedMatrix& q, DType, std::vector<NamedTensor>& t) const override {
    const std::size_t groups = groups_of(q.spec, q.cols), words = t[0].shape[0];
    t[0].bytes = Buffer::allocate(q.codes.size());
    transpose(q.codes.as<std::uint32_t>(), q.rows, words, t[0].bytes.writable<std::uint32_t>());
    t[1].bytes = Buffer::allocate(groups * t[1].shape[1] * 4);
    std::vector<std::uint8_t> fields(q.rows);
    for (std::size_t g = 0; g < groups; ++g) {
      for (std::size_t r = 0; r < q.rows; ++r) {
        const auto zero = static_cast<std::uint8_t>(q.zero_point(r * groups + g));
        fields[r] = v2_ ? zero : v1_field(zero, q.spec.bits);
      }
      pack_codes(fields.data(), q.rows, q.spec.bits, t[1].bytes.writable<std::uint8_t>() + g * t[1].shape[1] * 4);
    }
    const Buffer scales = scales_in(q, ScaleType::f16);
    t[2].bytes = Buffer::allocate(scales.size());
    transpose(scales.as<std::uint16_t>(), q.rows, groups, t[2].bytes.writable<std::uint16_t>());
    t[3].bytes = write_g_idx(q);
  }

  std::string config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                     const QuantizationRun& run) const override {
    return gptq_config(layers, skipped, run, v2_);
  }

 private:
  static std::string shape_obstacle(const LayerDescription& d) {
    const std::size_t unit = codes_per_unit(d.spec.bits);
    if (d.rows % unit == 0 && d.cols % unit == 0) return {};
    return "its shape, " + shape_text(d.rows, d.cols) + ", is no multiple of " + std::to_string(unit) +
           " both ways, which whole words of " + std::to_string(d.spec.bits) + "-bit codes need";
  }

  bool v2_;
};

constinit const GptqFormat kFirst(false), kSecond(true);

}  // namespace

const LayerFormat& gptq_format(bool v2) { return v2 ? kSecond : kFirst; }

}  // namespace nibble::inline NIBBLE_ABI::format
