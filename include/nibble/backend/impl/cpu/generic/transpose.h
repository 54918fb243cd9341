// A matrix turned, square blocks of vec::lanes in registers.

NIBBLE_KERNEL void transpose(const float* x, size_t x_stride, size_t rows, size_t cols, float* out, size_t out_stride) {
  const auto corner = [=](size_t first_row, size_t last_row, size_t first_col, size_t last_col) {
    for (size_t c = first_col; c < last_col; ++c)
      for (size_t r = first_row; r < last_row; ++r) out[c * out_stride + r] = x[r * x_stride + c];
  };
  const size_t whole_rows = rows - rows % vec::lanes, whole_cols = cols - cols % vec::lanes;
  for (size_t r = 0; r < whole_rows; r += vec::lanes)
    for (size_t c = 0; c < whole_cols; c += vec::lanes) {
      vec::F block[vec::lanes];
      for (size_t i = 0; i < vec::lanes; ++i) block[i] = vec::load(x + (r + i) * x_stride + c);
      vec::transpose(block);
      for (size_t i = 0; i < vec::lanes; ++i) vec::store(out + (c + i) * out_stride + r, block[i]);
    }
  corner(whole_rows, rows, 0, whole_cols);
  corner(0, rows, whole_cols, cols);
}
