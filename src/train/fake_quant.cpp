#include "nibble/train/fake_quant.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "nibble/core/bit_pack.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::train {

namespace {

constexpr std::size_t kRowGrain = 8;

/// f(row) for every row, on all threads.
template <class Function>
void each_row(Executor& executor, std::size_t rows, const Function& f) {
  parallel_for(executor, rows, kRowGrain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t r = begin; r < end; ++r) f(r);
  });
}

void check_spec(const QuantSpec& spec, std::string_view name) {
  spec.validate();
  const bool rows = spec.granularity == Granularity::group || spec.granularity == Granularity::channel;
  if (spec.is_affine() && rows && !spec.double_quant) return;
  throw Error(ErrorCode::unsupported, "'" + std::string(name) + "': " + spec.to_string() +
                                          " cannot be trained; an integer scheme with groups or channels can, such as "
                                          "int2-g32-asym");
}

std::string place(std::string_view name, std::size_t row, std::size_t col, float value) {
  return "'" + std::string(name) + "', row " + std::to_string(row) + ", column " + std::to_string(col) + ", is " +
         std::to_string(value);
}

void check_row(std::span<const float> weights, std::string_view name, std::size_t row) {
  for (std::size_t c = 0; c < weights.size(); ++c)
    if (!is_finite(weights[c]))
      throw Error(ErrorCode::non_finite, place(name, row, c, weights[c]) + "; no grid holds it");
}

double squared_error(std::span<const float> weights, AffineParams grid, const AffineRule& rule) {
  double sum = 0;
  for (const float w : weights) {
    const double d = static_cast<double>(w) - static_cast<double>(fake_quantize(w, grid, rule));
    sum += d * d;
  }
  return sum;
}

AffineParams mean_grid(std::span<const float> weights, const AffineRule& rule) {
  double sum = 0;
  for (const float w : weights) sum += static_cast<double>(magnitude(w));
  const double most = (1 << (rule.bits - 1)) - 1;
  const auto scale = static_cast<float>(2 * sum / static_cast<double>(weights.size()) / std::sqrt(most));
  return stored_grid(rule, scale, static_cast<float>(1 << (rule.bits - 1)));
}

AffineParams least_error_grid(std::span<const float> weights, const AffineRule& rule) {
  const Range range = range_of(weights);
  AffineParams best = fit_affine(range, rule);
  double least = squared_error(weights, best, rule);
  for (int percent = 975; percent >= 350; percent -= 25) {
    const float share = static_cast<float>(percent) / 1000;
    const AffineParams grid = fit_affine({range.min * share, range.max * share}, rule);
    const double error = squared_error(weights, grid, rule);
    if (error < least) best = grid, least = error;
  }
  return best;
}

AffineParams first_grid(std::span<const float> weights, const AffineRule& rule, GridStart start) {
  if (start == GridStart::mean) return mean_grid(weights, rule);
  const AffineParams fitted = fit_affine(range_of(weights), rule);
  return start == GridStart::range || !is_finite(fitted.scale) ? fitted : least_error_grid(weights, rule);
}

void require_scale(float scale, std::string_view name, std::size_t group) {
  if (!is_finite(scale))
    throw Error(ErrorCode::non_finite, "'" + std::string(name) + "', group " + std::to_string(group) +
                                           ": the scale is more than its type holds, or no number; f32 scales, or a "
                                           "lower learning rate, may help");
}

void require_shape(const char* call, const std::string& name, MatrixView<const float> m, std::size_t rows,
                   std::size_t cols) {
  m.validate(call);
  if (m.rows != rows || m.cols != cols)
    throw Error(ErrorCode::shape_mismatch, std::string(call) + " of '" + name + "': " + std::to_string(m.rows) + " × " +
                                               std::to_string(m.cols) + " is given, and " + std::to_string(rows) +
                                               " × " + std::to_string(cols) + " is needed");
}

/// The value nearest to w that has this code: the edges of a cell belong to one of its neighbours, so an edge is
/// approached to a hundredth of a step.
float moved_into_cell(float w, std::uint8_t code, AffineParams grid, const AffineRule& rule) {
  if (affine_encode(w, grid, rule.lowest_code(), rule.highest_code()) == code) return w;
  constexpr float kHalf = 0.49f;
  const auto centre = static_cast<float>(static_cast<std::int32_t>(code) - grid.zero_point);
  const float t = w / grid.scale;
  return (t < centre ? centre - kHalf : centre + kHalf) * grid.scale;
}

}  // namespace

double scale_gradient_factor(std::size_t n, int bits) {
  return 1 / std::sqrt(static_cast<double>(n) * static_cast<double>((1 << (bits - 1)) - 1));
}

FakeQuant::FakeQuant(const QuantSpec& spec, MatrixView<const float> m, GridStart start, std::string_view name,
                     Executor& executor)
    : spec_(spec), rows_(m.rows), cols_(m.cols), name_(name) {
  check_spec(spec, name);
  m.validate(name);
  weights.resize(rows_ * cols_);
  scales.resize(spec.group_count(rows_, cols_));
  zero_points.resize(spec.has_zero_points() ? scales.size() : 0);
  const AffineRule rule = affine_rule(spec);
  each_row(executor, rows_, [&](std::size_t r) {
    check_row(m.row(r), name_, r);
    std::ranges::copy(m.row(r), weights.begin() + static_cast<std::ptrdiff_t>(r * cols_));
    spec_.grouping().for_each_run(cols_, r, 0, cols_, [&](std::size_t begin, std::size_t end, std::size_t group) {
      const AffineParams grid = first_grid(m.row(r).subspan(begin, end - begin), rule, start);
      require_scale(grid.scale, name_, group);
      scales[group] = grid.scale;
      if (!zero_points.empty()) zero_points[group] = static_cast<float>(grid.zero_point);
    });
  });
}

FakeQuant::FakeQuant(const QuantizedMatrix& start, MatrixView<const float> m, std::string_view name, Executor& executor)
    : spec_(start.spec), rows_(start.rows), cols_(start.cols), name_(name) {
  check_spec(spec_, name);
  start.validate(name_);
  require_shape("the weights", name_, m, rows_, cols_);
  if (!start.g_idx.empty())
    throw Error(ErrorCode::unsupported,
                "'" + name_ + "' is quantized in order of activations (g_idx); training begins with groups in place");
  weights.resize(rows_ * cols_);
  scales.resize(start.group_count());
  zero_points.resize(spec_.has_zero_points() ? scales.size() : 0);
  for (std::size_t g = 0; g < scales.size(); ++g) scales[g] = start.scale(g);
  for (std::size_t g = 0; g < zero_points.size(); ++g) zero_points[g] = static_cast<float>(start.zero_point(g));
  const AffineRule rule = affine_rule(spec_);
  each_row(executor, rows_, [&](std::size_t r) {
    check_row(m.row(r), name_, r);
    spec_.grouping().for_each_run(cols_, r, 0, cols_, [&](std::size_t begin, std::size_t end, std::size_t group) {
      const AffineParams shared = grid(group);
      for (std::size_t c = begin; c < end; ++c)
        weights[r * cols_ + c] = moved_into_cell(m(r, c), start.code(r, c), shared, rule);
    });
  });
}

void FakeQuant::values(MatrixView<float> out, Executor& executor) const {
  require_shape("values", name_, out, rows_, cols_);
  const AffineRule rule = affine_rule(spec_);
  each_row(executor, rows_, [&](std::size_t r) {
    spec_.grouping().for_each_run(cols_, r, 0, cols_, [&](std::size_t begin, std::size_t end, std::size_t group) {
      const AffineParams shared = grid(group);
      for (std::size_t c = begin; c < end; ++c) out(r, c) = fake_quantize(weights[r * cols_ + c], shared, rule);
    });
  });
}

void FakeQuant::add_gradients(MatrixView<const float> grad_values, const FakeQuantGradients& to,
                              Executor& executor) const {
  require_shape("add_gradients: the gradient", name_, grad_values, rows_, cols_);
  if (to.weights.data != nullptr)
    require_shape("add_gradients: the weights' gradient", name_, to.weights, rows_, cols_);
  for (const std::span<float> part : {to.scales, to.zero_points})
    if (!part.empty() && part.size() != scales.size())
      throw Error(ErrorCode::shape_mismatch, "add_gradients of '" + name_ + "': room for " +
                                                 std::to_string(part.size()) + " groups is given, and there are " +
                                                 std::to_string(scales.size()));
  const AffineRule rule = affine_rule(spec_);
  each_row(executor, rows_, [&](std::size_t r) {
    spec_.grouping().for_each_run(cols_, r, 0, cols_, [&](std::size_t begin, std::size_t end, std::size_t group) {
      const AffineParams shared = grid(group);
      double scale = 0, zero_point = 0;
      for (std::size_t c = begin; c < end; ++c) {
        const FakeQuantSlopes slopes = fake_quant_slopes(weights[r * cols_ + c], shared, rule);
        const float g = grad_values(r, c);
        if (to.weights.data != nullptr) to.weights(r, c) += g * slopes.weight;
        scale += static_cast<double>(g) * static_cast<double>(slopes.scale);
        zero_point += static_cast<double>(g) * static_cast<double>(slopes.zero_point);
      }
      if (!to.scales.empty()) to.scales[group] += static_cast<float>(to.scale_factor * scale);
      if (!to.zero_points.empty()) to.zero_points[group] += static_cast<float>(zero_point);
    });
  });
}

QuantizedMatrix FakeQuant::quantized(Executor& executor) const {
  QuantizedMatrix out = QuantizedMatrix::allocate(spec_, rows_, cols_);
  const AffineRule rule = affine_rule(spec_);
  each_row(executor, rows_, [&](std::size_t r) {
    const std::span<const float> row = std::span(weights).subspan(r * cols_, cols_);
    check_row(row, name_, r);
    std::uint8_t* codes = out.codes.writable<std::uint8_t>() + r * out.row_bytes();
    spec_.grouping().for_each_run(cols_, r, 0, cols_, [&](std::size_t begin, std::size_t end, std::size_t group) {
      require_scale(scales[group], name_, group);
      const AffineParams shared = grid(group);
      require_scale(shared.scale, name_, group);
      store_params(spec_, out.scales.writable<std::byte>(), out.zero_points.writable<std::byte>(), group, shared);
      for (std::size_t c = begin; c < end; ++c)
        set_code(codes, c, spec_.bits, affine_encode(row[c], shared, rule.lowest_code(), rule.highest_code()));
    });
  });
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::train
