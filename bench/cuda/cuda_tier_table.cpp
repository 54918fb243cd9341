// cuda_tier_table: prints the table by which the CUDA matmul chooses its tier, by the model of tier_model.h.
//
//   cuda_tier_table > src/backend/cuda/tier_table.inc
#include <cstdio>

#include "bench/cuda/tier_model.h"

int main(int argc, char**) {
  using namespace nibble;
  if (argc > 1) {
    std::fprintf(stderr, "usage: cuda_tier_table > src/backend/cuda/tier_table.inc\n");
    return 2;
  }
  std::fputs(bench::table_text(bench::modelled_table(), bench::kModelSource).c_str(), stdout);
  return 0;
}
