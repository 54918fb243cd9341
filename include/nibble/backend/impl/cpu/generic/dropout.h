// The mask of dropout (train/dropout.h): Philox of sixteen places side by side, in loops that compilers turn into vectors.

NIBBLE_KERNEL void dropout(const DropoutRow& row, const float* x, size_t n, float* out) {
  constexpr size_t kPlaces = 16, kElements = 4 * kPlaces;
  for (size_t first = 0; first < n; first += kElements) {
    uint32_t a[kPlaces], b[kPlaces], c[kPlaces], d[kPlaces];
    for (size_t j = 0; j < kPlaces; ++j) {
      a[j] = static_cast<uint32_t>(first / 4 + j);
      b[j] = row.row;
      c[j] = row.stream[0];
      d[j] = row.stream[1];
    }
    uint32_t key0 = row.key[0], key1 = row.key[1];
    for (int round = 0; round < 10; ++round) {
      for (size_t j = 0; j < kPlaces; ++j) {
        const uint64_t low = uint64_t{0xD2511F53} * a[j], high = uint64_t{0xCD9E8D57} * c[j];
        a[j] = static_cast<uint32_t>(high >> 32) ^ b[j] ^ key0;
        b[j] = static_cast<uint32_t>(high);
        c[j] = static_cast<uint32_t>(low >> 32) ^ d[j] ^ key1;
        d[j] = static_cast<uint32_t>(low);
      }
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    float factors[kElements];
    for (size_t j = 0; j < kPlaces; ++j) {
      factors[4 * j] = a[j] < row.dropped ? 0.0f : row.grown;
      factors[4 * j + 1] = b[j] < row.dropped ? 0.0f : row.grown;
      factors[4 * j + 2] = c[j] < row.dropped ? 0.0f : row.grown;
      factors[4 * j + 3] = d[j] < row.dropped ? 0.0f : row.grown;
    }
    const size_t count = n - first < kElements ? n - first : kElements;
    // Not by multiplication alone: 0 times what is no number is none either.
    for (size_t i = 0; i < count; ++i) out[first + i] = factors[i] == 0 ? 0.0f : x[first + i] * factors[i];
  }
}
