// One step of an optimizer over n elements, as train/adam8.h and train/lion8.h define it for one.

/// Calls body(gradients, state) with pointers good for vec::lanes elements each: what it changes of the state arrays
/// stays. The tail goes through padded copies.
template <size_t Arrays, class Body>
inline void for_each_update(const float* gradients, size_t n, float* const (&state)[Arrays], Body body) {
  float* at[Arrays];
  size_t i = 0;
  for (; i + vec::lanes <= n; i += vec::lanes) {
    for (size_t a = 0; a < Arrays; ++a) at[a] = state[a] + i;
    body(gradients + i, at);
  }
  if (i == n) return;
  float padded[vec::lanes] = {}, padded_state[Arrays][vec::lanes] = {};
  for (size_t j = 0; j < n - i; ++j) padded[j] = gradients[i + j];
  for (size_t a = 0; a < Arrays; ++a) {
    at[a] = padded_state[a];
    for (size_t j = 0; j < n - i; ++j) at[a][j] = state[a][i + j];
  }
  body(padded, at);
  for (size_t a = 0; a < Arrays; ++a)
    for (size_t j = 0; j < n - i; ++j) state[a][i + j] = at[a][j];
}

NIBBLE_KERNEL void adam(const OptimizerFactors& f, const float* gradients, size_t n, float* m, float* v,
                        float* parameters) {
  const vec::F beta1 = vec::set(f.beta1), rest1 = vec::set(f.rest1), beta2 = vec::set(f.beta2),
               rest2 = vec::set(f.rest2), minus_rate = vec::set(-f.rate), epsilon = vec::set(f.epsilon),
               keep = vec::set(f.keep), zero = vec::set(0.0f);
  float* const state[] = {m, v, parameters};
  for_each_update(gradients, n, state, [&](const float* from, float* const* to) {
    const vec::F g = vec::load(from), p = vec::load(to[2]);
    const vec::F first = vec::fma(beta1, vec::load(to[0]), vec::mul(rest1, g));
    const vec::F second = vec::fma(beta2, vec::load(to[1]), vec::mul(vec::mul(rest2, g), g));
    const vec::F update = vec::div(first, vec::add(vec::sqrt(second), epsilon));
    // A gradient that is not finite makes a second moment that is not.
    vec::store(to[0], vec::select_finite(second, first, zero));
    vec::store(to[1], vec::select_finite(second, second, zero));
    vec::store(to[2], vec::select_finite(second, vec::fma(minus_rate, update, vec::mul(p, keep)), p));
  });
}

NIBBLE_KERNEL void lion(const OptimizerFactors& f, const float* gradients, size_t n, float* m, float* parameters) {
  const vec::F beta1 = vec::set(f.beta1), rest1 = vec::set(f.rest1), beta2 = vec::set(f.beta2),
               rest2 = vec::set(f.rest2), minus_rate = vec::set(-f.rate), keep = vec::set(f.keep),
               zero = vec::set(0.0f);
  float* const state[] = {m, parameters};
  for_each_update(gradients, n, state, [&](const float* from, float* const* to) {
    const vec::F g = vec::load(from), momentum = vec::load(to[0]), p = vec::load(to[1]);
    const vec::F direction = vec::fma(beta1, momentum, vec::mul(rest1, g));
    const vec::F next = vec::fma(beta2, momentum, vec::mul(rest2, g));
    const vec::I positive = vec::add_where_greater(vec::set_int(0), direction, zero, 1);
    const vec::F sign = vec::to_float(vec::add_where_greater(positive, zero, direction, -1));
    vec::store(to[0], vec::select_finite(next, next, zero));
    vec::store(to[1], vec::select_finite(next, vec::fma(minus_rate, sign, vec::mul(p, keep)), p));
  });
}
