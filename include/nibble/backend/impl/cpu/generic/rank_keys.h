// Ranks among 256 thresholds, by RankKeys (scheme/rank_keys.h) and, where the unit looks up small tables in registers,
// by RankLines (scheme/rank_lines.h).

/// Vectors whose ranks by lines are computed side by side.
constexpr size_t kTogether = 4;

/// The rank of each lane.
class KeyRanks {
 public:
  explicit KeyRanks(const float* keys) : keys_(keys), lines_(keys + kRankLines) {
    int32_t zero;
    __builtin_memcpy(&zero, lines_ + kLineZero, sizeof zero);
    zero_ = vec::set_int(zero);
  }

  /// One look-up; a NaN is above no threshold.
  vec::I by_key(vec::F scaled) const {
    const vec::F zero = vec::set(0.0f);
    const vec::I none = vec::set_int(0), one = vec::set_int(1);
    scaled = vec::max(scaled, vec::set(-__builtin_inff()));
    const vec::I magnitude = vec::magnitude_bits(scaled), sign = vec::add_where_greater(none, zero, scaled, 1);
    vec::I key = vec::max_int(vec::sub_int(vec::shift_right<16>(magnitude), vec::set_int(kFirstKey)), none);
    key = vec::sub_int(key, vec::max_int(vec::sub_int(key, vec::set_int(kLastKey - kFirstKey)), none));
    const vec::I entry = vec::magnitude_bits(vec::gather(keys_, vec::add_int(vec::shift_left<1>(key), sign)));
    // All ones where the lower half has reached the entry's bound.
    const vec::I bound = vec::sub_int(vec::shift_right<8>(entry), one);
    const vec::I beyond =
        vec::shift_right_signed<31>(vec::sub_int(bound, vec::and_int(magnitude, vec::set_int(0xFFFF))));
    const vec::I step = vec::sub_int(one, vec::shift_left<1>(sign));
    return vec::add_int(vec::low_byte(entry), vec::and_int(beyond, step));
  }

  /// The rank of 0 becomes the one below it where x is negative.
  vec::I keep_sign(vec::I rank, vec::F x) const {
    const vec::I none = vec::set_int(0), negative = vec::add_where_greater(none, vec::set(0.0f), x, 1);
    const vec::I below = vec::shift_right<31>(vec::sub_int(rank, zero_));
    return vec::sub_int(rank, vec::sub_int(negative, vec::and_int(negative, below)));
  }

 protected:
  const float *keys_, *lines_;
  vec::I zero_;
};

/// The same by lines, where no lane needs its key.
class LineRanks : public KeyRanks {
 public:
  explicit LineRanks(const float* keys)
      : KeyRanks(keys),
        lowest_(vec::set(lines_[kLineLowest])),
        split_(vec::load_table32(lines_ + kLineSplit)),
        piece_(vec::load_table32(lines_ + kLinePiece)),
        slope_(vec::load_table16(lines_ + kLineSlope)),
        intercept_(vec::load_table16(lines_ + kLineIntercept)),
        cap_(vec::load_table16(lines_ + kLineCap)) {}

  /// The ranks of kTogether vectors, step by step for all: one after the other, the chain of each keeps the processor
  /// waiting. False if a value is too near a threshold. Signed: there are negative thresholds.
  template <bool Signed, bool KeepSign>
  bool by_line(const vec::F (&x)[kTogether], vec::F factor, vec::I (&rank)[kTogether]) const {
    const vec::I least = vec::set_int(kFirstKey << 16);
    vec::I bits[kTogether], sign[kTogether], piece[kTogether];
    vec::F y[kTogether], split[kTogether];
    for (size_t u = 0; u < kTogether; ++u) {
      const vec::F scaled = vec::mul(x[u], factor);
      if constexpr (Signed) {
        // −0 becomes 0: it is not negative.
        sign[u] = vec::shift_right_signed<31>(vec::bits_of(vec::add(x[u], vec::set(0.0f))));
        bits[u] = vec::sub_int(vec::max_int(vec::magnitude_bits(vec::max(scaled, lowest_)), least), sign[u]);
      } else {
        bits[u] = vec::max_int(vec::bits_of(scaled), least);  // which all negative values are below
      }
    }
    for (size_t u = 0; u < kTogether; ++u) {
      const vec::I exponent = vec::shift_right<23>(bits[u]);
      split[u] = vec::table32(split_, exponent);
      piece[u] = vec::bits_of(vec::table32(piece_, exponent));
    }
    for (size_t u = 0; u < kTogether; ++u)
      piece[u] = vec::add_where_greater(piece[u], vec::as_float(bits[u]), split[u], 1);
    for (size_t u = 0; u < kTogether; ++u)
      y[u] = vec::fma(vec::as_float(bits[u]), vec::table16(slope_, piece[u]), vec::table16(intercept_, piece[u]));
    for (size_t u = 0; u < kTogether; ++u) y[u] = vec::min(y[u], vec::table16(cap_, piece[u]));
    vec::I sure = vec::set_int(0x7FFF);
    for (size_t u = 0; u < kTogether; ++u) {
      // 257.5, within rank 1, at least where x is negative.
      if (KeepSign) y[u] = vec::max(y[u], vec::as_float(vec::and_int(sign[u], vec::set_int(0x4380C000))));
      const vec::I fraction = vec::and_int(vec::add_int(vec::bits_of(y[u]), vec::set_int(kLineGuard)),
                                           vec::set_int(0x7FFF & ~(2 * kLineGuard - 1)));
      sure = vec::min_int(sure, fraction);
      rank[u] = vec::shift_right<15>(vec::bits_of(y[u]));  // and 0x8700, above the byte that is stored
      if (Signed) rank[u] = vec::add_int(vec::xor_int(rank[u], sign[u]), vec::sub_int(zero_, sign[u]));
    }
    return !vec::has_zero(sure);
  }
  [[nodiscard]] bool is_signed() const { return lines_[kLineZero] != 0; }

 private:
  vec::F lowest_;
  vec::Table32 split_, piece_;
  vec::Table16 slope_, intercept_, cap_;
};

/// One rank for each of n values, whole vectors of them.
template <bool KeepSign>
inline void store_by_key(const KeyRanks& ranks_of, const float* x, size_t n, vec::F factor, uint8_t* ranks) {
  for (size_t i = 0; i < n; i += vec::lanes) {
    const vec::F values = vec::load(x + i);
    const vec::I rank = ranks_of.by_key(vec::mul(values, factor));
    vec::store_codes(ranks + i, KeepSign ? ranks_of.keep_sign(rank, values) : rank);
  }
}

template <bool Signed, bool KeepSign>
inline void store_by_line(const LineRanks& ranks_of, const float* x, size_t n, vec::F factor, uint8_t* ranks) {
  constexpr size_t step = kTogether * vec::lanes;
  size_t i = 0;
  for (; i + step <= n; i += step) {
    vec::F values[kTogether];
    vec::I rank[kTogether];
    for (size_t u = 0; u < kTogether; ++u) values[u] = vec::load(x + i + u * vec::lanes);
    if (ranks_of.template by_line<Signed, KeepSign>(values, factor, rank))
      for (size_t u = 0; u < kTogether; ++u) vec::store_codes(ranks + i + u * vec::lanes, rank[u]);
    else store_by_key<KeepSign>(ranks_of, x + i, step, factor, ranks + i);
  }
  store_by_key<KeepSign>(ranks_of, x + i, n - i, factor, ranks + i);
}

/// The same, by lines where there are any and every value times the factor is below 2.
template <bool KeepSign>
inline void encode_vectors(const float* x, size_t n, float factor, bool finite, const float* keys, uint8_t* ranks) {
  const vec::F multiplier = vec::set(factor);
  if (vec::rank_lines && finite && keys[kRankLines + kLineHolds] != 0) {
    const LineRanks ranks_of(keys);
    if (KeepSign || ranks_of.is_signed()) store_by_line<true, KeepSign>(ranks_of, x, n, multiplier, ranks);
    else store_by_line<false, false>(ranks_of, x, n, multiplier, ranks);
  } else {
    store_by_key<KeepSign>(KeyRanks(keys), x, n, multiplier, ranks);
  }
}

NIBBLE_KERNEL void encode_keys(const float* x, size_t n, float factor, const float* keys, uint8_t* ranks) {
  const size_t whole = n / vec::lanes * vec::lanes;
  encode_vectors<false>(x, whole, factor, true, keys, ranks);
  if (whole == n) return;
  float padded[vec::lanes] = {};
  uint8_t padded_ranks[vec::lanes];
  for (size_t i = whole; i < n; ++i) padded[i - whole] = x[i];
  encode_vectors<false>(padded, vec::lanes, factor, true, keys, padded_ranks);
  for (size_t i = whole; i < n; ++i) ranks[i] = padded_ranks[i - whole];
}
