// Activations in 24-bit fixed point (backend/fixed_point.h) as three signed bytes, over a Form that multiplies bytes.

/// q = Σ digit·256^i, signed bytes, as [columns/4][3][4].
template <class Form>
struct FixedBytes : Form {
  /// Writes `lanes` columns of q; adds each lane's digits to `sums`.
  static inline void split(vec::I q, size_t column, char* to, vec::I (&sums)[3]) {
    const vec::I biased = vec::add_int(q, vec::set_int(0x808080));  // bytes that are the digits plus 128
    const vec::I digit[3] = {vec::low_byte(biased), vec::low_byte(vec::shift_right<8>(biased)),
                             vec::shift_right<16>(biased)};
    constexpr size_t piece = vec::lanes < 4 ? vec::lanes : 4;
    for (size_t d = 0; d < 3; ++d) {
      const vec::I value = vec::add_int(digit[d], vec::set_int(-128));
      sums[d] = vec::add_int(sums[d], value);
      int8_t bytes[vec::lanes];
      vec::store_signed(bytes, value);
      for (size_t j = 0; j < vec::lanes; j += piece)
        __builtin_memcpy(to + ((column + j) / 4 * 3 + d) * 4 + (column + j) % 4, bytes + j, piece);
    }
  }
  /// −zero·Σdigit; a chunk's sum fits 16 bits.
  static inline vec::I begin(vec::I minus_zero, int32_t digits) { return vec::mul_small(minus_zero, digits); }
  /// RN(Σ) of a chunk of at most 256 columns: with codes below 16 of 32 columns the two lower digits together
  /// fit 24 bits; else what they carry goes to the upper one first.
  static inline vec::F round(const vec::I (&sum)[3], size_t columns) {
    const vec::I low = vec::add_int(sum[0], vec::shift_left<8>(sum[1]));
    if (!are_bytes(Form::bits) && Form::bits <= 4 && columns <= 32)
      return vec::fma(vec::to_float(sum[2]), vec::set(65536.0f), vec::to_float(low));
    const vec::I high = vec::add_int(sum[2], vec::shift_right_signed<16>(low));
    return vec::fma(vec::to_float(high), vec::set(65536.0f), vec::to_float(vec::and_int(low, vec::set_int(0xFFFF))));
  }
};
