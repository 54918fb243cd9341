#include "nibble/train/dropout.h"

#include <cmath>
#include <string>

#include "nibble/core/error.h"
#include "nibble/core/philox.h"

namespace nibble::inline NIBBLE_ABI::train {

void Dropout::validate() const {
  if (!(rate >= 0 && rate < 1))
    throw Error(ErrorCode::invalid_argument,
                "dropout: the rate is " + std::to_string(rate) + "; it must be from 0 up to 1, without 1");
}

void Dropout::apply(MatrixView<const float> x, MatrixView<float> out, Executor& executor) const {
  x.validate("dropout: x");
  out.validate("dropout: out");
  if (x.rows != out.rows || x.cols != out.cols)
    throw Error(ErrorCode::shape_mismatch, "dropout: x is " + std::to_string(x.rows) + " × " + std::to_string(x.cols) +
                                               " and out " + std::to_string(out.rows) + " × " +
                                               std::to_string(out.cols));
  validate();
  const auto dropped = static_cast<std::uint64_t>(std::ldexp(static_cast<double>(rate), 32));
  const float grown = 1 / (1 - rate);
  const std::array<std::uint32_t, 2> key{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  parallel_for(executor, x.rows, 16, [&](std::size_t begin, std::size_t end) {
    for (std::size_t r = begin; r < end; ++r)
      for (std::size_t c = 0; c < x.cols; c += 4) {
        const std::array<std::uint32_t, 4> bits =
            philox({static_cast<std::uint32_t>(c / 4), static_cast<std::uint32_t>(r),
                    static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                   key);
        for (std::size_t i = 0; i < 4 && c + i < x.cols; ++i)
          out(r, c + i) = bits[i] < dropped ? 0.0f : x(r, c + i) * grown;
      }
  });
}

}  // namespace nibble::inline NIBBLE_ABI::train
