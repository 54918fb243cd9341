#include <cstdio>

#include "nibble/engine/model.h"

int main() {
  nibble::model::Config config;
  config.layers = 2, config.kv_heads = 2, config.head_dim = 8;
  const nibble::engine::KvCache cache(config, 16);
  std::printf("the reference engine: room for %zu tokens\n", cache.capacity());
  return cache.capacity() == 16 ? 0 : 1;
}
