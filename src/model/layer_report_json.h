// LayerReport as JSON: in a calibration's report, and with each finished block.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "nibble/model/calibrate.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Error{non_finite} names the layer and the figure that JSON has no number for.
template <class Json>
void to_json(Json& j, const LayerReport& r) {
  const std::pair<const char*, double> figures[] = {
      {"loss", r.loss}, {"rounding loss", r.rounding_loss}, {"damp", r.damp_percent}};
  for (const auto& [name, value] : figures)
    if (!std::isfinite(value))
      throw Error(ErrorCode::non_finite, "layer '" + r.layer + "': its " + name + " is " + std::to_string(value) +
                                             "; weights or inputs are too large for the squares that it sums");
  j = Json{{"layer", r.layer},       {"method", r.method},     {"loss", r.loss},   {"rounding_loss", r.rounding_loss},
           {"damp", r.damp_percent}, {"coverage", r.coverage}, {"ratio", r.ratio}, {"dead_channels", r.dead_channels},
           {"recovery", r.recovery}, {"fallback", r.fallback}};
}

template <class Json>
void from_json(const Json& j, LayerReport& r) {
  r.layer = j.at("layer");
  r.method = j.at("method");
  r.loss = j.at("loss");
  r.rounding_loss = j.at("rounding_loss");
  r.damp_percent = j.at("damp");
  r.coverage = j.at("coverage");
  r.ratio = j.at("ratio");
  r.dead_channels = j.at("dead_channels");
  r.recovery = j.at("recovery").template get<std::vector<std::string>>();
  r.fallback = j.at("fallback");
}

}  // namespace nibble::inline NIBBLE_ABI::model
