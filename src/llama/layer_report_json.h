// LayerReport as JSON: in a calibration's report, and with each finished block.
#pragma once

#include <string>
#include <vector>

#include "nibble/llama/calibrate.h"

namespace nibble::llama {

template <class Json>
void to_json(Json& j, const LayerReport& r) {
  j = Json{{"layer", r.layer},       {"method", r.method},     {"loss", r.loss},   {"rounding_loss", r.rounding_loss},
           {"damp", r.damp},         {"coverage", r.coverage}, {"ratio", r.ratio}, {"dead_channels", r.dead_channels},
           {"recovery", r.recovery}, {"fallback", r.fallback}};
}

template <class Json>
void from_json(const Json& j, LayerReport& r) {
  r.layer = j.at("layer");
  r.method = j.at("method");
  r.loss = j.at("loss");
  r.rounding_loss = j.at("rounding_loss");
  r.damp = j.at("damp");
  r.coverage = j.at("coverage");
  r.ratio = j.at("ratio");
  r.dead_channels = j.at("dead_channels");
  r.recovery = j.at("recovery").template get<std::vector<std::string>>();
  r.fallback = j.at("fallback");
}

}  // namespace nibble::llama
