// The headers alone: compiled without exceptions and run-time types, linked with nothing of nibble's. Prints what
// headers_reference.cpp prints by the compiled library, and checks a scheme of its own.
#include <nibble/nibble.h>

#include <cstdlib>

#include "headers_data.h"

namespace {

using namespace headers_data;

void check(const nibble::RowsResult& r, const char* name) {
  if (r) return;
  std::printf("%s: %s (%zu, %zu)\n", name, r.why, r.row, r.col);
  std::exit(1);
}

std::int32_t zero_point(nibble::AffineParams p) { return p.zero_point; }
std::int32_t zero_point(nibble::CodebookParams) { return 0; }
std::int32_t zero_point(nibble::LlmInt8::Params) { return nibble::LlmInt8::zero_point; }
float scale(nibble::AffineParams p) { return p.scale; }
float scale(nibble::CodebookParams p) { return p.absmax; }
float scale(nibble::LlmInt8::Params p) { return p.absmax; }

template <nibble::Scheme S>
void run(const char* name, nibble::Grouping groups, nibble::ScaleType type = nibble::ScaleType::f32,
         bool double_quant = false) {
  const std::vector<float> x = values(kRows * kCols);
  std::vector<std::uint8_t> codes(kRows * nibble::packed_bytes(kCols, S::bits), 0xff);
  std::vector<typename S::Params> params(groups.count(kRows, kCols));
  check(nibble::quantize_rows<S>(nibble::MatrixView<const float>(x.data(), kRows, kCols), groups, codes, params, type),
        name);
  if constexpr (requires { params[0].absmax; }) {
    if (double_quant) {
      std::vector<float> absmax, nested(nibble::nested_count(params.size()));
      for (const auto& p : params) absmax.push_back(p.absmax);
      std::vector<std::uint8_t> bytes(params.size());
      const float offset = nibble::quantize_nested(absmax, bytes.data(), nested.data());
      nibble::dequantize_nested(bytes.data(), nested.data(), offset, absmax);
      for (std::size_t g = 0; g < params.size(); ++g) params[g].absmax = absmax[g];
    }
  }
  std::vector<float> decoded(x.size());
  check(nibble::dequantize_rows<S>(codes, params, groups, nibble::MatrixView<float>(decoded.data(), kRows, kCols)),
        name);
  Hash hash;
  hash.add(codes.data(), codes.size());
  for (const auto& p : params) {
    hash.add(scale(p));
    hash.add(zero_point(p));
  }
  hash.add(decoded.data(), decoded.size() * sizeof(float));
  hash.print(name);
}

template <class Block>
void decode_blocks(const char* name, std::vector<Block> blocks) {
  std::vector<float> decoded(kBlockRows * kBlockCols);
  const nibble::MatrixView<float> out(decoded.data(), kBlockRows, kBlockCols);
  check(nibble::dequantize_rows(std::span<const Block>(blocks), out), name);
  Hash hash;
  hash.add(blocks.data(), blocks.size() * sizeof(Block));
  hash.add(decoded.data(), decoded.size() * sizeof(float));
  hash.print(name);
}

template <class Block>
void run_blocks(const char* name) {
  const std::vector<float> x = values(kBlockRows * kBlockCols);
  std::vector<Block> blocks(x.size() / Block::size);
  check(nibble::quantize_rows(nibble::MatrixView<const float>(x.data(), kBlockRows, kBlockCols), std::span(blocks)),
        name);
  decode_blocks(name, blocks);
}

template <class Block>
void read_blocks(const char* name) {
  std::vector<Block> blocks(kBlockRows * kBlockCols / Block::size);
  const auto bytes = block_bytes(blocks.size() * sizeof(Block));
  std::memcpy(blocks.data(), bytes.data(), bytes.size());
  decode_blocks(name, blocks);
}

template <int B>
void run_integers() {
  using enum nibble::Granularity;
  using enum nibble::ScaleType;
  const auto name = [](const char* rest) {
    static char text[64];
    std::snprintf(text, sizeof text, "int%d-%s", B, rest);
    return text;
  };
  constexpr bool narrow_range = true;
  run<nibble::Symmetric<B, !narrow_range>>(name("g32-sym-full"), {group, 32}, f16);
  run<nibble::Symmetric<B, narrow_range>>(name("g7-sym-restricted-bf16"), {group, 7}, bf16);
  run<nibble::Symmetric<B, !narrow_range>>(name("channel-sym-full"), {channel, 0});
  run<nibble::Asymmetric<B>>(name("g32-asym"), {group, 32}, f16);
  run<nibble::Asymmetric<B>>(name("tensor-asym"), {tensor, 0});
  run<nibble::Asymmetric<B, false>>(name("b50-asymraw-f32"), {block, 50});
}

/// Three bits of one's own, a table.
struct ternary_and_more {
  static constexpr std::array<float, 8> values() { return {-1, -0.5f, -0.25f, 0, 0.125f, 0.25f, 0.5f, 1}; }
};
/// Two bits of one's own, arithmetic: the sign, and whether the magnitude is the group's mean or twice it.
struct SignAndSize {
  struct Params {
    float mean = 0;
  };
  static constexpr int bits = 2;
  static constexpr Params fit(std::span<const float> values) {
    float sum = 0;
    for (const float v : values) sum += nibble::magnitude(v);
    return {sum / static_cast<float>(values.size())};
  }
  static constexpr std::uint8_t encode(float x, Params p) {
    return static_cast<std::uint8_t>((x < 0 ? 2 : 0) + (nibble::magnitude(x) > 1.5f * p.mean ? 1 : 0));
  }
  static constexpr float decode(std::uint8_t code, Params p) {
    return (code & 2 ? -p.mean : p.mean) * (code & 1 ? 2.0f : 1.0f);
  }
};

template <nibble::Scheme S>
void check_own(const char* name, nibble::Grouping groups) {
  const std::vector<float> x = values(kRows * kCols);
  std::vector<std::uint8_t> codes(kRows * nibble::packed_bytes(kCols, S::bits));
  std::vector<typename S::Params> params(groups.count(kRows, kCols));
  check(nibble::quantize_rows<S>(nibble::MatrixView<const float>(x.data(), kRows, kCols), groups, codes, params), name);
  std::vector<float> decoded(x.size());
  check(nibble::dequantize_rows<S>(codes, params, groups, nibble::MatrixView<float>(decoded.data(), kRows, kCols)),
        name);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto p = params[groups.of(i / kCols, i % kCols, kCols)];
    if (decoded[i] == S::decode(S::encode(x[i], p), p)) continue;
    std::printf("%s: value %zu is another one\n", name, i);
    std::exit(1);
  }
}

}  // namespace

int main() {
  using enum nibble::Granularity;
  [&]<int... B>(std::integer_sequence<int, B...>) { (run_integers<B + 2>(), ...); }
  (std::make_integer_sequence<int, 7>());
  run<nibble::Codebook<nibble::nf4>>("nf4-b64", {block, 64});
  run<nibble::Codebook<nibble::nf4>>("nf4-b64-dq", {block, 64}, nibble::ScaleType::f32, true);
  run<nibble::Codebook<nibble::fp4>>("fp4-b33", {block, 33});
  run<nibble::Codebook<nibble::fp4>>("fp4-b16-dq", {block, 16}, nibble::ScaleType::f32, true);
  run<nibble::Codebook<nibble::dynamic_map<true>>>("dynamic8-b256", {block, 256});
  run<nibble::LlmInt8>("llm-int8", {channel, 0});
  run_blocks<nibble::blocks::Q4_0>("Q4_0");
  run_blocks<nibble::blocks::Q4_1>("Q4_1");
  run_blocks<nibble::blocks::Q5_0>("Q5_0");
  run_blocks<nibble::blocks::Q5_1>("Q5_1");
  run_blocks<nibble::blocks::Q8_0>("Q8_0");
  run_blocks<nibble::blocks::One<nibble::f16>>("F16");
  run_blocks<nibble::blocks::One<nibble::bf16>>("BF16");
  read_blocks<nibble::blocks::Q2_K>("Q2_K");
  read_blocks<nibble::blocks::Q3_K>("Q3_K");
  read_blocks<nibble::blocks::Q4_K>("Q4_K");
  read_blocks<nibble::blocks::Q5_K>("Q5_K");
  read_blocks<nibble::blocks::Q6_K>("Q6_K");
  read_blocks<nibble::blocks::Q8_K>("Q8_K");
  read_blocks<nibble::blocks::IQ4_NL>("IQ4_NL");
  read_blocks<nibble::blocks::IQ4_XS>("IQ4_XS");
  read_blocks<nibble::blocks::IQ1_S>("IQ1_S");
  read_blocks<nibble::blocks::IQ1_M>("IQ1_M");
  read_blocks<nibble::blocks::IQ2_XXS>("IQ2_XXS");
  read_blocks<nibble::blocks::IQ2_XS>("IQ2_XS");
  read_blocks<nibble::blocks::IQ2_S>("IQ2_S");
  read_blocks<nibble::blocks::IQ3_XXS>("IQ3_XXS");
  read_blocks<nibble::blocks::IQ3_S>("IQ3_S");
  read_blocks<nibble::blocks::TQ1_0>("TQ1_0");
  read_blocks<nibble::blocks::TQ2_0>("TQ2_0");
  read_blocks<nibble::blocks::MXFP4>("MXFP4");
  read_blocks<nibble::blocks::NVFP4>("NVFP4");
  read_blocks<nibble::blocks::Q1_0>("Q1_0");
  read_blocks<nibble::blocks::Q2_0>("Q2_0");
  check_own<nibble::Codebook<ternary_and_more>>("a codebook of 3 bits", {block, 50});
  check_own<SignAndSize>("a scheme of 2 bits", {group, 24});
  return 0;
}
