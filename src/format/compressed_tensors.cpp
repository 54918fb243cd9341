#include "nibble/format/compressed_tensors.h"

#include "config_writer.h"
#include "float_layers.h"
#include "layer_format.h"
#include "layer_tensors.h"
#include "nibble/core/error.h"
#include "nibble/format/quantization_config.h"

namespace nibble::inline NIBBLE_ABI::format {

namespace {

using namespace compressed_tensors_layout;

/// weight_shape, in either type.
std::vector<std::size_t> read_shape(const TensorSource& source, const std::string& layer) {
  const std::string name = layer + ".weight_shape";
  const auto found = source.find(name);
  const DType type = found && found->type == DType::i32 ? DType::i32 : DType::i64;
  const NamedTensor t = need(source, name, type, {2});
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < 2; ++i) {
    const std::int64_t size = type == DType::i32 ? t.bytes.as<std::int32_t>()[i] : t.bytes.as<std::int64_t>()[i];
    if (size <= 0) refuse(name, "holds the size " + std::to_string(size));
    out.push_back(static_cast<std::size_t>(size));
  }
  check_shape(name, out[0], out[1]);
  return out;
}

/// Codes of one row or column of words: a stream, or whole codes in each word.
void unpack(const std::uint32_t* words, std::size_t count, int bits, bool stream, std::uint8_t* codes) {
  if (stream) return unpack_codes(reinterpret_cast<const std::uint8_t*>(words), count, bits, codes);
  const std::size_t in_word = 32 / static_cast<std::size_t>(bits);
  for (std::size_t i = 0; i < count; ++i)
    codes[i] = static_cast<std::uint8_t>(words[i / in_word] >> (i % in_word * static_cast<std::size_t>(bits)) &
                                         ((1u << bits) - 1u));
}

std::size_t width(std::size_t count, int bits, bool stream) {
  return stream ? words(count, bits) : aligned_words(count, bits);
}

std::vector<std::size_t> scale_shape(const QuantSpec& spec, std::size_t rows, std::size_t cols) {
  if (spec.granularity == Granularity::tensor) return {1};
  if (spec.granularity == Granularity::tile)
    return {spec.group_count(rows, cols) / spec.groups_per_row(cols), spec.groups_per_row(cols)};
  return {rows, spec.groups_per_row(cols)};
}

/// Where the tensors of a layer of floats are.
FloatTensors float_tensors(const std::string& layer, const QuantSpec& spec) {
  return {layer + (spec.bits == 8 ? ".weight" : ".weight_packed"), layer + ".weight_scale",
          spec.has_tensor_scale() ? layer + ".weight_global_scale" : std::string()};
}

std::string float_obstacle(const LayerDescription& d) {
  if (float_format_of(d.spec).empty())
    return d.spec.to_string() +
           "; of floats the layout holds e4m3, and with powers of two for groups of 32 e4m3, e2m3 and e2m1, and nvfp4";
  if (d.act_order) return "its groups are in act-order (g_idx), which nibble's layout alone has of floats";
  return whole_groups_obstacle(d, "compressed-tensors' readers");
}

QuantSpec nearest_floats(const LayerDescription& d) {
  QuantSpec spec = QuantSpec::parse(d.spec.bits == 8                       ? "fp8"
                                    : d.spec.bits == 6                     ? "mxfp6"
                                    : d.spec.scale_type == ScaleType::e4m3 ? "nvfp4"
                                                                           : "mxfp4");
  if (spec.granularity == Granularity::group && d.cols % spec.group_size != 0) spec = QuantSpec::parse("fp8");
  return spec;
}

class CompressedTensorsFormat final : public LayerFormat {
 public:
  bool holds(const TensorSource& source, const std::string& layer) const override {
    if (source.contains(layer + ".weight_packed")) return true;
    return is_in_bytes(source, layer) || is_in_fp8(source, layer);
  }

  QuantizedMatrix decode(const TensorSource& source, const std::string& layer) const override {
    const LayerQuantization& as = layer_quantization(source, layer);
    if (!as.tensor_scale) need_absent(source, layer + ".weight_global_scale");
    if (as.floats || is_in_fp8(source, layer)) return decode_floats(source, layer, as);
    if (is_in_bytes(source, layer)) return decode_bytes(source, layer, as);
    const std::string packed_name = layer + ".weight_packed";
    if (source.quantization()->method() != "compressed-tensors")
      throw Error(ErrorCode::unsupported, "tensor '" + packed_name +
                                              "' is compressed-tensors', but the configuration says '" +
                                              source.quantization()->method() + "'");
    if (!as.obstacle.empty())
      throw Error(ErrorCode::unsupported, "tensor '" + packed_name + "' is compressed-tensors': " + as.obstacle);
    const auto shape = read_shape(source, layer);
    const std::size_t rows = shape[0], cols = shape[1];
    const NamedTensor packed = need(source, packed_name, DType::i32);
    const bool stream = packed.shape != std::vector<std::size_t>{rows, aligned_words(cols, as.bits)} ||
                        words(cols, as.bits) == aligned_words(cols, as.bits);
    need_shape(packed, {rows, width(cols, as.bits, stream)});
    QuantSpec spec = affine_spec(as, as.symmetric, DType::f16);
    const std::string scale_name = layer + ".weight_scale";
    const NamedTensor scales = need_scales(source, scale_name, scale_shape(spec, rows, cols));
    spec.scale_type = scale_type_of(scales.type);

    QuantizedMatrix q = QuantizedMatrix::allocate(spec, rows, cols);
    read_codes(packed, stream, q);
    q.scales = scales.bytes;
    if (!as.symmetric) read_zero_points(source, layer + ".weight_zero_point", stream, q);
    q.g_idx = spec.granularity == Granularity::group ? read_g_idx(source, layer + ".weight_g_idx", spec, cols)
                                                     : std::vector<std::int32_t>();
    q.validate(packed_name);
    return q;
  }

  std::string obstacle(const LayerDescription& d) const override {
    if (d.spec.has_float_codes()) return float_obstacle(d);
    if (std::string why = integer_obstacle(d, true); !why.empty()) return why;
    if (d.act_order)
      return "act-order groups (g_idx), which compressed-tensors' readers have given up; gptq and nibble hold them, "
             "and "
             "static groups need none";
    return whole_groups_obstacle(d, "compressed-tensors' readers");
  }
  std::string value_loss(const QuantizedMatrix& q) const override {
    return reciprocal_obstacle(float_tensors("", q.spec), q);
  }
  std::string tolerated_loss(const QuantizedMatrix& q) const override {
    return reciprocal_loss(float_tensors("", q.spec), q);
  }

  QuantSpec nearest(const LayerDescription& d) const override {
    if (d.spec.has_float_codes()) return nearest_floats(d);
    QuantSpec spec =
        d.spec.is_affine() && d.spec.granularity == Granularity::tensor ? d.spec : nearest_integer_spec(d.spec);
    spec.preserve_zero = true;
    if (spec.granularity == Granularity::group && d.cols % spec.group_size != 0) {
      spec.granularity = Granularity::channel;
      spec.group_size = 0;
    }
    return spec;
  }

  std::vector<NamedTensor> declare(const std::string& layer, const LayerDescription& d) const override {
    if (d.spec.has_float_codes()) {
      const bool powers = d.spec.scale_type == ScaleType::e8m0;
      return declare_floats(float_tensors(layer, d.spec), d, powers ? DType::u8 : dtype_of(d.spec.scale_type),
                            scale_shape(d.spec, d.rows, d.cols));
    }
    const int bits = d.spec.bits;
    const std::string w = layer + ".weight_";
    std::vector<NamedTensor> out{{w + "packed", DType::i32, {d.rows, words(d.cols, bits)}, {}},
                                 {w + "scale", dtype_of(d.spec.scale_type), scale_shape(d.spec, d.rows, d.cols), {}},
                                 {w + "shape", DType::i64, {2}, {}}};
    if (d.spec.has_zero_points()) {
      if (d.spec.granularity == Granularity::tensor) out.push_back({w + "zero_point", DType::i8, {1}, {}});
      else out.push_back({w + "zero_point", DType::i32, {words(d.rows, bits), d.spec.groups_per_row(d.cols)}, {}});
    }
    return out;
  }

  void fill(const QuantizedMatrix& q, DType, std::vector<NamedTensor>& t) const override {
    if (q.spec.has_float_codes()) return fill_floats(float_tensors("", q.spec), q, t);
    t[0].bytes = Buffer::allocate(q.rows * t[0].shape[1] * 4);
    for (std::size_t r = 0; r < q.rows; ++r)
      std::memcpy(t[0].bytes.writable<std::byte>() + r * t[0].shape[1] * 4, q.row_codes(r), q.row_bytes());
    t[1].bytes = q.scales;
    const std::int64_t shape[2] = {static_cast<std::int64_t>(q.rows), static_cast<std::int64_t>(q.cols)};
    t[2].bytes = copy_bytes(shape, sizeof shape);
    if (q.spec.has_zero_points()) t[3].bytes = zero_points(q, t[3].shape);
  }

  std::string config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                     const QuantizationRun&) const override {
    return compressed_tensors_config(layers, skipped);
  }

 private:
  /// Whether the layer is int-quantized: codes in bytes, which nobody but this method's configuration explains.
  static bool is_in_bytes(const TensorSource& source, const std::string& layer) {
    const QuantizationConfig* config = source.quantization();
    if (config == nullptr || config->method() != "compressed-tensors") return false;
    const auto weight = source.contains(layer + ".weight_scale") ? source.describe(layer + ".weight") : std::nullopt;
    return weight && weight->type == DType::i8;
  }

  /// The same of E4M3.
  static bool is_in_fp8(const TensorSource& source, const std::string& layer) {
    const QuantizationConfig* config = source.quantization();
    if (config == nullptr || config->method() != "compressed-tensors") return false;
    const auto weight = source.contains(layer + ".weight_scale") ? source.describe(layer + ".weight") : std::nullopt;
    return weight && weight->type == DType::f8_e4m3;
  }

  static QuantizedMatrix decode_floats(const TensorSource& source, const std::string& layer,
                                       const LayerQuantization& as) {
    const std::string what = "tensor '" + layer + (source.contains(layer + ".weight") ? ".weight" : ".weight_packed") +
                             "' is compressed-tensors'";
    if (!as.obstacle.empty()) throw Error(ErrorCode::unsupported, what + ": " + as.obstacle);
    if (!as.floats) throw Error(ErrorCode::unsupported, what + " in fp8, and its configuration says it is of integers");
    if (!as.symmetric) throw Error(ErrorCode::unsupported, what + ": its floats have zero points, which are not read");
    need_zeros(source, layer + ".weight_zero_point");
    QuantSpec spec;
    spec.scheme = *as.floats;
    spec.bits = as.bits;
    spec.granularity = as.granularity;
    spec.group_size = as.group_size;
    if (as.tensor_scale) spec.scale_type = ScaleType::e4m3;
    QuantizedMatrix q = read_floats(source, float_tensors(layer, spec), spec);
    if (spec.granularity == Granularity::group) q.g_idx = read_g_idx(source, layer + ".weight_g_idx", q.spec, q.cols);
    else need_absent(source, layer + ".weight_g_idx");
    return q;
  }

  static QuantizedMatrix decode_bytes(const TensorSource& source, const std::string& layer,
                                      const LayerQuantization& as) {
    const NamedTensor weight = need(source, layer + ".weight", DType::i8);
    if (weight.shape.size() != 2) refuse(weight.name, "must have two dimensions");
    const std::size_t rows = weight.shape[0], cols = weight.shape[1];
    check_shape(weight.name, rows, cols);
    need_shape(weight, weight.shape);
    QuantSpec spec = affine_spec(as, as.symmetric, DType::f16);
    const NamedTensor scales = read_scales(source, layer + ".weight_scale", spec, rows, cols);
    spec.scale_type = scale_type_of(scales.type);
    QuantizedMatrix q = QuantizedMatrix::allocate(spec, rows, cols);
    std::vector<std::uint8_t> row(cols);
    for (std::size_t r = 0; r < rows; ++r) {
      unsigned_codes(weight, r * cols, spec.bits, row);
      pack_codes(row.data(), cols, spec.bits, q.codes.writable<std::uint8_t>() + r * q.row_bytes());
    }
    q.scales = scales.bytes;
    if (!as.symmetric) {
      const NamedTensor zeros = need(source, layer + ".weight_zero_point", DType::i8, scales.shape);
      std::vector<std::uint8_t> codes(q.group_count());
      unsigned_codes(zeros, 0, spec.bits, codes);
      std::memcpy(q.zero_points.writable<std::uint8_t>(), codes.data(), codes.size());
    }
    if (spec.granularity == Granularity::group) q.g_idx = read_g_idx(source, layer + ".weight_g_idx", spec, cols);
    q.validate(weight.name);
    return q;
  }

  /// Those of a whole tensor may have no dimension at all.
  static NamedTensor read_scales(const TensorSource& source, const std::string& name, const QuantSpec& spec,
                                 std::size_t rows, std::size_t cols) {
    const auto found = spec.granularity == Granularity::tensor ? source.find(name) : std::nullopt;
    if (found && found->shape.empty()) return need_scales(source, name, {});
    return need_scales(source, name, scale_shape(spec, rows, cols));
  }

  /// Signed codes from element `first` on, with 2^(bits−1) added; refuses one that is beyond `bits` bits.
  static void unsigned_codes(const NamedTensor& t, std::size_t first, int bits, std::vector<std::uint8_t>& out) {
    const int middle = 1 << (bits - 1);
    for (std::size_t i = 0; i < out.size(); ++i) {
      const int code = t.bytes.as<std::int8_t>()[first + i] + middle;
      if (code < 0 || code >= 2 * middle)
        refuse(t.name, "value " + std::to_string(first + i) + " is " + std::to_string(code - middle) + ", which " +
                           std::to_string(bits) + " bits do not hold");
      out[i] = static_cast<std::uint8_t>(code);
    }
  }

  static void read_codes(const NamedTensor& packed, bool stream, QuantizedMatrix& q) {
    const std::size_t words_in_row = packed.shape[1];
    auto* codes = q.codes.writable<std::uint8_t>();
    std::vector<std::uint8_t> row(q.cols);
    for (std::size_t r = 0; r < q.rows; ++r) {
      unpack(packed.bytes.as<std::uint32_t>() + r * words_in_row, q.cols, q.spec.bits, stream, row.data());
      pack_codes(row.data(), q.cols, q.spec.bits, codes + r * q.row_bytes());  // the bits beyond the row become zero
    }
  }

  static void read_zero_points(const TensorSource& source, const std::string& name, bool stream, QuantizedMatrix& q) {
    auto* zeros = q.zero_points.writable<std::uint8_t>();
    const int bits = q.spec.bits, middle = 1 << (bits - 1);
    if (q.spec.granularity == Granularity::tensor) {
      const NamedTensor t = need(source, name, DType::i8, {1});
      const int zero = t.bytes.as<std::int8_t>()[0] + middle;
      if (zero < 0 || zero >= 2 * middle)
        refuse(name, "is " + std::to_string(zero - middle) + ", which " + std::to_string(bits) + " bits do not hold");
      zeros[0] = static_cast<std::uint8_t>(zero);
      return;
    }
    const std::size_t groups = q.spec.groups_per_row(q.cols), height = width(q.rows, bits, stream);
    const NamedTensor t = need(source, name, DType::i32, {height, groups});
    std::vector<std::uint32_t> column(height);
    std::vector<std::uint8_t> of_group(q.rows);
    for (std::size_t g = 0; g < groups; ++g) {
      for (std::size_t i = 0; i < height; ++i) column[i] = t.bytes.as<std::uint32_t>()[i * groups + g];
      unpack(column.data(), q.rows, bits, stream, of_group.data());
      for (std::size_t r = 0; r < q.rows; ++r) zeros[r * groups + g] = of_group[r];
    }
  }

  static Buffer zero_points(const QuantizedMatrix& q, const std::vector<std::size_t>& shape) {
    const int bits = q.spec.bits;
    if (q.spec.granularity == Granularity::tensor) {
      const auto zero = static_cast<std::int8_t>(q.zero_point(0) - (1 << (bits - 1)));
      return copy_bytes(&zero, 1);
    }
    const std::size_t groups = shape[1], height = shape[0];
    Buffer out = Buffer::allocate(height * groups * 4);
    std::vector<std::uint8_t> of_group(q.rows);
    std::vector<std::uint32_t> column(height);
    for (std::size_t g = 0; g < groups; ++g) {
      for (std::size_t r = 0; r < q.rows; ++r) of_group[r] = static_cast<std::uint8_t>(q.zero_point(r * groups + g));
      column.assign(height, 0);
      pack_codes(of_group.data(), q.rows, bits, reinterpret_cast<std::uint8_t*>(column.data()));
      for (std::size_t i = 0; i < height; ++i) out.writable<std::uint32_t>()[i * groups + g] = column[i];
    }
    return out;
  }
};

constinit const CompressedTensorsFormat kFormat;

}  // namespace

const LayerFormat& compressed_tensors_format() { return kFormat; }

}  // namespace nibble::inline NIBBLE_ABI::format
