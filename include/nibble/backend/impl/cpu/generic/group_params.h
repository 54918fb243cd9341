// What the columns of a group share, for the vectors of rows of a pass, and the chunks that sums are made of.

/// The index of a pass's first parameter in a panel's arrays.
inline size_t param_index(size_t group, size_t row) { return group * kInterleavedRows + row; }

/// What `numbers` has for a group: that of its span, times the group's step where there are steps.
template <size_t Vectors>
inline void load_numbers(const InterleavedPanel& p, const void* numbers, const int8_t* steps, size_t group, size_t row,
                         vec::F (&out)[Vectors]) {
  for (size_t v = 0; v < Vectors; ++v) {
    const size_t i = param_index(group >> p.span_shift, row) + v * vec::lanes;
    if (p.scale_type == 1) out[v] = vec::load_f16(static_cast<const uint16_t*>(numbers) + i);
    else if (p.scale_type == 2) out[v] = vec::load_bf16(static_cast<const uint16_t*>(numbers) + i);
    else out[v] = vec::load(static_cast<const float*>(numbers) + i);
  }
  if (steps == nullptr) return;
  for (size_t v = 0; v < Vectors; ++v)
    out[v] = vec::mul(out[v], vec::to_float(vec::load_signed(steps + param_index(group, row) + v * vec::lanes)));
}
template <size_t Vectors>
inline void load_scales(const InterleavedPanel& p, size_t group, size_t row, vec::F (&scale)[Vectors]) {
  load_numbers(p, p.scales, p.scale_steps, group, row, scale);
}
template <size_t Vectors>
inline void load_offsets(const InterleavedPanel& p, size_t group, size_t row, vec::F (&offset)[Vectors]) {
  load_numbers(p, p.offsets, p.offset_steps, group, row, offset);
}

template <size_t Vectors>
inline void load_zeros(const InterleavedPanel& p, size_t group, size_t row, vec::I (&zero)[Vectors]) {
  for (size_t v = 0; v < Vectors; ++v)
    zero[v] = p.zeros == nullptr ? vec::set_int(p.zero_point)
                                 : vec::load_codes(p.zeros + param_index(group, row) + v * vec::lanes);
}

/// Calls body(first column, columns, group, chunk) for the chunks of a row in order.
template <class Body>
inline void for_each_chunk(const ChunkLayout& layout, Body body) {
  size_t chunk = 0, group = 0;
  for (size_t begin = 0; begin < layout.depth; begin += layout.group_size, ++group) {
    const size_t end = begin + layout.group_size < layout.depth ? begin + layout.group_size : layout.depth;
    for (size_t k = begin; k < end; k += layout.chunk, ++chunk)
      body(k, end - k < layout.chunk ? end - k : layout.chunk, group, chunk);
  }
}
