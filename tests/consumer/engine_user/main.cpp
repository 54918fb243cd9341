#include <engine.h>

#include <cstdio>

int main() {
  const float error = engine::error_of_int4();
  std::printf("the engine's error %.3f\n", static_cast<double>(error));
  return error < 2 ? 0 : 1;
}
