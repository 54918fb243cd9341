// The one object a unit exports, built from what generic/*.h defined.

static constexpr KernelTable make_table() {
  return {range,     encode_affine,  encode_int8,    encode_ranks,    decode_affine, decode_codebook, load_f16,
          load_bf16, multiply_panel, multiply_codes, vec::few_tokens, decode_codes,  multiply_int8};
}
