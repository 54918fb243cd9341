#include "nibble/model/type_plan.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/json.h"
#include "core/pending.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "nibble type plan 1";

/// From the smallest choice on, those that no mix of two others beats.
std::vector<TypeChoice> lower_hull(std::vector<TypeChoice> choices) {
  std::ranges::sort(choices, [](const TypeChoice& a, const TypeChoice& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.loss < b.loss;
  });
  const auto slope = [](const TypeChoice& a, const TypeChoice& b) {
    return (a.loss - b.loss) / static_cast<double>(b.bytes - a.bytes);
  };
  std::vector<TypeChoice> hull;
  for (const TypeChoice& c : choices) {
    if (!hull.empty() && c.loss >= hull.back().loss) continue;  // larger, and no better
    while (hull.size() > 1 && slope(hull[hull.size() - 2], hull.back()) <= slope(hull.back(), c)) hull.pop_back();
    hull.push_back(c);
  }
  return hull;
}

/// From choice `to` − 1 of a tensor's hull to the next.
struct Step {
  std::size_t tensor, to;
  double gain;  ///< Of loss, for each byte.
};

void check(std::span<const TensorChoices> tensors) {
  std::map<std::string, int> names;
  for (const TensorChoices& t : tensors) {
    if (t.choices.empty() || ++names[t.tensor] > 1)
      throw Error(ErrorCode::invalid_argument,
                  "tensor '" + t.tensor + "' " + (t.choices.empty() ? "has no type to choose" : "comes twice"));
    for (const TypeChoice& c : t.choices)
      if (!std::isfinite(c.loss))
        throw Error(ErrorCode::non_finite, "tensor '" + t.tensor + "': its loss as " + std::string(name_of(c.type)) +
                                               " is " + std::to_string(c.loss));
  }
}

}  // namespace

TypePlan allot(std::span<const TensorChoices> tensors, std::size_t max_bytes) {
  check(tensors);
  std::vector<std::vector<TypeChoice>> hulls;
  std::vector<Step> steps;
  TypePlan out;
  for (const TensorChoices& t : tensors) {
    const std::vector<TypeChoice>& hull = hulls.emplace_back(lower_hull(t.choices));
    for (std::size_t i = 1; i < hull.size(); ++i)
      steps.push_back({hulls.size() - 1, i,
                       (hull[i - 1].loss - hull[i].loss) / static_cast<double>(hull[i].bytes - hull[i - 1].bytes)});
    out.bytes += hull.front().bytes;
  }
  if (out.bytes > max_bytes)
    throw Error(ErrorCode::invalid_argument, "the smallest types take " + std::to_string(out.bytes) + " bytes, and " +
                                                 std::to_string(max_bytes) + " are to hold them; ask for more");
  std::ranges::stable_sort(steps, std::greater<>(), &Step::gain);
  std::vector<std::size_t> chosen(hulls.size());
  for (const Step& s : steps) {
    const std::vector<TypeChoice>& hull = hulls[s.tensor];
    const std::size_t more = hull[s.to].bytes - hull[s.to - 1].bytes;
    if (chosen[s.tensor] != s.to - 1 || more > max_bytes - out.bytes) continue;  // nor do the tensor's later ones fit
    chosen[s.tensor] = s.to;
    out.bytes += more;
  }
  for (std::size_t i = 0; i < hulls.size(); ++i) {
    const TypeChoice& c = hulls[i][chosen[i]];
    out.types[tensors[i].tensor] = c.type;
    out.loss += c.loss;
  }
  return out;
}

void TypePlan::write(const std::filesystem::path& path) const {
  Json names = Json::object();
  for (const auto& [tensor, type] : types) names[tensor] = name_of(type);
  files::write_file(path,
                    Json{{"format", kFormat}, {"bytes", bytes}, {"loss", loss}, {"tensors", names}}.dump(1) + "\n");
}

TypePlan TypePlan::read(const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::corrupt_file, "'" + path.string() + "' is no plan of types: " + why);
  };
  const json::Document document = json::parse(files::read_text(path), path.string());
  if (!document->is_object() || document->value("format", nlohmann::json()) != kFormat)
    refuse(std::string("its \"format\" is not \"") + kFormat + "\"");
  if (!document->contains("tensors") || !document->at("tensors").is_object()) refuse("there are no \"tensors\"");
  TypePlan out;
  for (const auto& [tensor, name] : document->at("tensors").items()) {
    const auto type = name.is_string() ? parse_block_type(name.get<std::string>()) : std::nullopt;
    if (!type || !can_encode(*type))
      refuse("tensor '" + tensor + "' is to be " + name.dump() + ", which nothing writes");
    out.types[tensor] = *type;
  }
  const auto number = [&](const char* key) {
    const nlohmann::json value = document->value(key, nlohmann::json(0));
    if (!value.is_number() || !(value.get<double>() >= 0))
      refuse(std::string("its \"") + key + "\" is " + value.dump());
    return value.get<double>();
  };
  out.bytes = static_cast<std::size_t>(std::min(number("bytes"), 1e18));
  out.loss = number("loss");
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
