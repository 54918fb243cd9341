// What a program prints that has nibble compiled, and one that has it by headers alone: a line for each result, with a
// hash of all its bits. The two must print the same.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "headers_data.h"

namespace results {

/// Hashes of what they are made of, printed at their end.
class Line {
 public:
  explicit Line(std::string name) : name_(std::move(name)) {}
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;
  ~Line() { hash_.print(name_.c_str()); }
  template <class T>
  void add(const std::vector<T>& values) {
    hash_.add(values.data(), values.size() * sizeof(T));
  }
  void add(const void* data, std::size_t bytes) { hash_.add(data, bytes); }
  void add(double x) { hash_.add(&x, sizeof x); }

 private:
  std::string name_;
  headers_data::Hash hash_;
};

/// `count` numbers of a bell shape around 0, by sums of eighths of them that are exact.
inline std::vector<float> bell(std::size_t count, std::uint32_t skip) {
  headers_data::Random random;
  for (std::uint32_t i = 0; i < 97 * skip; ++i) (void)random.next();
  std::vector<float> out(count);
  for (float& x : out) {
    std::int32_t sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<std::int32_t>(random.next() >> 16) - 32768;
    x = static_cast<float>(sum) / 65536;
  }
  return out;
}

/// GPTQ and AWQ: a unit of its own, so that the program has two that include nibble.
void solve();

}  // namespace results
