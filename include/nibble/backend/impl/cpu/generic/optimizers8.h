// One step of an optimizer whose moments are in 8 bits, block after block: they are decoded, updated and coded again
// without leaving the caches.

/// The largest magnitude of what it is shown.
class Largest {
 public:
  void see(vec::F x) { most_ = vec::max_int(most_, vec::magnitude_bits(x)); }
  [[nodiscard]] float stored_absmax() const {  // of scheme/codebook.h
    const int32_t bits = vec::reduce_max_int(most_);
    float most;
    __builtin_memcpy(&most, &bits, sizeof most);
    constexpr float least = 0x1p-126f;
    return most != 0 && most < least ? least : most;
  }

 private:
  vec::I most_ = vec::set_int(0);
};

/// A moment of one block, updated and not coded yet.
class OpenMoment {
 public:
  void set(size_t i, vec::F x) { vec::store(values_ + i, x); }
  void scale_by(const Largest& largest, float* absmax) {
    *absmax = largest.stored_absmax();
    inverse_ = *absmax == 0 ? 0.0f : 1.0f / *absmax;  // inverse_absmax
    finite_ = *absmax < __builtin_inff();
  }
  template <bool KeepSign>
  void encode(size_t n, const CodedMoment& moment, size_t first) const {
    encode_vectors<KeepSign>(values_, n, inverse_, finite_, moment.keys, moment.codes + first);
  }

 private:
  alignas(64) float values_[kMomentBlock];
  float inverse_;
  bool finite_;
};

/// Calls begin(first, count, open) for each block and finish(first, count, open) for it after the next one's begin: so
/// the processor need not wait for what a block's values are divided by.
template <class Open, class Begin, class Finish>
inline void for_each_block(size_t n, Begin begin, Finish finish) {
  Open open[2];
  size_t which = 0;
  for (size_t first = 0; first < n; first += kMomentBlock, which ^= 1) {
    begin(first, n - first < kMomentBlock ? n - first : kMomentBlock, open[which]);
    if (first != 0) finish(first - kMomentBlock, kMomentBlock, open[which ^ 1]);
  }
  if (n == 0) return;
  const size_t last = (n - 1) / kMomentBlock * kMomentBlock;
  finish(last, n - last, open[which ^ 1]);
}

/// Asks for what is read two blocks later: coding a block takes so long that the processor's own prefetching pauses.
inline void fetch_ahead(const float* p) { __builtin_prefetch(p + 2 * kMomentBlock); }

inline vec::F decode_moment(const vec::Table256& codebook, const uint8_t* codes, vec::F absmax) {
  return vec::mul(vec::table256(codebook, vec::load_codes(codes)), absmax);
}

/// adam8 of whole vectors.
inline void adam8_vectors(const OptimizerFactors& f, const float* gradients, size_t n, const CodedMoment& m,
                          const CodedMoment& v, float* parameters) {
  struct Open {
    OpenMoment m, v;
  };
  const AdamRule rule(f);
  const vec::Table256 m_codebook = vec::load_table256(m.codebook), v_codebook = vec::load_table256(v.codebook);
  const auto begin = [&](size_t first, size_t count, Open& open) {
    const vec::F m_absmax = vec::set(m.absmax[first / kMomentBlock]),
                 v_absmax = vec::set(v.absmax[first / kMomentBlock]);
    Largest m_largest, v_largest;
    for (size_t i = 0; i < count; i += vec::lanes) {
      vec::F m_new = decode_moment(m_codebook, m.codes + first + i, m_absmax),
             v_new = decode_moment(v_codebook, v.codes + first + i, v_absmax), p = vec::load(parameters + first + i);
      fetch_ahead(gradients + first + i);
      fetch_ahead(parameters + first + i);
      rule(vec::load(gradients + first + i), m_new, v_new, p);
      m_largest.see(m_new);
      v_largest.see(v_new);
      open.m.set(i, m_new);
      open.v.set(i, v_new);
      vec::store(parameters + first + i, p);
    }
    open.m.scale_by(m_largest, m.absmax + first / kMomentBlock);
    open.v.scale_by(v_largest, v.absmax + first / kMomentBlock);
  };
  for_each_block<Open>(n, begin, [&](size_t first, size_t count, const Open& open) {
    open.m.encode<true>(count, m, first);
    open.v.encode<false>(count, v, first);
  });
}

/// lion8 of whole vectors.
inline void lion8_vectors(const OptimizerFactors& f, const float* gradients, size_t n, const CodedMoment& m,
                          float* parameters) {
  const LionRule rule(f);
  const vec::Table256 codebook = vec::load_table256(m.codebook);
  const auto begin = [&](size_t first, size_t count, OpenMoment& open) {
    const vec::F absmax = vec::set(m.absmax[first / kMomentBlock]);
    Largest largest;
    for (size_t i = 0; i < count; i += vec::lanes) {
      vec::F momentum = decode_moment(codebook, m.codes + first + i, absmax), p = vec::load(parameters + first + i);
      fetch_ahead(gradients + first + i);
      fetch_ahead(parameters + first + i);
      rule(vec::load(gradients + first + i), momentum, p);
      largest.see(momentum);
      open.set(i, momentum);
      vec::store(parameters + first + i, p);
    }
    open.scale_by(largest, m.absmax + first / kMomentBlock);
  };
  for_each_block<OpenMoment>(
      n, begin, [&](size_t first, size_t count, const OpenMoment& open) { open.encode<true>(count, m, first); });
}

/// The last elements of a tensor, fewer than a block, padded to whole vectors: where the gradient is 0, a moment of 0
/// stays what it is.
class PaddedBlock {
 public:
  PaddedBlock(const float* gradients, const float* parameters, size_t n) : n_(n) {
    for (size_t i = 0; i < n; ++i) {
      this->gradients[i] = gradients[i];
      this->parameters[i] = parameters[i];
    }
  }
  CodedMoment take(const CodedMoment& moment, size_t first, int which) {
    uint32_t zero;
    __builtin_memcpy(&zero, moment.keys + kRankLines + kLineZero, sizeof zero);
    for (size_t i = 0; i < kMomentBlock; ++i)
      codes_[which][i] = i < n_ ? moment.codes[first + i] : static_cast<uint8_t>(zero);
    return {codes_[which], moment.absmax + first / kMomentBlock, moment.codebook, moment.keys};
  }
  void give_back(const CodedMoment& moment, size_t first, int which) const {
    for (size_t i = 0; i < n_; ++i) moment.codes[first + i] = codes_[which][i];
  }
  void give_back(float* to) const {
    for (size_t i = 0; i < n_; ++i) to[i] = parameters[i];
  }
  [[nodiscard]] size_t padded() const { return (n_ + vec::lanes - 1) / vec::lanes * vec::lanes; }

  float gradients[kMomentBlock] = {}, parameters[kMomentBlock] = {};

 private:
  uint8_t codes_[2][kMomentBlock];
  size_t n_;
};

/// Elements before the last block, if that is not made of whole vectors.
inline size_t whole_blocks(size_t n) { return n % vec::lanes == 0 ? n : n / kMomentBlock * kMomentBlock; }

NIBBLE_KERNEL void adam8(const OptimizerFactors& f, const float* gradients, size_t n, const CodedMoment& m,
                         const CodedMoment& v, float* parameters) {
  const size_t whole = whole_blocks(n);
  adam8_vectors(f, gradients, whole, m, v, parameters);
  if (whole == n) return;
  PaddedBlock block(gradients + whole, parameters + whole, n - whole);
  const CodedMoment last[] = {block.take(m, whole, 0), block.take(v, whole, 1)};
  adam8_vectors(f, block.gradients, block.padded(), last[0], last[1], block.parameters);
  block.give_back(m, whole, 0);
  block.give_back(v, whole, 1);
  block.give_back(parameters + whole);
}

NIBBLE_KERNEL void lion8(const OptimizerFactors& f, const float* gradients, size_t n, const CodedMoment& m,
                         float* parameters) {
  const size_t whole = whole_blocks(n);
  lion8_vectors(f, gradients, whole, m, parameters);
  if (whole == n) return;
  PaddedBlock block(gradients + whole, parameters + whole, n - whole);
  const CodedMoment last = block.take(m, whole, 0);
  lion8_vectors(f, block.gradients, block.padded(), last, block.parameters);
  block.give_back(m, whole, 0);
  block.give_back(parameters + whole);
}
