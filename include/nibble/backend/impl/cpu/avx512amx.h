// AVX-512-VNNI with AMX: many tokens of 8-bit activations go through the tile unit. Compiled always; the machines that
// test this library have no AMX, so it is chosen only by name (see the registry).
//
// A tile is 16 rows of 64 bytes. TDPBSUD multiplies 16 tokens × 64 columns (signed) by 64 columns × 16 output rows
// (unsigned, four columns of a row together): just the order of 8-bit codes in an interleaved panel, so that those
// are loaded as they lie, 256 bytes from one word to the next; narrower codes are widened to a buffer once for all
// tokens.
#pragma once

#include "nibble/backend/impl/cpu/vec_avx512vnni.h"

namespace nibble::inline NIBBLE_ABI::kernels {
NIBBLE_KERNELS(simd) {
#include "nibble/backend/impl/cpu/generic/byte_forms.h"

#include "nibble/backend/impl/cpu/generic/all.h"

constexpr size_t kTileTokens = 16, kTileColumns = 64;
constexpr size_t kBlockTokens = 64;    // tokens whose sums are kept beside the tiles
constexpr size_t kBlockColumns = 512;  // columns of widened codes: 32 KiB

/// What LDTILECFG reads.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};

/// Columns [first, last) of all 64 rows with a code in each byte.
template <int Bits>
NIBBLE_KERNEL void widen_codes(const InterleavedPanel& p, size_t first, size_t last, uint32_t* to) {
  using Words = CodeWords<Bits>;
  const CodeTable<Bits> table(p);
  for (size_t k = first; k < last; k += Words::columns, to += Words::parts * kInterleavedRows)
    for (size_t row = 0; row < kInterleavedRows; row += vec::lanes) {
      vec::I word[1][Words::words];
      load_step<Bits>(words_at<Bits>(p, k, row), word);
      unroll<Words::parts>([&](auto part) __attribute__((always_inline)) {
        _mm512_storeu_si512(to + decltype(part)::value * kInterleavedRows + row,
                            code_bytes<Bits, decltype(part)::value>(word[0], table));
      });
    }
}

/// The panel's own words where they are 8-bit codes, or `buffer`, filled.
NIBBLE_KERNEL const uint32_t* byte_words(const InterleavedPanel& p, size_t first, size_t last, uint32_t* buffer) {
  if (p.code_bits == 8) return words_at<8>(p, first, 0);
  for_width(p.code_bits, [&](auto bits) { widen_codes<decltype(bits)::value>(p, first, last, buffer); });
  return buffer;
}

/// sums [16][64] += 16 tokens × the 64 rows over `columns` columns.
NIBBLE_KERNEL void gemm_tiles(const uint32_t* words, const int8_t* x, size_t x_stride, size_t columns, int32_t* sums) {
  constexpr size_t sum_stride = kInterleavedRows * sizeof(int32_t), word_stride = kInterleavedRows * sizeof(uint32_t);
  _tile_loadd(0, sums, sum_stride);
  _tile_loadd(1, sums + 16, sum_stride);
  _tile_loadd(2, sums + 32, sum_stride);
  _tile_loadd(3, sums + 48, sum_stride);
  for (size_t k = 0; k < columns; k += kTileColumns, words += kTileColumns / 4 * kInterleavedRows) {
    _tile_loadd(4, x + k, x_stride);
    _tile_loadd(5, words, word_stride);
    _tile_dpbsud(0, 4, 5);
    _tile_loadd(6, words + 16, word_stride);
    _tile_dpbsud(1, 4, 6);
    _tile_loadd(5, words + 32, word_stride);
    _tile_dpbsud(2, 4, 5);
    _tile_loadd(6, words + 48, word_stride);
    _tile_dpbsud(3, 4, 6);
  }
  _tile_stored(0, sums, sum_stride);
  _tile_stored(1, sums + 16, sum_stride);
  _tile_stored(2, sums + 32, sum_stride);
  _tile_stored(3, sums + 48, sum_stride);
}

/// `tokens` is a multiple of 16, at most kBlockTokens.
NIBBLE_KERNEL void gemm_block(const InterleavedPanel& p, const Int8Tokens& x, size_t token, size_t tokens, float* out) {
  alignas(64) int32_t sums[kBlockTokens * kInterleavedRows];
  alignas(64) uint32_t buffer[kBlockColumns / 4 * kInterleavedRows];
  size_t group = 0;
  for (size_t k = 0; k < p.depth; k += p.group_size, ++group) {
    const size_t group_end = k + p.group_size < p.depth ? k + p.group_size : p.depth;
    vec::I sum[1][1][4];
    for (size_t t = 0; t < tokens; ++t) {
      begin_group<1, 4>(p, group, 0, x, token + t, sum);
      for (size_t v = 0; v < 4; ++v) _mm512_store_si512(sums + t * kInterleavedRows + 16 * v, sum[0][0][v]);
    }
    for (size_t first = k; first < group_end; first += kBlockColumns) {
      const size_t last = first + kBlockColumns < group_end ? first + kBlockColumns : group_end;
      const uint32_t* words = byte_words(p, first, last, buffer);
      for (size_t t = 0; t < tokens; t += kTileTokens)
        gemm_tiles(words, x.codes + (token + t) * x.stride + first, x.stride, last - first,
                   sums + t * kInterleavedRows);
    }
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t v = 0; v < 4; ++v) sum[0][0][v] = _mm512_load_si512(sums + t * kInterleavedRows + 16 * v);
      end_group<false>(p, group, 0, x, token + t, sum, out + t * kInterleavedRows);
    }
  }
}

NIBBLE_KERNEL void gemm_int8_tiles(const InterleavedPanel& p, const Int8Tokens& x, size_t tokens, float* out) {
  const bool whole_tiles = p.offsets == nullptr && p.depth % kTileColumns == 0 &&
                           (p.group_size % kTileColumns == 0 || p.group_size >= p.depth);
  size_t t = 0;
  if (whole_tiles && tokens >= kTileTokens) {
    TileConfig config;
    for (size_t i = 0; i < 8; ++i) {
      config.rows[i] = 16;
      config.bytes_per_row[i] = 64;
    }
    _tile_loadconfig(&config);
    while (tokens - t >= kTileTokens) {
      const size_t left = (tokens - t) / kTileTokens * kTileTokens, block = left < kBlockTokens ? left : kBlockTokens;
      gemm_block(p, x, t, block, out + t * kInterleavedRows);
      t += block;
    }
    _tile_release();
  }
  if (t == tokens) return;
  const Int8Tokens rest{x.codes + t * x.stride, x.stride, x.sums + t * x.groups,
                        x.scales == nullptr ? nullptr : x.scales + t * x.groups, x.groups};
  gemm_int8(p, rest, tokens - t, out + t * kInterleavedRows);
}

constexpr KernelTable make_amx_table() {
  KernelTable t = make_table();
  t.gemm_int8 = gemm_int8_tiles;
  return t;
}

}  // namespace simd

NIBBLE_KERNEL_TABLE(avx512amx, simd, make_amx_table);
#if defined(NIBBLE_HEADER_ONLY)  // no other unit has what does without tiles, and is chosen without a name
NIBBLE_KERNEL_TABLE(avx512vnni, simd, make_table);
#endif

}  // namespace nibble::inline NIBBLE_ABI::kernels
