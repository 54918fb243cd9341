// The one object a unit exports, built from what generic/*.h defined.

constexpr KernelTable make_table() {
  KernelTable t = {};
  t.range = range;
  t.absmax = absmax;
  t.encode_affine = encode_affine;
  t.encode_int8 = encode_int8;
  t.encode_signed = encode_signed;
  t.encode_ranks = encode_ranks;
  t.encode_keys = encode_keys;
  t.decode_affine = decode_affine;
  t.decode_codebook = decode_codebook;
  t.pack_nibbles = pack_nibbles;
  t.decode_nibbles = decode_nibbles;
  t.decode_nibbles_f16 = decode_nibbles_f16;
  t.decode_nibbles_bf16 = decode_nibbles_bf16;
  t.store_f32 = store_f32;
  t.store_f16 = store_f16;
  t.store_bf16 = store_bf16;
  t.load_f16 = load_f16;
  t.load_bf16 = load_bf16;
  t.load_e4m3 = load_e4m3;
  t.load_e5m2 = load_e5m2;
  t.gemm_panel = gemm_panel;
  t.gemm_panel_add = gemm_panel_add;
  t.gemv_codes = gemv_codes;
  t.few_tokens = vec::few_tokens;
  t.decode_codes = decode_codes;
  t.gemm_int8 = gemm_int8;
  t.fixed_bytes = FixedForm<4>::bytes_per_column;
  t.fixed_bytes_of_8_bits = FixedForm<8>::bytes_per_column;
  t.encode_fixed = encode_fixed;
  t.gemm_fixed = gemm_fixed;
  t.adam = adam;
  t.lion = lion;
  t.dropout = dropout;
  t.exp_sum = exp_sum;
  t.transpose = transpose;
  t.interleave = interleave;
  t.adam8 = adam8;
  t.lion8 = lion8;
  return t;
}
