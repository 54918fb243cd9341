// Loading a checkpoint in one's own engine: open, quantize each linear layer as it is read, keep the packed form.
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "nibble/core/error.h"
#include "nibble/format/checkpoint.h"
#include "nibble/quantize/quantize.h"

int main(int argc, char** argv) try {
  const std::string path = argc > 1 ? argv[1] : NIBBLE_EXAMPLE_DATA "/austen-5m";
  const auto checkpoint = nibble::Checkpoint::open(path);  // mapped, not read
  std::map<std::string, nibble::PackedMatrixPtr> layers;
  std::size_t before = 0, after = 0;
  for (const auto& tensor : checkpoint.tensors()) {
    if (!tensor.name.ends_with("_proj.weight")) continue;
    const auto q = nibble::quantize(checkpoint.matrix(tensor.name), "nf4-b64-dq", {.name = tensor.name});
    layers[tensor.name] = nibble::default_backend().pack(q);
    checkpoint.release(tensor.name);  // the mapped pages may leave memory
    before += tensor.bytes;
    after += q.storage_bytes();
  }
  if (layers.empty()) return 1;
  const auto& [name, weight] = *layers.begin();
  std::vector<float> x(weight->cols(), 1.0f), y(weight->rows());
  nibble::matmul(nibble::MatrixView<const float>(x.data(), 1, x.size()), *weight,
                 nibble::MatrixView<float>(y.data(), 1, y.size()));
  std::printf("%zu layers, %zu bytes instead of %zu; %s gives y[0] = %f\n", layers.size(), after, before, name.c_str(),
              static_cast<double>(y[0]));
  return after < before / 3 ? 0 : 1;
} catch (const nibble::Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 2;
}
