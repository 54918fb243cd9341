// What backend/impl/cpu_quantize.h declares.
#pragma once

#include "nibble/backend/impl/cpu_quantize.h"

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "nibble/backend/impl/segments.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/downcast.h"
#include "nibble/matrix/group_params.h"
#include "nibble/matrix/scheme_registry.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

static_assert(kernels::kFirstKey == kFirstRankKey && kernels::kLastKey == kLastRankKey);
static_assert(kernels::kRankLines == RankKeys<dynamic_map<true>>::keys && kernels::kLineGuard == kRankLineGuard);

using kernels::KernelTable;

inline std::string place(std::string_view name, std::size_t row, std::size_t col) {
  return "tensor '" + std::string(name) + "', row " + std::to_string(row) + ", column " + std::to_string(col);
}

[[noreturn]] inline void refuse_non_finite(std::string_view name, std::size_t row, std::size_t first_col,
                                           const float* x, std::size_t n) {
  std::size_t i = 0;
  while (i + 1 < n && is_finite(x[i])) ++i;
  const char* value = x[i] != x[i] ? "NaN" : x[i] > 0 ? "+infinity" : "-infinity";
  throw Error(ErrorCode::non_finite,
              place(name, row, first_col + i) + ": the value is " + value + "; only finite values can be quantized");
}

/// One quantization in progress.
class Job {
 public:
  Job(const KernelTable& isa, FloatMatrix weights, const QuantSpec& spec, std::string_view name)
      : isa_(isa),
        weights_(weights),
        spec_(spec),
        name_(name),
        entry_(scheme_entry(spec.scheme)),
        q_(QuantizedMatrix::allocate(spec, weights.rows, weights.cols)) {
    if (spec.double_quant) absmax_.resize(q_.group_count());
  }

  QuantizedMatrix run(Executor& executor) {
    const std::size_t grain = std::max<std::size_t>(1, 65536 / weights_.cols);
    fit_.type = spec_.scale_type;
    fit_.rule = spec_.scale_rule;
    if (spec_.has_tensor_scale()) {
      fit_.tensor_divisor = entry_->fit_tensor_divisor(matrix_absmax(executor, grain));
      q_.tensor_scale = {fit_.tensor_divisor, true};
    }
    if (spec_.grouping().within_rows(weights_.cols)) {
      parallel_for(executor, weights_.rows, grain, [&](std::size_t begin, std::size_t end) {
        std::vector<float> values(weights_.cols);
        std::vector<std::uint8_t> codes(weights_.cols);
        for (std::size_t r = begin; r < end; ++r)
          fit_and_encode_row(r, cpu_load_row(isa_, weights_, r, 0, weights_.cols, values.data()), codes.data());
      });
    } else if (has_rule()) {
      quantize_across_rows();
    } else {
      fit_across_rows(executor, grain);
      parallel_for(executor, weights_.rows, grain, [&](std::size_t begin, std::size_t end) {
        std::vector<float> values(weights_.cols);
        std::vector<std::uint8_t> codes(weights_.cols);
        for (std::size_t r = begin; r < end; ++r)
          encode_row(r, cpu_load_row(isa_, weights_, r, 0, weights_.cols, values.data()), codes.data());
      });
    }
    if (spec_.double_quant)
      quantize_nested(absmax_.data(), absmax_.size(), q_.scales.writable<std::uint8_t>(), q_.nested);
    return std::move(q_);
  }

 private:
  /// Whether the scheme is one that fits and encodes a group by a rule of its own.
  bool has_rule() const { return entry_ != nullptr && entry_->quantize_group != nullptr; }
  bool has_floats() const { return entry_ != nullptr && entry_->encode_floats != nullptr; }

  /// The largest magnitude of all.
  float matrix_absmax(Executor& executor, std::size_t grain) const {
    std::vector<float> of_row(weights_.rows);
    parallel_for(executor, weights_.rows, grain, [&](std::size_t begin, std::size_t end) {
      std::vector<float> values(weights_.cols);
      for (std::size_t r = begin; r < end; ++r) {
        const float* x = cpu_load_row(isa_, weights_, r, 0, weights_.cols, values.data());
        of_row[r] = range(r, 0, x, weights_.cols).absmax();
      }
    });
    return isa_.absmax(of_row.data(), of_row.size());
  }

  /// Only asymmetric schemes look at more than the largest magnitude.
  Range range(std::size_t row, std::size_t col, const float* x, std::size_t n) const {
    if (spec_.scheme != SchemeKind::asymmetric && !spec_.has_real_zeros()) {
      const float most = isa_.absmax(x, n);
      if (!is_finite(most)) refuse_non_finite(name_, row, col, x, n);
      return {-most, most};
    }
    const kernels::ValueRange r = isa_.range(x, n);
    if (!r.finite) refuse_non_finite(name_, row, col, x, n);
    return {r.min == 0 ? 0.0f : r.min, r.max == 0 ? 0.0f : r.max};
  }

  void fit_and_encode_row(std::size_t row, const float* x, std::uint8_t* codes) {
    for_each_segment(
        spec_, weights_.cols, nullptr, row, 0, weights_.cols,
        [&](std::size_t begin, std::size_t end, std::size_t group) {
          const std::size_t n = end - begin;
          const Range r = range(row, begin, x + begin, n);
          if (has_rule())
            store(group, AffineParams{entry_->quantize_group({x + begin, n}, codes + begin)}, r, row, begin);
          else encode(x + begin, n, group, fit_and_store(group, {x + begin, n}, r, row, begin), codes + begin);
        });
    pack_row(row, codes);
  }

  /// Groups that span rows: ranges of each row's pieces, merged in row order.
  void fit_across_rows(Executor& executor, std::size_t grain) {
    struct Piece {
      std::size_t group;
      Range range;
    };
    std::vector<std::vector<Piece>> pieces(weights_.rows);
    parallel_for(executor, weights_.rows, grain, [&](std::size_t begin, std::size_t end) {
      std::vector<float> values(weights_.cols);
      for (std::size_t r = begin; r < end; ++r) {
        const float* x = cpu_load_row(isa_, weights_, r, 0, weights_.cols, values.data());
        for_each_segment(spec_, weights_.cols, nullptr, r, 0, weights_.cols,
                         [&](std::size_t first, std::size_t last, std::size_t group) {
                           pieces[r].push_back({group, range(r, first, x + first, last - first)});
                         });
      }
    });
    std::vector<Range> merged(q_.group_count());
    std::size_t seen = 0;  // groups met so far: they first appear in order
    for (const auto& row : pieces)
      for (const Piece& p : row) {
        if (p.group == seen) merged[seen++] = p.range;
        Range& m = merged[p.group];
        m = {std::min(m.min, p.range.min), std::max(m.max, p.range.max)};
      }
    for (std::size_t g = 0; g < merged.size(); ++g) {
      const auto [row, col] = spec_.grouping().begin_of(g, weights_.cols);
      fit_and_store(g, {}, merged[g], row, col);
    }
  }

  /// The same for a rule, which sees each group in one piece. Serial: two groups may share a byte of codes.
  void quantize_across_rows() {
    std::vector<float> row_values(weights_.cols), values;
    std::vector<std::uint8_t> codes;
    for (std::size_t g = 0; g < q_.group_count(); ++g) {
      const auto for_each_piece = [&](const auto& body) {
        spec_.grouping().for_each_piece(g, weights_.rows, weights_.cols, body);
      };
      values.clear();
      Range all;
      for_each_piece([&](std::size_t row, std::size_t begin, std::size_t end) {
        const float* x = cpu_load_row(isa_, weights_, row, begin, end, row_values.data());
        const Range r = range(row, begin, x, end - begin);
        all = values.empty() ? r : Range{std::min(all.min, r.min), std::max(all.max, r.max)};
        values.insert(values.end(), x, x + (end - begin));
      });
      codes.resize(values.size());
      const std::size_t at = g * spec_.group_size;
      store(g, AffineParams{entry_->quantize_group(values, codes.data())}, all, at / weights_.cols, at % weights_.cols);
      const std::uint8_t* code = codes.data();
      for_each_piece([&](std::size_t row, std::size_t begin, std::size_t end) {
        std::uint8_t* to = q_.codes.writable<std::uint8_t>() + row * q_.row_bytes();
        for (std::size_t c = begin; c < end; ++c) set_code(to, c, spec_.bits, *code++);
      });
    }
  }

  /// Returns the scale as it reads back. `values`: those of the group where it lies in a row.
  float fit_and_store(std::size_t group, std::span<const float> values, Range r, std::size_t row, std::size_t col) {
    if (spec_.has_real_zeros()) return store(group, fit_real_zero(r, spec_.bits, spec_.scale_type), r, row, col);
    if (!has_floats()) return store(group, fit_params(spec_, r), r, row, col);
    return fit_.value(store(group, AffineParams{entry_->fit_scale(values, r.absmax(), fit_)}, r, row, col));
  }
  template <class Params>
  float store(std::size_t group, Params p, Range r, std::size_t row, std::size_t col) {
    if (!is_finite(p.scale))
      throw Error(ErrorCode::non_finite,
                  place(name_, row, col) +
                      ": the scale of the group that begins here does not fit its type (largest magnitude " +
                      std::to_string(r.absmax()) + "); choose fp32 or bf16 scales");
    if (spec_.double_quant) absmax_[group] = p.scale;
    else store_params(spec_, q_.scales.writable<std::byte>(), q_.zero_points.writable<std::byte>(), group, p);
    return p.scale;
  }

  void encode_row(std::size_t row, const float* x, std::uint8_t* codes) {
    for_each_segment(spec_, weights_.cols, nullptr, row, 0, weights_.cols,
                     [&](std::size_t begin, std::size_t end, std::size_t group) {
                       // With double quantization the codes belong to the absmax before it is quantized.
                       const float scale = spec_.double_quant ? absmax_[group] : q_.scale(group);
                       encode(x + begin, end - begin, group, scale, codes + begin);
                     });
    pack_row(row, codes);
  }

  void pack_row(std::size_t row, const std::uint8_t* codes) {
    std::uint8_t* to = q_.codes.writable<std::uint8_t>() + row * q_.row_bytes();
    if (spec_.bits == 4) isa_.pack_nibbles(codes, weights_.cols, to);
    else if (spec_.bits == 8) std::copy_n(codes, weights_.cols, to);
    else pack_codes(codes, weights_.cols, spec_.bits, to);
  }

  void encode(const float* x, std::size_t n, std::size_t group, float scale, std::uint8_t* codes) const {
    if (spec_.is_affine()) {
      const AffineRule rule = affine_rule(spec_);
      return isa_.encode_affine(x, n, scale, q_.zero_point(group), rule.lowest_code(), rule.highest_code(), codes);
    }
    if (spec_.has_real_zeros()) {
      const RealZeroParams p{scale, q_.zero(group)};
      const std::int32_t top = (1 << spec_.bits) - 1;
      for (std::size_t i = 0; i < n; ++i) codes[i] = real_zero_encode(x[i], p, top);
      return;
    }
    if (has_floats()) return entry_->encode_floats({x, n}, scale, codes);
    if (spec_.scheme == SchemeKind::llm_int8) return isa_.encode_int8(x, n, LlmInt8::multiplier(scale), codes);
    if (entry_->rank_keys != nullptr) isa_.encode_keys(x, n, inverse_absmax(scale), entry_->rank_keys, codes);
    else isa_.encode_ranks(x, n, inverse_absmax(scale), entry_->thresholds, entry_->codebook.size(), codes);
    if (!entry_->ranks_are_codes)
      for (std::size_t i = 0; i < n; ++i) codes[i] = entry_->code_of_rank[codes[i]];
  }

  const KernelTable& isa_;
  FloatMatrix weights_;
  QuantSpec spec_;
  std::string_view name_;
  const SchemeEntry* entry_;  ///< Of a codebook scheme.
  QuantizedMatrix q_;
  ScaleFit fit_;               ///< Of small floats.
  std::vector<float> absmax_;  ///< Before double quantization.
};

}  // namespace detail

NIBBLE_INLINE const float* cpu_load_row(const kernels::KernelTable& isa, FloatMatrix m, std::size_t row,
                                        std::size_t first, std::size_t last, float* scratch) {
  return cpu_upcast(isa, m.type, static_cast<const std::byte*>(m.row(row)) + first * size_of(m.type), last - first,
                    scratch);
}

NIBBLE_INLINE QuantizedMatrix cpu_quantize(const kernels::KernelTable& isa, FloatMatrix weights, const QuantSpec& spec,
                                           std::string_view name, Executor& executor) {
  if (!is_matrix_type(weights.type))
    throw Error(ErrorCode::unsupported, "tensor '" + std::string(name) + "' is " + std::string(name_of(weights.type)) +
                                            "; only F32, F16 and BF16 can be quantized");
  if (weights.stride < weights.cols)
    throw Error(ErrorCode::shape_mismatch, "tensor '" + std::string(name) + "': the row stride " +
                                               std::to_string(weights.stride) + " is less than the " +
                                               std::to_string(weights.cols) + " columns");
  weights.validate(name);
  return detail::Job(isa, weights, spec, name).run(executor);
}

NIBBLE_INLINE void cpu_decode_row(const kernels::KernelTable& isa, const QuantizedMatrix& q, std::size_t row,
                                  std::size_t first, std::size_t last, std::uint8_t* scratch, float* out) {
  const std::uint8_t* codes = q.row_codes(row) + packed_bytes(first, q.spec.bits);
  if (q.spec.bits != 8) {
    unpack_codes(codes, last - first, q.spec.bits, scratch);
    codes = scratch;
  }
  for_each_segment(q.spec, q.cols, q.g_idx.empty() ? nullptr : q.g_idx.data(), row, first, last,
                   [&](std::size_t begin, std::size_t end, std::size_t group) {
                     const std::uint8_t* from = codes + (begin - first);
                     float* to = out + (begin - first);
                     if (q.spec.has_real_zeros()) {
                       const RealZeroParams p{q.scale(group), q.zero(group)};
                       for (std::size_t i = 0; i < end - begin; ++i) to[i] = real_zero_decode(from[i], p);
                     } else if (q.spec.is_codebook())
                       isa.decode_codebook(from, end - begin, q.codebook.data(), q.codebook.size(), q.scale(group), to);
                     else isa.decode_affine(from, end - begin, q.multiplier(group), q.zero_point(group), to);
                   });
}

namespace detail {

/// Rows of one matrix, decoded a block at a time: by the 4-bit kernel where a row's groups are whole vectors.
class RowDecoder {
 public:
  static constexpr std::size_t block = 2048;  // columns whose fp32 values lie in the nearest cache

  RowDecoder(const KernelTable& isa, const QuantizedMatrix& q, DType type) : isa_(isa), q_(q), type_(type) {
    const std::size_t group = q.spec.grouping().has_size() ? q.spec.group_size : q.cols;
    const bool row_local = q.spec.granularity != Granularity::block || q.cols % group == 0;
    fast_ = q.spec.bits == 4 && q.g_idx.empty() && row_local && (group % 16 == 0 || group >= q.cols);
    if (!fast_) {
      codes_.resize(std::min(block, q.cols));
      values_of_row_.resize(codes_.size());
      return;
    }
    const std::size_t groups = (q.cols + group - 1) / group;
    scales_.resize(groups);
    zeros_.resize(q.spec.has_zero_points() || q.spec.has_real_zeros() ? groups : 0);
    row_ = {nullptr, group, scales_.data(), zeros_.empty() ? nullptr : zeros_.data(), values_};
    for (std::size_t c = 0; c < 16; ++c)
      values_[c] = q.spec.is_codebook()
                       ? q.codebook[c]
                       : static_cast<float>(c) - static_cast<float>(zeros_.empty() ? q.zero_point(0) : 0);
  }

  void begin(std::size_t row) {
    current_ = row;
    if (!fast_) return;
    row_.codes = q_.row_codes(row);
    const std::size_t first = q_.group_of(row, 0);
    read_scales(first);
    for (std::size_t g = 0; g < zeros_.size(); ++g) zeros_[g] = q_.zero(first + g);
    may_overflow_ = !(isa_.absmax(scales_.data(), scales_.size()) * largest_value() < least_overflow(type_));
  }
  /// `first` is a multiple of 16. Error{non_finite} names the first value that the type cannot hold.
  void decode(std::size_t first, std::size_t last, void* out, bool stream) {
    if (!fast_) {
      decode_and_check(first, last);
      store(last - first, out, stream);
      return;
    }
    if (may_overflow_) {
      codes_.resize(std::min(block, q_.cols));
      values_of_row_.resize(codes_.size());
      decode_and_check(first, last);
    }
    if (type_ == DType::f32) {
      isa_.decode_nibbles(row_, first, last, static_cast<float*>(out), stream);
    } else {
      (type_ == DType::f16 ? isa_.decode_nibbles_f16 : isa_.decode_nibbles_bf16)(
          row_, first, last, static_cast<std::uint16_t*>(out), stream);
    }
  }

 private:
  void read_scales(std::size_t first) {
    const ScaleType type = q_.spec.scale_type;
    if (q_.spec.double_quant || !is_matrix_type(dtype_of(type))) {
      for (std::size_t g = 0; g < scales_.size(); ++g) scales_[g] = q_.scale(first + g);
      return;
    }
    const std::byte* from = q_.scales.data() + first * static_cast<std::size_t>(scale_bytes(type));
    const float* wide = cpu_upcast(isa_, dtype_of(type), from, scales_.size(), scales_.data());
    if (wide != scales_.data()) std::copy_n(wide, scales_.size(), scales_.data());
  }
  /// No value of the current row, before its scale, is larger.
  [[nodiscard]] float largest_value() const {
    if (q_.spec.is_codebook()) return isa_.absmax(values_, 16);
    return 15 + (zeros_.empty() ? 0.0f : isa_.absmax(zeros_.data(), zeros_.size()));
  }
  void decode_and_check(std::size_t first, std::size_t last) {
    cpu_decode_row(isa_, q_, current_, first, last, codes_.data(), values_of_row_.data());
    const std::span<const float> values(values_of_row_.data(), last - first);
    if (!(isa_.absmax(values.data(), values.size()) < least_overflow(type_)))
      check_downcast(values, type_, "matrix", q_.cols, current_, first);
  }
  void store(std::size_t n, void* out, bool stream) const {
    const float* values = values_of_row_.data();
    if (type_ == DType::f32) isa_.store_f32(values, n, static_cast<float*>(out), stream);
    else if (type_ == DType::f16) isa_.store_f16(values, n, static_cast<std::uint16_t*>(out), stream);
    else isa_.store_bf16(values, n, static_cast<std::uint16_t*>(out), stream);
  }

  const KernelTable& isa_;
  const QuantizedMatrix& q_;
  DType type_;
  bool fast_;
  bool may_overflow_ = false;  ///< Where fast_: the current row's scales do not rule it out.
  std::size_t current_ = 0;
  std::vector<std::uint8_t> codes_;
  std::vector<float> values_of_row_;  ///< Unless fast_, or where that may overflow.
  std::vector<float> scales_, zeros_;
  float values_[16] = {};
  kernels::NibbleRow row_ = {};
};

}  // namespace detail

NIBBLE_INLINE void cpu_dequantize(const kernels::KernelTable& isa, const QuantizedMatrix& q, std::size_t first_row,
                                  MutableFloatMatrix out, Executor& executor) {
  // What the caches could keep is left in them; more is written past them, which saves reading it first.
  constexpr std::size_t kept_by_caches = std::size_t{16} << 20;
  const bool stream = out.rows * out.cols * size_of(out.type) > kept_by_caches;
  parallel_for(executor, out.rows, 1 + 65536 / q.cols, [&](std::size_t begin, std::size_t end) {
    detail::RowDecoder decoder(isa, q, out.type);
    for (std::size_t r = begin; r < end; ++r) {
      decoder.begin(first_row + r);
      for (std::size_t c = 0; c < q.cols; c += detail::RowDecoder::block) {
        decoder.decode(c, std::min(c + detail::RowDecoder::block, q.cols),
                       static_cast<std::byte*>(out.row(r)) + c * size_of(out.type), stream);
      }
    }
  });
}

}  // namespace nibble::inline NIBBLE_ABI
