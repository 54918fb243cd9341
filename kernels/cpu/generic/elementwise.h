// Quantize and dequantize kernels, each written once over the vector layer `vec` of the unit that includes this.
//
// A unit defines in its own anonymous namespace: vec::lanes; types vec::F (floats) and vec::I (int32); load, store,
// set, add, sub, mul, div, fma, min, max, to_int (half to even), to_float, add_int, set_int, load_codes, store_codes,
// Table16 with table16 (which reads the low four bits of an index), gather, add_where_greater, load_f16, load_bf16;
// for multiply_codes.h also code_sums, load_words, shift_right, low_byte, and for
// multiply_int8.h int8_sums, set_bytes, and_int, mul_int, dot4. min(a, b) is a < b ? a : b and max(a, b) is
// a > b ? a : b, like the x86 instructions: a NaN in `a` gives b.
//
// Tails go through a padded copy of one vector, so that no kernel has a second, scalar, version of its arithmetic.

/// Calls body(source, destination) with pointers good for vec::lanes elements each.
template <class In, class Out, class Body>
static inline void for_each_vector(const In* in, size_t n, Out* out, Body body) {
  size_t i = 0;
  for (; i + vec::lanes <= n; i += vec::lanes) body(in + i, out + i);
  if (i == n) return;
  In padded_in[vec::lanes] = {};
  Out padded_out[vec::lanes];
  for (size_t j = 0; j < n - i; ++j) padded_in[j] = in[i + j];
  body(padded_in, padded_out);
  for (size_t j = 0; j < n - i; ++j) out[i + j] = padded_out[j];
}

static ValueRange range(const float* x, size_t n) {
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
  float lows[vec::lanes], highs[vec::lanes], bads[vec::lanes];
  vec::store(lows, low);
  vec::store(highs, high);
  vec::store(bads, bad);
  ValueRange r{lows[0], highs[0], bads[0] == 0};
  for (size_t j = 1; j < vec::lanes; ++j) {
    r.min = lows[j] < r.min ? lows[j] : r.min;
    r.max = highs[j] > r.max ? highs[j] : r.max;
    r.finite = r.finite && bads[j] == 0;
  }
  return r;
}

static void encode_affine(const float* x, size_t n, float scale, int32_t zero_point, int32_t low, int32_t high,
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

static void encode_int8(const float* x, size_t n, float factor, uint8_t* codes) {
  const vec::F multiplier = vec::set(factor), floor = vec::set(-127.0f), ceiling = vec::set(127.0f);
  const vec::I zero = vec::set_int(128);
  for_each_vector(x, n, codes, [&](const float* from, uint8_t* to) {
    const vec::F clamped = vec::min(vec::max(vec::mul(vec::load(from), multiplier), floor), ceiling);
    vec::store_codes(to, vec::add_int(vec::to_int(clamped), zero));
  });
}

static void encode_ranks16(const float* x, size_t n, float factor, const float* thresholds, uint8_t* ranks) {
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

static void encode_ranks(const float* x, size_t n, float factor, const float* thresholds, size_t size, uint8_t* ranks) {
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

static void decode_affine(const uint8_t* codes, size_t n, float scale, int32_t zero_point, float* out) {
  const vec::F multiplier = vec::set(scale);
  const vec::I minus_zero = vec::set_int(-zero_point);
  for_each_vector(codes, n, out, [&](const uint8_t* from, float* to) {
    vec::store(to, vec::mul(vec::to_float(vec::add_int(vec::load_codes(from), minus_zero)), multiplier));
  });
}

static void decode_codebook(const uint8_t* codes, size_t n, const float* codebook, size_t size, float absmax,
                            float* out) {
  const vec::F multiplier = vec::set(absmax);
  if (size == 16) {
    const vec::Table16 table = vec::load_table16(codebook);
    for_each_vector(codes, n, out, [&](const uint8_t* from, float* to) {
      vec::store(to, vec::mul(vec::table16(table, vec::load_codes(from)), multiplier));
    });
    return;
  }
  for_each_vector(codes, n, out, [&](const uint8_t* from, float* to) {
    vec::store(to, vec::mul(vec::gather(codebook, vec::load_codes(from)), multiplier));
  });
}

static void load_f16(const uint16_t* x, size_t n, float* out) {
  for_each_vector(x, n, out, [](const uint16_t* from, float* to) { vec::store(to, vec::load_f16(from)); });
}

static void load_bf16(const uint16_t* x, size_t n, float* out) {
  for_each_vector(x, n, out, [](const uint16_t* from, float* to) { vec::store(to, vec::load_bf16(from)); });
}
