// Codes that stand for floating-point values (NF4, FP4) over the interleaved layout of kernels.h (InterleavedPanel):
// products with weights that are decoded in registers, and decoding into panels.
//
// A lane is an output row, so a row's products are added in the order of k whatever the vector width. The scale is
// taken out of a chunk's sum, as matmul defines it: the result is bit-identical to decoding values into a panel first
// and adding it up by gemm_panel_add.

/// The value of column `Column` of a word. A load begins at the byte that holds it: loads are spared, shifts are not.
/// The bits above the code belong to the lane's next word; a look-up reads four.
template <size_t Column>
inline vec::F value_of(vec::Table16 values, const uint32_t* from) {
  const auto* byte = reinterpret_cast<const uint32_t*>(reinterpret_cast<const char*>(from) + Column % 4);
  return vec::table16(values, vec::shift_right<Column / 4 * 4>(vec::load_words(byte)));
}

/// The products of `words` words added to `sum`.
template <size_t Tokens, size_t Vectors>
inline void gemv_words(vec::Table16 values, const uint32_t* from, size_t words, const float* x, size_t x_stride,
                       vec::F (&sum)[Tokens][Vectors]) {
  for (size_t i = 0; i < words; ++i, from += kInterleavedRows, x += 8) {
    // One stream of whole panels: the lines of eight words ahead, into the second level.
    for (size_t line = 0; line < Vectors * vec::lanes; line += 16)
      __builtin_prefetch(from + 8 * kInterleavedRows + line, 0, 2);
    unroll<8>([&](auto column) __attribute__((always_inline)) {
      for (size_t v = 0; v < Vectors; ++v) {
        const vec::F w = value_of<decltype(column)::value>(values, from + v * vec::lanes);
        for (size_t t = 0; t < Tokens; ++t)
          sum[t][v] = vec::fma(vec::set(x[t * x_stride + decltype(column)::value]), w, sum[t][v]);
      }
    });
  }
}

template <size_t Tokens>
NIBBLE_KERNEL void gemv_codes_tokens(const InterleavedPanel& p, const float* x, size_t x_stride, float* out) {
  constexpr size_t vectors = vec::code_sums / Tokens < 4 ? vec::code_sums / Tokens : 4;
  const vec::Table16 values = vec::load_table16(p.values);
  for (size_t row = 0; row < kInterleavedRows; row += vectors * vec::lanes)
    for_each_chunk(
        {p.depth, p.group_size, kPanelDepth, p.code_bits}, [&](size_t k, size_t columns, size_t group, size_t chunk) {
          vec::F sum[Tokens][vectors], scale[vectors];
          for (size_t t = 0; t < Tokens; ++t)
            for (size_t v = 0; v < vectors; ++v) sum[t][v] = vec::set(0.0f);
          gemv_words(values, words_at<4>(p, k, row), columns / 8, x + k, x_stride, sum);
          load_scales(p, group, row, scale);
          for (size_t t = 0; t < Tokens; ++t)
            for (size_t v = 0; v < vectors; ++v) {
              float* const y = out + t * kInterleavedRows + row + v * vec::lanes;
              vec::store(y, chunk == 0 ? vec::mul(sum[t][v], scale[v]) : vec::fma(sum[t][v], scale[v], vec::load(y)));
            }
        });
}

NIBBLE_KERNEL void gemv_codes(const InterleavedPanel& p, const float* x, size_t x_stride, size_t tokens, float* out) {
  for_tokens<4>(tokens, [&](auto count, size_t t) {
    gemv_codes_tokens<decltype(count)::value>(p, x + t * x_stride, x_stride, out + t * kInterleavedRows);
  });
}

/// One step of every row of a pass into a panel.
template <int Bits, size_t Vectors>
inline void decode_step(const uint32_t* from, vec::Table16 values, const vec::F (&zero)[Vectors],
                        const vec::F (&scale)[Vectors], const vec::F* offset, bool scaled, size_t row, float* panel) {
  vec::I word[Vectors][CodeWords<Bits>::words];
  load_step<Bits>(from, word);
  unroll<CodeWords<Bits>::columns>([&](auto column) __attribute__((always_inline)) {
    for (size_t v = 0; v < Vectors; ++v) {
      const vec::I code = code_of<Bits, decltype(column)::value>(word[v]);
      vec::F value;
      if constexpr (Bits == 8) value = vec::to_float(vec::low_byte(code));
      else if constexpr (Bits > 4) value = vec::to_float(code);
      else value = vec::table16(values, code);
      if (scaled) value = vec::mul(vec::sub(value, zero[v]), scale[v]);
      if (offset != nullptr) value = vec::add(value, offset[v]);  // adding none would lose the sign of a zero
      const size_t r = row + v * vec::lanes, half = r / kPanelWidth;
      vec::store(panel + (half * kPanelDepth + decltype(column)::value) * kPanelWidth + r % kPanelWidth, value);
    }
  });
}

template <int Bits>
NIBBLE_KERNEL void decode_columns(const InterleavedPanel& p, size_t first, size_t last, bool scaled, float* panels) {
  constexpr size_t vectors = vec::lanes * 2 <= kPanelWidth ? 2 : 1;
  const vec::Table16 values = vec::load_table16(p.values);
  for (size_t row = 0; row < kInterleavedRows; row += vectors * vec::lanes)
    for (size_t k = first; k < last;) {
      const size_t group = k / p.group_size, group_end = (group + 1) * p.group_size;
      const size_t end = group_end < last ? group_end : last;
      vec::F scale[vectors], zero[vectors], offset[vectors];
      load_scales(p, group, row, scale);
      if (p.offsets != nullptr) load_offsets(p, group, row, offset);
      for (size_t v = 0; v < vectors; ++v)
        zero[v] = p.zeros == nullptr
                      ? vec::set(Bits > 4 ? static_cast<float>(p.zero_point) : 0.0f)  // else it is in the values
                      : vec::to_float(vec::load_codes(p.zeros + param_index(group, row) + v * vec::lanes));
      for (; k < end; k += CodeWords<Bits>::columns)
        decode_step<Bits>(words_at<Bits>(p, k, row), values, zero, scale, p.offsets == nullptr ? nullptr : offset,
                          scaled, row, panels + (k - first) * kPanelWidth);
    }
}

NIBBLE_KERNEL void decode_codes(const InterleavedPanel& p, size_t first, size_t last, bool scaled, float* panels) {
  for_width(p.code_bits, [&](auto bits) { decode_columns<decltype(bits)::value>(p, first, last, scaled, panels); });
}
