// The table of functions that one ISA unit exports: everything a CPU backend does that is worth an instruction set.
//
// Units are compiled with wider flags than the rest, so nothing may escape from them but their table: all else has
// internal linkage, and they include no header with inline functions of ours or of std (see cmake's symbol check). By
// headers alone (NIBBLE_HEADER_ONLY) all units have the same flags, and it does not matter.
// This header is therefore plain data. Every entry is bit-identical to the scheme in include/nibble/scheme.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "nibble/core/abi.h"
#include "nibble/core/exponential_terms.h"

/// How a unit keeps to itself what it defines: NIBBLE_KERNELS(unit) opens its namespace, NIBBLE_KERNEL stands before a
/// function in it that is no template, and NIBBLE_KERNEL_TABLE(isa, unit, make) is the object isa_kernels = make(). In
/// the compiled library the namespace has no name; by headers alone, where every program's unit includes the kernels,
/// it is `scalar` or `simd`, and the functions are inline.
#if defined(NIBBLE_HEADER_ONLY)
#define NIBBLE_KERNELS(unit) namespace unit
#define NIBBLE_KERNEL inline
#define NIBBLE_KERNEL_TABLE(isa, unit, make) inline constexpr KernelTable isa##_kernels = unit::make()
#else
#define NIBBLE_KERNELS(unit) namespace
#define NIBBLE_KERNEL
#define NIBBLE_KERNEL_TABLE(isa, unit, make) const KernelTable isa##_kernels = make()
#endif

namespace nibble::inline NIBBLE_ABI::kernels {

/// Output columns that a matmul panel interleaves: panel[k][32].
constexpr size_t kPanelWidth = 32;
/// Depth of a panel block. Sums of 256 products are formed from zero, then added up; 256·127² < 2^24 also makes a
/// block of int8 products exact in fp32.
constexpr size_t kPanelDepth = 256;

struct ValueRange {
  float min, max;
  bool finite;  ///< False if any value is NaN or infinite; min and max then mean nothing.
};

/// The bound on KernelTable::few_tokens.
constexpr size_t kMaxFewTokens = 32;
/// Rows of an interleaved panel.
constexpr size_t kInterleavedRows = 64;
/// KernelTable::interleave makes words of so many rows at once, and reads so many columns.
constexpr size_t kInterleaveRows = 16, kInterleaveColumns = 64;

/// In place of a width: codes of 4 bits that stand for bytes, InterleavedPanel::table.
constexpr int32_t kTableBits = -4;
/// The bits of a code as it lies in words.
constexpr int32_t held_bits(int32_t code_bits) { return code_bits == kTableBits ? 4 : code_bits; }

/// 64 rows of a quantized matrix, their codes side by side, so that a vector's lanes are rows and a row's sum needs no
/// reduction across lanes. Codes of 2 to 8 bits.
///
///             row 0            row 1                  row 63
///   word 0  | k 0…7, 32 bits | k 0…7, 32 bits | … | k 0…7 |      4 bits: k4k0 k5k1 k6k2 k7k3, two codes a byte, the
///   word 1  | k 8…15         | k 8…15         | … |       |      lower k in the low nibble
///
///   8 bits: a word is k0 k1 k2 k3.   2 bits: byte j of a word is k(12+j) k(8+j) k(4+j) k(j), the last in bits 0 and 1.
///   3, 5, 6 and 7 bits: a byte has room for two codes or one, and bits to spare, in which the codes of further columns
///   are spread (cpu/generic/code_words.h has the rule).
///
///   What code c of a group stands for is (c − zero)·scale, and + offset where there are offsets. zeros: [group][64].
///   scales and offsets: [span][64], a span 2^span_shift groups; those of a group are multiplied by its steps where
///   there are any, [group][64]. Rows past the matrix's last have scale 0; columns past its last are padded with code 0
///   and meet activations of 0. Three bytes past the last word can be read.
struct InterleavedPanel {
  const uint32_t* codes;
  const void* scales;
  const int8_t* scale_steps;   ///< Null for 1.
  const void* offsets;         ///< Null for none; only of codes of 2, 4 and 5 bits, with a zero_point of 0.
  const int8_t* offset_steps;  ///< Null for 1.
  const uint8_t* zeros;        ///< Zero points; null where all are zero_point.
  const float* values;         ///< Up to 4 bits: what each four bits that hold a code stand for, before the scale.
  size_t depth;                ///< Columns, padded to whole steps of words.
  size_t group_size;           ///< A multiple of the columns in a step.
  int32_t code_bits;           ///< 2 … 8, or kTableBits.
  const uint8_t* table;        ///< kTableBits: the bytes that the sixteen codes stand for.
  int32_t scale_type;          ///< Of scales and offsets. 0: f32, 1: f16, 2: bf16.
  int32_t span_shift;
  int32_t zero_point;  ///< Of integer codes, where `zeros` is null.
};

/// The chunks that a row's sum is made of: `chunk` columns from the start of each group, the last of a group or row
/// shorter.
struct ChunkLayout {
  size_t depth, group_size, chunk;
  int32_t code_bits;
};
/// The longest chunk of fixed-point activations: what keeps the parts of its sums within 24 bits.
constexpr size_t fixed_chunk(int32_t code_bits) {
  return held_bits(code_bits) > 4 || code_bits == kTableBits ? 128 : 256;
}
/// Whether codes are multiplied as bytes of all values.
constexpr bool are_bytes(int32_t code_bits) { return code_bits == 8 || code_bits == kTableBits; }

/// Tokens of activations in 24-bit fixed point (backend/fixed_point.h), as encode_fixed of the same table wrote them.
struct FixedTokens {
  const void* digits;  ///< [token], `stride` bytes from one to the next.
  size_t stride;
  const int32_t* sums;  ///< [token][chunk][3]
  const float* totals;  ///< [token][chunk]: RN(Σ q).
  const float* scales;  ///< [token][chunk]: 2^−k; NaN where a value was not finite.
  size_t chunks;
  ChunkLayout layout;
};

/// Tokens of 8-bit activations: codes [token][stride], −127 … 127, zero past the last column up to the panel's depth;
/// sums [token][groups], the sum of the codes in each group of the panel; scales likewise, or null for all 1.
struct Int8Tokens {
  const int8_t* codes;
  size_t stride;
  const int32_t* sums;
  const float* scales;
  size_t groups;
};

/// A row of 4-bit codes: what code c of group g stands for is (values[c] − zeros[g])·scales[g].
struct NibbleRow {
  const uint8_t* codes;  ///< Two a byte, the first in the low bits.
  size_t group_size;     ///< A multiple of 16, or at least the row's length.
  const float* scales;   ///< One a group.
  const float* zeros;    ///< One a group, or null for 0.
  const float* values;   ///< 16.
};

/// What a step of Adam or Lion does to every element alike: the fields of AdamStep (train/adam8.h) and of LionStep
/// (train/lion8.h), which has no epsilon.
struct OptimizerFactors {
  float beta1, rest1, beta2, rest2, rate, epsilon, keep;
};

/// What the mask of one row depends on (train/dropout.h): an element is dropped where the upper 24 bits of its word are
/// below `dropped`, and multiplied by `grown` otherwise. Word w of Philox's counter (p, row, stream) is that of element
/// p/16·64 + w·16 + p%16.
struct DropoutRow {
  uint32_t row, stream[2], key[2];
  float dropped, grown;
};

/// The least and the largest key of RankKeys (scheme/rank_keys.h).
constexpr int32_t kFirstKey = 0x3300, kLastKey = 0x3F80;
/// Where RankLines (scheme/rank_lines.h) follow them, the fields of RankLineTable from there on, and the guard.
constexpr size_t kRankLines = 2 * (kLastKey - kFirstKey + 1);
constexpr size_t kLineSplit = 0, kLinePiece = 32, kLineSlope = 64, kLineIntercept = 80, kLineCap = 96, kLineZero = 112,
                 kLineLowest = 113, kLineHolds = 114;
constexpr int32_t kLineGuard = 4;

/// Elements that share the absmax of a moment in 8 bits.
constexpr size_t kMomentBlock = 256;
/// A moment of an optimizer in 8 bits: a code for each element, an absmax for each kMomentBlock of them.
struct CodedMoment {
  uint8_t* codes;
  float* absmax;
  const float* codebook;  ///< 256 ascending values.
  const float* keys;      ///< RankKeys of them.
};

/// Sums side by side of which one over many values is made, value i being added to sum i % kSumLanes: what no vector is
/// wider than.
constexpr size_t kSumLanes = 16;

struct KernelTable {
  /// The range of n ≥ 1 values. The sign of a zero is unspecified.
  ValueRange (*range)(const float* x, size_t n);
  /// The largest magnitude of n values; NaN or infinity if any is.
  float (*absmax)(const float* x, size_t n);
  /// clamp(x/scale, low − zero_point, high − zero_point) rounded half to even, plus zero_point; one code per byte.
  void (*encode_affine)(const float* x, size_t n, float scale, int32_t zero_point, int32_t low, int32_t high,
                        uint8_t* codes);
  /// clamp(x·factor, −127, 127) rounded half to even, plus 128.
  void (*encode_int8)(const float* x, size_t n, float factor, uint8_t* codes);
  /// encode_int8's codes less 128, as signed bytes; returns their sum. n ≤ 2^24, and no |x|·factor rounds above 127.
  int32_t (*encode_signed)(const float* x, size_t n, float factor, int8_t* codes);
  /// The number of the `size` (16 or 256) ascending thresholds that x·factor exceeds, as a rank.
  void (*encode_ranks)(const float* x, size_t n, float factor, const float* thresholds, size_t size, uint8_t* ranks);
  /// The same of 256 thresholds by one look-up, where there are RankKeys (scheme/rank_keys.h) of them: `keys`. Every
  /// x·factor is below 2 in magnitude.
  void (*encode_keys)(const float* x, size_t n, float factor, const float* keys, uint8_t* ranks);
  /// (code − zero_point)·scale.
  void (*decode_affine)(const uint8_t* codes, size_t n, float scale, int32_t zero_point, float* out);
  /// codebook[code]·absmax, of `size` entries: every code is below it.
  void (*decode_codebook)(const uint8_t* codes, size_t n, const float* codebook, size_t size, float absmax, float* out);
  /// Two codes of 0 … 15 a byte; the upper half of an odd last byte is zero.
  void (*pack_nibbles)(const uint8_t* codes, size_t n, uint8_t* packed);
  /// Columns [first, last) of a row; `first` is a multiple of 16. `stream`: past the caches, for results that they
  /// could not keep, if `out` is aligned to whole vectors.
  void (*decode_nibbles)(const NibbleRow& row, size_t first, size_t last, float* out, bool stream);
  /// The same rounded to 16 bits, half to even.
  void (*decode_nibbles_f16)(const NibbleRow& row, size_t first, size_t last, uint16_t* out, bool stream);
  void (*decode_nibbles_bf16)(const NibbleRow& row, size_t first, size_t last, uint16_t* out, bool stream);
  /// Stores fp32 as it is or rounded to 16 bits (half to even). `stream`: past the caches, for results that they could
  /// not keep.
  void (*store_f32)(const float* x, size_t n, float* out, bool stream);
  void (*store_f16)(const float* x, size_t n, uint16_t* out, bool stream);
  void (*store_bf16)(const float* x, size_t n, uint16_t* out, bool stream);
  void (*load_f16)(const uint16_t* x, size_t n, float* out);
  void (*load_bf16)(const uint16_t* x, size_t n, float* out);
  /// Floats of 8 bits (scheme/small_float.h), exactly. E4M3's two codes that are no numbers become 480 and −480.
  void (*load_e4m3)(const uint8_t* x, size_t n, float* out);
  void (*load_e5m2)(const uint8_t* x, size_t n, float* out);
  /// out[t][j] = Σ_k x[t][k]·panel[k][j] for k < depth ≤ kPanelDepth: one fused multiply-add after another in order of
  /// k, from zero, so the result is the same for every vector width.
  void (*gemm_panel)(const float* x, size_t x_stride, size_t tokens, const float* panel, size_t depth, float* out);
  /// The same into rows `out_stride` apart, from a panel whose rows are `panel_stride` apart: out = Σ where `first`,
  /// else out + Σ; with `scales` [32], scale·Σ and fma(Σ, scale, out).
  void (*gemm_panel_add)(const float* x, size_t x_stride, size_t tokens, const float* panel, size_t panel_stride,
                         size_t depth, const float* scales, bool first, float* out, size_t out_stride);
  /// out[t][64] = Σ over chunks (ChunkLayout, of kPanelDepth) of scale·Σ_k x[t][k]·values[code], for 4-bit codes
  /// without zero points: what decode_codes and gemm_panel_add give, bit for bit, in one pass over the codes per few
  /// tokens.
  void (*gemv_codes)(const InterleavedPanel& panel, const float* x, size_t x_stride, size_t tokens, float* out);
  /// Up to so many tokens gemv_codes is faster than decoding panels for gemm_panel; measured.
  size_t few_tokens;
  /// Columns [first, last), at most kPanelDepth and whole steps, as two panels [kPanelDepth][32], one after the other;
  /// unless `scaled`, the values alone, for codes of up to 4 bits without zero points.
  void (*decode_codes)(const InterleavedPanel& panel, size_t first, size_t last, bool scaled, float* panels);
  /// out[t][64] = Σ over groups of (scale·scale of x)·(exact integer sum of (code − zero_point)·x), and after each
  /// group's + (offset·scale of x)·(exact sum of x), by fused multiply-add. Groups of at most 65536 columns, 1024 with
  /// offsets.
  void (*gemm_int8)(const InterleavedPanel& panel, const Int8Tokens& x, size_t tokens, float* out);
  /// Bytes a column that encode_fixed writes, below 8 bits and for them. How they lie is the table's own affair.
  size_t fixed_bytes, fixed_bytes_of_8_bits;
  /// One token to fixed point: x [layout.depth], `layout` with the panel's sizes and fixed_chunk.
  void (*encode_fixed)(const float* x, const ChunkLayout& layout, void* digits, int32_t* sums, float* totals,
                       float* scales);
  /// out[t][64] = Σ over chunks, by fused multiply-add in their order, of RN(Σ (code − zero_point)·q)·(scale·2^−k), and
  /// after each chunk's + RN(Σ q)·(offset·2^−k).
  void (*gemm_fixed)(const InterleavedPanel& panel, const FixedTokens& x, size_t tokens, float* out);
  /// adam_update (train/adam8.h) of n elements.
  void (*adam)(const OptimizerFactors& step, const float* gradients, size_t n, float* m, float* v, float* parameters);
  /// lion_update (train/lion8.h) of n elements.
  void (*lion)(const OptimizerFactors& step, const float* gradients, size_t n, float* m, float* parameters);
  /// n elements of a row, from its first; out may be x.
  void (*dropout)(const DropoutRow& row, const float* x, size_t n, float* out);
  /// out[i] = exponential(fma(x[i], factor, offset)) (core/exponential.h); returns their sum: kSumLanes sums, which are
  /// then added from the first to the last. out may be x.
  float (*exp_sum)(const float* x, size_t n, float factor, float offset, float* out);
  /// out[c·out_stride + r] = x[r·x_stride + c] for r < rows and c < cols.
  void (*transpose)(const float* x, size_t x_stride, size_t rows, size_t cols, float* out, size_t out_stride);
  /// kInterleaveRows rows of codes, a byte each, into the words of a panel (InterleavedPanel) that begin at the first
  /// row's: `columns` of each, whole steps; codes of 2 … 8 bits, below 2^code_bits. Rows lie `stride` bytes apart,
  /// which is at least `columns` rounded up to kInterleaveColumns; what lies past them is read.
  void (*interleave)(const uint8_t* codes, size_t stride, size_t columns, int32_t code_bits, uint32_t* words);
  /// adam8_block (train/adam8.h) of n elements, block after block: m by a signed map, v by an unsigned one.
  void (*adam8)(const OptimizerFactors& step, const float* gradients, size_t n, const CodedMoment& m,
                const CodedMoment& v, float* parameters);
  /// lion8_block (train/lion8.h) of n elements, block after block.
  void (*lion8)(const OptimizerFactors& step, const float* gradients, size_t n, const CodedMoment& m,
                float* parameters);
};

// Which tables there are: in the compiled library all that the architecture can have.
#if !defined(NIBBLE_HEADER_ONLY)
extern const KernelTable scalar_kernels;
#if defined(__x86_64__)
#define NIBBLE_ISA_AVX2
#define NIBBLE_ISA_AVXVNNI
#define NIBBLE_ISA_AVX512
#define NIBBLE_ISA_AVX512VNNI
#define NIBBLE_ISA_AVX512AMX
extern const KernelTable avx2_kernels;        ///< AVX2, FMA, F16C
extern const KernelTable avxvnni_kernels;     ///< and AVX-VNNI
extern const KernelTable avx512_kernels;      ///< AVX-512 F, BW, DQ, VL
extern const KernelTable avx512vnni_kernels;  ///< and AVX-512 VNNI
extern const KernelTable avx512amx_kernels;   ///< and AMX tiles of 8-bit integers
#elif defined(__aarch64__)
#define NIBBLE_ISA_NEON
#define NIBBLE_ISA_NEONDOT
extern const KernelTable neon_kernels;     ///< every AArch64
extern const KernelTable neondot_kernels;  ///< and the dot product of ARMv8.2
#endif
#endif

}  // namespace nibble::inline NIBBLE_ABI::kernels

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/backend/impl/cpu/units.h"
#endif
