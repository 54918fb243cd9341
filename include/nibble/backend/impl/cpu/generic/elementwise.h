// Quantize and dequantize kernels, each written once over the vector layer `vec` of the unit that includes this.
//
// A unit defines in its namespace (NIBBLE_KERNELS): vec::lanes; types vec::F (floats) and vec::I (int32); load, store,
// set, add, sub, mul, div, fma, min, max, to_int (half to even), to_float, add_int, set_int, load_codes, store_codes,
// Table16 with table16 (which reads the low four bits of an index), gather, add_where_greater, load_f16, load_bf16;
// Table256 with load_table256 and table256; for rank_keys.h Table32 with load_table32 and table32 (which reads the low
// five bits), bits_of (the same bits), min_int, has_zero, and rank_lines: whether table32 is faster than a gather;
// store_signed, reduce_min, reduce_max, reduce_add, has_nan, load_nibbles, store_f16, store_bf16 and their stream_
// twins, fence; Half16 (sixteen values of 16 bits) with load_half16, and half_lanes codes, two a byte, looked up by
// store_halves and stream_halves; for gemv_codes.h also code_sums, load_words, shift_right, low_byte, and for
// gemm_int8.h int8_sums, set_bytes, and_int, mul_int, dot4; for optimizers.h sqrt and select_finite;
// for dropout.h mul_high (bits 32 to 63 of unsigned products), xor_int and select_less; for exponential.h as_float (the
// same bits) and shift_left; for transpose.h transpose (of as many vectors as a vector has lanes); for interleave.h
// store_words. min(a, b) is a < b ? a : b and max(a, b) is a > b ? a : b, like the x86 instructions: a NaN in `a`
// gives b.
//
// Tails go through a padded copy of one vector, so that no kernel has a second, scalar, version of its arithmetic.

/// Calls body(source, destination) with pointers good for vec::lanes elements each.
template <class In, class Out, class Body>
inline void for_each_vector(const In* in, size_t n, Out* out, Body body) {
  size_t i = 0;
  for (; i + vec::lanes <= n; i += vec::lanes) body(in + i, out + i);
  if (i == n) return;
  In padded_in[vec::lanes] = {};
  Out padded_out[vec::lanes];
  for (size_t j = 0; j < n - i; ++j) padded_in[j] = in[i + j];
  body(padded_in, padded_out);
  for (size_t j = 0; j < n - i; ++j) out[i + j] = padded_out[j];
}

NIBBLE_KERNEL ValueRange range(const float* x, size_t n) {
  vec::F low = vec::set(x[0]), high = low, bad = vec::set(0.0f);
  const auto step = [&](const float* p) {
    const vec::F v = vec::load(p);
    low = vec::min(v, low);
    high = vec::max(v, high);
    bad = vec::add(bad, vec::sub(v, v));  // x − x is 0 for finite x, NaN for the rest
  };
  size_t i = 0;
  for (; i + vec::lanes <= n; i += vec::lanes) step(x + i);
  if (i < n) {
    float padded[vec::lanes];
    for (size_t j = 0; j < vec::lanes; ++j) padded[j] = i + j < n ? x[i + j] : x[i];
    step(padded);
  }
  return {vec::reduce_min(low), vec::reduce_max(high), !vec::has_nan(bad)};
}

NIBBLE_KERNEL void encode_affine(const float* x, size_t n, float scale, int32_t zero_point, int32_t low, int32_t high,
                                 uint8_t* codes) {
  const vec::F divisor = vec::set(scale);
  const vec::F floor = vec::set(static_cast<float>(low - zero_point));
  const vec::F ceiling = vec::set(static_cast<float>(high - zero_point));
  const vec::I zero = vec::set_int(zero_point);
  for_each_vector(x, n, codes, [&](const float* from, uint8_t* to) {
    const vec::F clamped = vec::min(vec::max(vec::div(vec::load(from), divisor), floor), ceiling);
    vec::store_codes(to, vec::add_int(vec::to_int(clamped), zero));
  });
}

NIBBLE_KERNEL void encode_int8(const float* x, size_t n, float factor, uint8_t* codes) {
  const vec::F multiplier = vec::set(factor), floor = vec::set(-127.0f), ceiling = vec::set(127.0f);
  const vec::I zero = vec::set_int(128);
  for_each_vector(x, n, codes, [&](const float* from, uint8_t* to) {
    const vec::F clamped = vec::min(vec::max(vec::mul(vec::load(from), multiplier), floor), ceiling);
    vec::store_codes(to, vec::add_int(vec::to_int(clamped), zero));
  });
}

NIBBLE_KERNEL float absmax(const float* x, size_t n) {
  // As integers, magnitudes are ordered like the numbers they are, and what is not finite lies above.
  vec::I most = vec::set_int(0), other = most;
  const auto step = [](vec::I so_far, const float* p) {
    return vec::max_int(so_far, vec::magnitude_bits(vec::load(p)));
  };
  size_t i = 0;
  for (; i + 2 * vec::lanes <= n; i += 2 * vec::lanes) {
    most = step(most, x + i);
    other = step(other, x + i + vec::lanes);
  }
  for (; i + vec::lanes <= n; i += vec::lanes) most = step(most, x + i);
  if (i < n) {
    float padded[vec::lanes] = {};
    for (size_t j = i; j < n; ++j) padded[j - i] = x[j];
    other = step(other, padded);
  }
  const int32_t bits = vec::reduce_max_int(vec::max_int(most, other));
  float out;
  __builtin_memcpy(&out, &bits, sizeof out);
  return out;
}

NIBBLE_KERNEL int32_t encode_signed(const float* x, size_t n, float factor, int8_t* codes) {
  const vec::F multiplier = vec::set(factor);
  vec::I sum = vec::set_int(0);
  for_each_vector(x, n, codes, [&](const float* from, int8_t* to) {  // a tail's padding is 0 and adds nothing
    const vec::I code = vec::to_int(vec::mul(vec::load(from), multiplier));
    sum = vec::add_int(sum, code);
    vec::store_signed(to, code);
  });
  return vec::reduce_add(sum);
}

NIBBLE_KERNEL void encode_ranks16(const float* x, size_t n, float factor, const float* thresholds, uint8_t* ranks) {
  const vec::F multiplier = vec::set(factor);
  const vec::Table16 table = vec::load_table16(thresholds);
  for_each_vector(x, n, ranks, [&](const float* from, uint8_t* to) {
    const vec::F scaled = vec::mul(vec::load(from), multiplier);
    vec::I rank = vec::set_int(0);
    for (int width = 8; width > 0; width /= 2) {
      const vec::F threshold = vec::table16(table, vec::add_int(rank, vec::set_int(width - 1)));
      rank = vec::add_where_greater(rank, scaled, threshold, width);
    }
    vec::store_codes(to, rank);
  });
}

NIBBLE_KERNEL void encode_ranks(const float* x, size_t n, float factor, const float* thresholds, size_t size,
                                uint8_t* ranks) {
  if (size == 16) return encode_ranks16(x, n, factor, thresholds, ranks);
  const vec::F multiplier = vec::set(factor);
  for_each_vector(x, n, ranks, [&](const float* from, uint8_t* to) {
    const vec::F scaled = vec::mul(vec::load(from), multiplier);
    vec::I rank = vec::set_int(0);
    for (int width = static_cast<int>(size / 2); width > 0; width /= 2) {
      const vec::F threshold = vec::gather(thresholds, vec::add_int(rank, vec::set_int(width - 1)));
      rank = vec::add_where_greater(rank, scaled, threshold, width);
    }
    vec::store_codes(to, rank);
  });
}

NIBBLE_KERNEL void decode_affine(const uint8_t* codes, size_t n, float scale, int32_t zero_point, float* out) {
  const vec::F multiplier = vec::set(scale);
  const vec::I minus_zero = vec::set_int(-zero_point);
  for_each_vector(codes, n, out, [&](const uint8_t* from, float* to) {
    vec::store(to, vec::mul(vec::to_float(vec::add_int(vec::load_codes(from), minus_zero)), multiplier));
  });
}

NIBBLE_KERNEL void decode_codebook(const uint8_t* codes, size_t n, const float* codebook, size_t size, float absmax,
                                   float* out) {
  const vec::F multiplier = vec::set(absmax);
  if (size == 16) {
    const vec::Table16 table = vec::load_table16(codebook);
    for_each_vector(codes, n, out, [&](const uint8_t* from, float* to) {
      vec::store(to, vec::mul(vec::table16(table, vec::load_codes(from)), multiplier));
    });
    return;
  }
  if (size == 256) {
    const vec::Table256 table = vec::load_table256(codebook);
    for_each_vector(codes, n, out, [&](const uint8_t* from, float* to) {
      vec::store(to, vec::mul(vec::table256(table, vec::load_codes(from)), multiplier));
    });
    return;
  }
  for_each_vector(codes, n, out, [&](const uint8_t* from, float* to) {
    vec::store(to, vec::mul(vec::gather(codebook, vec::load_codes(from)), multiplier));
  });
}

NIBBLE_KERNEL void load_f16(const uint16_t* x, size_t n, float* out) {
  for_each_vector(x, n, out, [](const uint16_t* from, float* to) { vec::store(to, vec::load_f16(from)); });
}

NIBBLE_KERNEL void load_bf16(const uint16_t* x, size_t n, float* out) {
  for_each_vector(x, n, out, [](const uint16_t* from, float* to) { vec::store(to, vec::load_bf16(from)); });
}

NIBBLE_KERNEL void load_e4m3(const uint8_t* x, size_t n, float* out) {
  const vec::F unit = vec::set(256.0f);  // of fields read as a binary16's, whose bias is greater by 8
  for_each_vector(x, n, out,
                  [&](const uint8_t* from, float* to) { vec::store(to, vec::mul(vec::load_e4m3_as_f16(from), unit)); });
}

NIBBLE_KERNEL void load_e5m2(const uint8_t* x, size_t n, float* out) {
  for_each_vector(x, n, out, [](const uint8_t* from, float* to) { vec::store(to, vec::load_e5m2(from)); });
}

NIBBLE_KERNEL void pack_nibbles(const uint8_t* codes, size_t n, uint8_t* packed) {
  for (size_t i = 0; i < n / 2; ++i)  // simple enough for the compiler to vectorise
    packed[i] = static_cast<uint8_t>(codes[2 * i] | (codes[2 * i + 1] << 4));
  if (n % 2 != 0) packed[n / 2] = codes[n - 1];
}

template <class Store>
inline void decode_nibbles_by(const NibbleRow& row, size_t first, size_t last, float* out, Store store) {
  const vec::Table16 table = vec::load_table16(row.values);
  for (size_t k = first; k < last;) {
    const size_t group = k / row.group_size, group_end = (group + 1) * row.group_size;
    const size_t end = group_end < last ? group_end : last;
    const vec::F scale = vec::set(row.scales[group]);
    const vec::F zero = vec::set(row.zeros == nullptr ? 0.0f : row.zeros[group]);
    const auto decode = [&](const uint8_t* codes, size_t from) {
      return vec::mul(vec::sub(vec::table16(table, vec::load_nibbles(codes, from)), zero), scale);
    };
    for (; k + vec::lanes <= end; k += vec::lanes) store(out + (k - first), decode(row.codes, k));
    if (k < end) {  // only at the row's end: groups are whole vectors
      uint8_t codes[vec::lanes] = {};
      float values[vec::lanes];
      for (size_t i = 0; i < (end - k + 1) / 2; ++i) codes[i] = row.codes[k / 2 + i];
      vec::store(values, decode(codes, 0));
      for (size_t i = 0; i < end - k; ++i) out[k - first + i] = values[i];
      k = end;
    }
  }
}

inline bool is_aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

NIBBLE_KERNEL void decode_nibbles(const NibbleRow& row, size_t first, size_t last, float* out, bool stream) {
  if (stream && is_aligned(out, vec::lanes * sizeof(float))) {
    decode_nibbles_by(row, first, last, out, [](float* to, vec::F x) { vec::stream(to, x); });
    vec::fence();
  } else {
    decode_nibbles_by(row, first, last, out, [](float* to, vec::F x) { vec::store(to, x); });
  }
}

/// What the 16 codes of a group decode to, in 16 bits: then a code is one look-up.
template <class Store>
inline vec::Half16 half_table(const NibbleRow& row, size_t group, Store store) {
  const vec::F scale = vec::set(row.scales[group]);
  const vec::F zero = vec::set(row.zeros == nullptr ? 0.0f : row.zeros[group]);
  uint16_t out[16];
  for (size_t i = 0; i < 16; i += vec::lanes)
    store(out + i, vec::mul(vec::sub(vec::load(row.values + i), zero), scale));
  return vec::load_half16(out);
}

template <class Store>
inline void decode_halves(const NibbleRow& row, size_t first, size_t last, uint16_t* out, bool stream, Store store) {
  const bool past_caches = stream && is_aligned(out, vec::half_lanes * sizeof(uint16_t));
  for (size_t k = first; k < last;) {
    const size_t group = k / row.group_size, group_end = (group + 1) * row.group_size;
    const size_t end = group_end < last ? group_end : last;
    const vec::Half16 table = half_table(row, group, store);
    if (past_caches)
      for (; k + vec::half_lanes <= end; k += vec::half_lanes)
        vec::stream_halves(table, row.codes + k / 2, out + (k - first));
    for (; k + vec::half_lanes <= end; k += vec::half_lanes)
      vec::store_halves(table, row.codes + k / 2, out + (k - first));
    if (k < end) {
      uint8_t codes[vec::half_lanes / 2] = {};
      uint16_t values[vec::half_lanes];
      for (size_t i = 0; i < (end - k + 1) / 2; ++i) codes[i] = row.codes[k / 2 + i];
      vec::store_halves(table, codes, values);
      for (size_t i = 0; i < end - k; ++i) out[k - first + i] = values[i];
      k = end;
    }
  }
  if (past_caches) vec::fence();
}

NIBBLE_KERNEL void decode_nibbles_f16(const NibbleRow& row, size_t first, size_t last, uint16_t* out, bool stream) {
  decode_halves(row, first, last, out, stream, [](uint16_t* to, vec::F x) { vec::store_f16(to, x); });
}

NIBBLE_KERNEL void decode_nibbles_bf16(const NibbleRow& row, size_t first, size_t last, uint16_t* out, bool stream) {
  decode_halves(row, first, last, out, stream, [](uint16_t* to, vec::F x) { vec::store_bf16(to, x); });
}

/// Stores vector after vector, past the caches once `out` is aligned for that.
template <class T, class Store, class Stream>
inline void store_vectors(const float* x, size_t n, T* out, bool stream, Store store, Stream past_caches) {
  size_t i = 0;
  if (stream) {
    constexpr size_t alignment = vec::lanes * sizeof(T);
    const size_t head = (alignment - reinterpret_cast<uintptr_t>(out) % alignment) % alignment / sizeof(T);
    i = head < n ? head : n;
    for_each_vector(x, i, out, store);
    for (; i + vec::lanes <= n; i += vec::lanes) past_caches(x + i, out + i);
  }
  for_each_vector(x + i, n - i, out + i, store);
  if (stream) vec::fence();
}

NIBBLE_KERNEL void store_f32(const float* x, size_t n, float* out, bool stream) {
  store_vectors(
      x, n, out, stream, [](const float* from, float* to) { vec::store(to, vec::load(from)); },
      [](const float* from, float* to) { vec::stream(to, vec::load(from)); });
}

NIBBLE_KERNEL void store_f16(const float* x, size_t n, uint16_t* out, bool stream) {
  store_vectors(
      x, n, out, stream, [](const float* from, uint16_t* to) { vec::store_f16(to, vec::load(from)); },
      [](const float* from, uint16_t* to) { vec::stream_f16(to, vec::load(from)); });
}

NIBBLE_KERNEL void store_bf16(const float* x, size_t n, uint16_t* out, bool stream) {
  store_vectors(
      x, n, out, stream, [](const float* from, uint16_t* to) { vec::store_bf16(to, vec::load(from)); },
      [](const float* from, uint16_t* to) { vec::stream_bf16(to, vec::load(from)); });
}
