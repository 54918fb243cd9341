#include "nibble/train/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::train {

namespace {

constexpr std::array<std::pair<std::string_view, Decay>, 3> kDecays{
    {{"constant", Decay::constant}, {"linear", Decay::linear}, {"cosine", Decay::cosine}}};

}  // namespace

double Schedule::factor(std::size_t step) const {
  if (step < warmup_steps) return static_cast<double>(step) / static_cast<double>(warmup_steps);
  if (decay == Decay::constant) return 1;
  const double length = static_cast<double>(std::max<std::size_t>(1, steps - std::min(steps, warmup_steps)));
  const double done = std::min(1.0, static_cast<double>(step - warmup_steps) / length);
  const double left = decay == Decay::linear ? 1 - done : (1 + std::cos(std::numbers::pi * done)) / 2;
  return left * (1 - floor) + floor;
}

void Schedule::validate() const {
  if (warmup_steps > steps)
    throw Error(ErrorCode::invalid_argument, "warmup_steps is " + std::to_string(warmup_steps) +
                                                 ", more than all steps, which are " + std::to_string(steps));
  if (!(floor >= 0 && floor <= 1))
    throw Error(ErrorCode::invalid_argument, "floor is " + std::to_string(floor) + "; it must be 0 to 1");
}

std::size_t warmup_steps_of(double share, std::size_t steps) {
  if (!(share >= 0 && share <= 1))
    throw Error(ErrorCode::invalid_argument, "the warm-up's share is " + std::to_string(share) + "; it must be 0 to 1");
  return static_cast<std::size_t>(std::ceil(share * static_cast<double>(steps)));
}

Decay parse_decay(std::string_view name) {
  std::string names;
  for (const auto& [known, decay] : kDecays) {
    if (known == name) return decay;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  throw Error(ErrorCode::invalid_argument, "there is no decay '" + std::string(name) + "'; there are " + names);
}

std::string_view name_of(Decay decay) {
  return std::ranges::find(kDecays, decay, [](const auto& known) { return known.second; })->first;
}

}  // namespace nibble::inline NIBBLE_ABI::train
