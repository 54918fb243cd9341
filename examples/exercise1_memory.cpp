// Exercise 1: what 32 layers of four 4096 × 4096 attention matrices and three 4096 × 16384 FFN matrices weigh.
#include <cstdio>

int main() {
  constexpr double attention = 4.0 * 4096 * 4096, ffn = 3.0 * 4096 * 16384, mib = 1 << 20, gib = 1 << 30;
  const struct {
    const char* name;
    double bytes, expected_gib;
  } rows[] = {{"FP32", 4, 32}, {"FP16/BF16", 2, 16}, {"INT8", 1, 8}, {"INT4", 0.5, 4}};
  std::printf("%-10s %12s %14s %10s\n", "precision", "bytes/param", "attention, MiB", "FFN, MiB");
  bool right = true;
  for (const auto& r : rows) {
    const double total = 32 * (attention + ffn) * r.bytes / gib;
    std::printf("%-10s %12.1f %14.0f %10.0f   in all %5.2f GiB\n", r.name, r.bytes, attention * r.bytes / mib,
                ffn * r.bytes / mib, total);
    right = right && total == r.expected_gib;
  }
  return right ? 0 : 1;
}
