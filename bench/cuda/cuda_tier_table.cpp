// cuda_tier_table: prints the table by which the CUDA matmul chooses its tier, by the model of tier_model.h; with
// --measure, the rows of the device that is here from times on it.
//
//   cuda_tier_table [--measure] > src/backend/cuda/tier_table.inc
//
// Exit status: 0; 1 where there is nothing to measure on; 2 for other arguments.
#include <algorithm>
#include <cstdio>
#include <string_view>

#include "bench/cuda/tier_model.h"
#ifdef NIBBLE_WITH_CUDA
#include "bench/cuda/device_products.h"
#include "kernels/cuda/gemv.h"
#include "nibble/core/error.h"
#endif

namespace nibble::bench {
namespace {

#ifdef NIBBLE_WITH_CUDA

/// The median of a few runs.
double seconds(const BenchDevice& device, const Layer& layer, ModelTier tier, std::size_t tokens) {
  const Path path = tier == ModelTier::gemv          ? Path::gemv
                    : tier == ModelTier::tensor_core ? Path::tensor_core
                                                     : Path::blas;
  const Products products(device, layer, path, tokens);
  std::vector<double> runs;
  for (int i = 0; i < 9; ++i) runs.push_back(products.seconds());
  std::nth_element(runs.begin(), runs.begin() + 4, runs.end());
  return runs[4];
}

/// All that gemv takes, then the tiles of the tensor cores.
std::vector<std::size_t> measured_tokens() {
  std::vector<std::size_t> tokens;
  for (std::size_t n = 1; n <= cuda::kMaxGemvTokens; ++n) tokens.push_back(n);
  for (const std::size_t n : {16, 32, 64}) tokens.push_back(n);
  for (std::size_t n = 128; n <= kMaxTableTokens; n += 128) tokens.push_back(n);
  return tokens;
}

/// The known devices' rows, those of this one's compute capability replaced.
int print_measured() {
  const BenchDevice device;
  const cuda::DeviceInfo& info = device.context().device();
  std::vector<cuda::TierRow> rows = modelled_table();
  std::erase_if(rows, [&](const cuda::TierRow& row) { return row.compute_capability == info.compute_capability; });
  for (const auto& [family, spec] :
       {std::pair{cuda::TierFamily::affine4, "int4-g128-sym"}, std::pair{cuda::TierFamily::codebook4, "nf4-b64"}}) {
    const Layer layer(device, spec, {4096, 14336});
    const auto measured = [&](ModelTier tier, std::size_t n) { return seconds(device, layer, tier, n); };
    rows.push_back({info.compute_capability, family, find_limits(measured, measured_tokens())});
  }
  std::stable_sort(rows.begin(), rows.end(), [](const cuda::TierRow& a, const cuda::TierRow& b) {
    return a.compute_capability < b.compute_capability;
  });
  std::fputs(table_text(rows, {info.compute_capability, info.name}).c_str(), stdout);
  return 0;
}

int measure() {
  try {
    return print_measured();
  } catch (const Error& e) {
    std::fprintf(stderr, "cuda_tier_table: NOTHING WAS MEASURED: %s\n", e.what());
    return 1;
  }
}

#else

int measure() {
  std::fprintf(stderr, "cuda_tier_table: NOTHING WAS MEASURED: this build has no CUDA backend (-DNIBBLE_CUDA=ON)\n");
  return 1;
}

#endif

}  // namespace
}  // namespace nibble::bench

int main(int argc, char** argv) {
  using namespace nibble;
  if (argc == 2 && std::string_view(argv[1]) == "--measure") return bench::measure();
  if (argc > 1) {
    std::fprintf(stderr, "usage: cuda_tier_table [--measure] > src/backend/cuda/tier_table.inc\n");
    return 2;
  }
  std::fputs(bench::table_text(bench::modelled_table()).c_str(), stdout);
  return 0;
}
