#include "nibble/cuda/device.h"

#include <cstdio>

int main() {
  const std::string why = nibble::cuda::why_unavailable();
  std::printf("nibble::cuda: %s\n", why.empty() ? nibble::cuda::device_info().name.c_str() : why.c_str());
  nibble::cuda::register_backend();
  for (const nibble::Backend* b : nibble::backends())
    if (b->name() == "cuda") return b->available() == why.empty() ? 0 : 1;
  return 1;
}
