// cuda_tier_table: prints the table by which the CUDA matmul chooses its tier.
//
//   cuda_tier_table > src/backend/cuda/tier_table.inc              by the model (tier_model.h)
//   cuda_tier_table --measure > src/backend/cuda/tier_table.inc    this device's rows measured, the others by the model
#include <cstdio>
#include <cstring>
#include <exception>

#include "bench/cuda/tier_measure.h"
#include "bench/cuda/tier_model.h"

int main(int argc, char** argv) {
  using namespace nibble;
  const bool measure = argc == 2 && std::strcmp(argv[1], "--measure") == 0;
  if (argc > 1 && !measure) {
    std::fprintf(stderr, "usage: cuda_tier_table [--measure]\n");
    return 2;
  }
  try {
    auto rows = bench::modelled_table();
    std::string source = bench::kModelSource;
    if (measure) source = bench::measure_rows(rows);
    std::fputs(bench::table_text(rows, source).c_str(), stdout);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "cuda_tier_table: %s\n", e.what());
    return 1;
  }
}
