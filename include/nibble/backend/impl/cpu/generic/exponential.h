// e^x (core/exponential.h) over the vector layer.

inline vec::F exponential(vec::F x) {
  namespace terms = exponential_terms;
  const vec::F least = vec::set(terms::kLeast);
  const vec::F bounded = vec::max(vec::min(x, vec::set(terms::kMost)), least);  // of a NaN the bound
  const vec::I n = vec::to_int(vec::mul(bounded, vec::set(terms::kPerLog2)));
  const vec::F whole = vec::to_float(n);
  const vec::F rest = vec::set(-terms::kLog2Rest), part = vec::fma(whole, vec::set(-terms::kLog2), x);
  const vec::F r = vec::fma(whole, rest, part);
  vec::F q = vec::set(terms::k4);
  q = vec::fma(q, r, vec::set(terms::k3));
  q = vec::fma(q, r, vec::set(terms::k2));
  q = vec::fma(q, r, vec::set(terms::k1));
  q = vec::fma(q, r, vec::set(terms::k0));
  const vec::F e = vec::add(vec::set(1.0f), vec::add(part, vec::fma(vec::mul(r, r), q, vec::mul(whole, rest))));
  const vec::F half = vec::as_float(vec::shift_left<23>(vec::add_int(n, vec::set_int(126))));  // 2^(n − 1)
  return vec::select_less(x, least, vec::set(0.0f), vec::mul(vec::mul(e, half), vec::set(2.0f)));
}

NIBBLE_KERNEL float exp_sum(const float* x, size_t n, float factor, float offset, float* out) {
  constexpr size_t vectors = kSumLanes / vec::lanes;
  const vec::F slope = vec::set(factor), start = vec::set(offset);
  vec::F sums[vectors];
  for (vec::F& sum : sums) sum = vec::set(0.0f);
  const auto step = [&](const float* from, float* to) {
    for (size_t v = 0; v < vectors; ++v)
      vec::store(to + v * vec::lanes, exponential(vec::fma(vec::load(from + v * vec::lanes), slope, start)));
  };
  const auto add = [&](const float* from) {
    for (size_t v = 0; v < vectors; ++v) sums[v] = vec::add(sums[v], vec::load(from + v * vec::lanes));
  };
  size_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes) {
    step(x + i, out + i);
    add(out + i);
  }
  if (i < n) {
    float padded[kSumLanes] = {};
    for (size_t j = i; j < n; ++j) padded[j - i] = x[j];
    step(padded, padded);
    for (size_t j = i; j < n; ++j) out[j] = padded[j - i];
    for (size_t j = n - i; j < kSumLanes; ++j) padded[j] = 0;
    add(padded);
  }
  float lanes[kSumLanes], total = 0;
  for (size_t v = 0; v < vectors; ++v) vec::store(lanes + v * vec::lanes, sums[v]);
  for (const float lane : lanes) total += lane;
  return total;
}
