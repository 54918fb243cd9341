// The mask of dropout (train/dropout.h): Philox (core/philox.h) of the places of a whole vector side by side.

/// Elements that sixteen places make: their first words are elements 0 to 15, the second words 16 to 31, and so on.
constexpr size_t kDropoutPlaces = 16, kDropoutBlock = 4 * kDropoutPlaces;

/// Ten rounds on counters in place.
inline void philox_rounds(vec::I (&x)[4], const uint32_t (&key)[2]) {
  const vec::I first = vec::set_int(static_cast<int32_t>(0xD2511F53)),
               second = vec::set_int(static_cast<int32_t>(0xCD9E8D57));
  uint32_t key0 = key[0], key1 = key[1];
  for (int round = 0; round < 10; ++round) {
    const vec::I low_high = vec::mul_high(x[0], first), low_low = vec::mul_int(x[0], first);
    const vec::I high_high = vec::mul_high(x[2], second), high_low = vec::mul_int(x[2], second);
    x[0] = vec::xor_int(vec::xor_int(high_high, x[1]), vec::set_int(static_cast<int32_t>(key0)));
    x[1] = high_low;
    x[2] = vec::xor_int(vec::xor_int(low_high, x[3]), vec::set_int(static_cast<int32_t>(key1)));
    x[3] = low_low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

NIBBLE_KERNEL void dropout(const DropoutRow& row, const float* x, size_t n, float* out) {
  static_assert(kDropoutPlaces % vec::lanes == 0);
  const vec::F bound = vec::set(row.dropped), grown = vec::set(row.grown), zero = vec::set(0.0f);
  for (size_t first = 0; first < n; first += kDropoutBlock) {
    for (size_t at = 0; at < kDropoutPlaces && first + at < n; at += vec::lanes) {
      uint32_t places[vec::lanes];
      for (size_t j = 0; j < vec::lanes; ++j) places[j] = static_cast<uint32_t>(first / 4 + at + j);
      vec::I bits[4] = {vec::load_words(places), vec::set_int(static_cast<int32_t>(row.row)),
                        vec::set_int(static_cast<int32_t>(row.stream[0])),
                        vec::set_int(static_cast<int32_t>(row.stream[1]))};
      philox_rounds(bits, row.key);
      for (size_t word = 0; word < 4; ++word) {
        const size_t begin = first + word * kDropoutPlaces + at;
        if (begin >= n) break;
        const vec::F share = vec::to_float(vec::shift_right<8>(bits[word]));
        for_each_vector(x + begin, n - begin < vec::lanes ? n - begin : vec::lanes, out + begin,
                        [&](const float* from, float* to) {
                          vec::store(to, vec::select_less(share, bound, zero, vec::mul(vec::load(from), grown)));
                        });
      }
    }
  }
}
