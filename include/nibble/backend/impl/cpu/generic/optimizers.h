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

/// adam_update of a vector.
struct AdamRule {
  vec::F beta1, rest1, beta2, rest2, minus_rate, epsilon, keep;

  explicit AdamRule(const OptimizerFactors& f)
      : beta1(vec::set(f.beta1)),
        rest1(vec::set(f.rest1)),
        beta2(vec::set(f.beta2)),
        rest2(vec::set(f.rest2)),
        minus_rate(vec::set(-f.rate)),
        epsilon(vec::set(f.epsilon)),
        keep(vec::set(f.keep)) {}

  void operator()(vec::F g, vec::F& m, vec::F& v, vec::F& p) const {
    const vec::F zero = vec::set(0.0f);
    const vec::F first = vec::fma(beta1, m, vec::mul(rest1, g));
    const vec::F second = vec::fma(beta2, v, vec::mul(vec::mul(rest2, g), g));
    const vec::F update = vec::div(first, vec::add(vec::sqrt(second), epsilon));
    // A gradient that is not finite makes a second moment that is not.
    m = vec::select_finite(second, first, zero);
    v = vec::select_finite(second, second, zero);
    p = vec::select_finite(second, vec::fma(minus_rate, update, vec::mul(p, keep)), p);
  }
};

/// lion_update of a vector.
struct LionRule {
  vec::F beta1, rest1, beta2, rest2, minus_rate, keep;

  explicit LionRule(const OptimizerFactors& f)
      : beta1(vec::set(f.beta1)),
        rest1(vec::set(f.rest1)),
        beta2(vec::set(f.beta2)),
        rest2(vec::set(f.rest2)),
        minus_rate(vec::set(-f.rate)),
        keep(vec::set(f.keep)) {}

  void operator()(vec::F g, vec::F& m, vec::F& p) const {
    const vec::F zero = vec::set(0.0f);
    const vec::F direction = vec::fma(beta1, m, vec::mul(rest1, g));
    const vec::F next = vec::fma(beta2, m, vec::mul(rest2, g));
    const vec::I positive = vec::add_where_greater(vec::set_int(0), direction, zero, 1);
    const vec::F sign = vec::to_float(vec::add_where_greater(positive, zero, direction, -1));
    m = vec::select_finite(next, next, zero);
    p = vec::select_finite(next, vec::fma(minus_rate, sign, vec::mul(p, keep)), p);
  }
};

NIBBLE_KERNEL void adam(const OptimizerFactors& f, const float* gradients, size_t n, float* m, float* v,
                        float* parameters) {
  const AdamRule rule(f);
  float* const state[] = {m, v, parameters};
  for_each_update(gradients, n, state, [&](const float* from, float* const* to) {
    vec::F first = vec::load(to[0]), second = vec::load(to[1]), p = vec::load(to[2]);
    rule(vec::load(from), first, second, p);
    vec::store(to[0], first);
    vec::store(to[1], second);
    vec::store(to[2], p);
  });
}

NIBBLE_KERNEL void lion(const OptimizerFactors& f, const float* gradients, size_t n, float* m, float* parameters) {
  const LionRule rule(f);
  float* const state[] = {m, parameters};
  for_each_update(gradients, n, state, [&](const float* from, float* const* to) {
    vec::F momentum = vec::load(to[0]), p = vec::load(to[1]);
    rule(vec::load(from), momentum, p);
    vec::store(to[0], momentum);
    vec::store(to[1], p);
  });
}
