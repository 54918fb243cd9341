#include "nibble/train/dropout.h"

#include <cmath>
#include <string>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::train {

void Dropout::validate() const {
  if (!(rate >= 0 && rate < 1))
    throw Error(ErrorCode::invalid_argument,
                "dropout: the rate is " + std::to_string(rate) + "; it must be from 0 up to 1, without 1");
}

void Dropout::apply(MatrixView<const float> x, MatrixView<float> out, Executor& executor,
                    const Backend* backend) const {
  x.validate("dropout: x");
  out.validate("dropout: out");
  if (x.rows != out.rows || x.cols != out.cols)
    throw Error(ErrorCode::shape_mismatch, "dropout: x is " + std::to_string(x.rows) + " × " + std::to_string(x.cols) +
                                               " and out " + std::to_string(out.rows) + " × " +
                                               std::to_string(out.cols));
  validate();
  const kernels::DropoutRow row{
      .row = 0,
      .stream = {static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
      .key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
      .dropped = std::ldexp(rate, 24),
      .grown = 1 / (1 - rate)};
  const kernels::KernelTable& isa = kernels_of(backend);
  parallel_for(executor, x.rows, 16, [&](std::size_t begin, std::size_t end) {
    kernels::DropoutRow mask = row;
    for (std::size_t r = begin; r < end; ++r) {
      mask.row = static_cast<std::uint32_t>(first_row + r);
      isa.dropout(mask, x.row(r).data(), x.cols, out.row(r).data());
    }
  });
}

}  // namespace nibble::inline NIBBLE_ABI::train
