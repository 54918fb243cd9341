#include "compare_json.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "core/files.h"
#include "core/json.h"
#include "model/calibrate_plan.h"
#include "model/fingerprint.h"
#include "model/gguf_checkpoint.h"
#include "nibble/core/error.h"
#include "nibble/core/parallel.h"

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

/// Each figure of a row, under its name.
struct Figure {
  const char* key;
  double CompareRow::*value;
};
constexpr Figure kFigures[] = {{"bits_per_weight", &CompareRow::bits_per_weight},
                               {"perplexity", &CompareRow::perplexity},
                               {"perplexity_error", &CompareRow::perplexity_error},
                               {"perplexity_change_error", &CompareRow::change_error},
                               {"kl_mean", &CompareRow::kl_mean},
                               {"kl_error", &CompareRow::kl_error},
                               {"prefill_tokens_per_s", &CompareRow::prefill},
                               {"decode_tokens_per_s", &CompareRow::decode}};
struct Count {
  const char* key;
  std::size_t CompareRow::*value;
};
constexpr Count kCounts[] = {{"file_bytes", &CompareRow::file_bytes},
                             {"peak_rss_bytes", &CompareRow::peak_rss_bytes},
                             {"predicted_tokens", &CompareRow::predicted},
                             {"kl_predictions", &CompareRow::kl_predictions}};

Json to_json(const CompareRow& r) {
  if (!r.failure.empty()) return {{"method", r.method}, {"error", r.failure}};
  Json out{{"method", r.method}};
  for (const Figure& f : kFigures) out[f.key] = number(r.*f.value);
  for (const Count& c : kCounts) out[c.key] = r.*c.value;
  if (!r.losses.empty()) {
    Json& layers = out["layer_losses"] = Json::object();
    for (const LayerLoss& l : r.losses) layers[l.layer] = number(l.loss);
  }
  return out;
}

/// Throws what nlohmann's library does for values of other types.
CompareRow from_json(const Json& j) {
  CompareRow out;
  out.method = j.at("method").get<std::string>();
  if (j.contains("error")) {
    out.failure = j.at("error").get<std::string>();
    return out;
  }
  const auto value = [](const Json& v) { return v.is_null() ? kUnknown : v.get<double>(); };
  for (const Figure& f : kFigures) out.*f.value = value(j.at(f.key));
  for (const Count& c : kCounts) out.*c.value = j.at(c.key).get<std::size_t>();
  if (j.contains("layer_losses"))
    for (const auto& [layer, loss] : j.at("layer_losses").items()) out.losses.push_back({layer, value(loss)});
  return out;
}

/// The bytes of a file, or of a folder's files in the order of their names.
std::string hash_of(const fs::path& path) {
  model::Hash hash;
  std::vector<fs::path> parts{path};
  if (files::is_directory(path)) {
    parts = files::list_folder(path);
    std::sort(parts.begin(), parts.end());
  }
  for (const fs::path& part : parts)
    if (files::is_regular_file(part)) hash.add(*files::map_file(part));
  return hash.text();
}

std::string joined(const std::vector<std::string>& patterns) { return fmt::format("{}", fmt::join(patterns, " ")); }

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error(ErrorCode::corrupt_file, "'" + path + "' holds no rows of `nibble compare --json` (" + why +
                                           "); remove it, or leave --resume out to replace it");
}

json::OrderedDocument read(const std::string& path) {
  json::OrderedDocument document = json::parse_ordered(files::read_text(path), path);
  if (!document->is_object()) refuse(path, "it is no object");
  return document;
}

}  // namespace

CompareSettings compare_settings(const CompareOptions& o) {
  const fs::path calibration = o.calibration.empty() ? example_data() / "calibration.txt" : fs::path(o.calibration);
  const Backend& backend = chosen_backend() != nullptr ? *chosen_backend() : default_backend();
  return {{"version", NIBBLE_VERSION},
          {"model", model::fingerprint(o.model, model::open_checkpoint(o.model, model::GgufView::decoded))},
          {"adapter", o.adapter.empty() ? "" : hash_of(o.adapter)},
          {"text", hash_of(o.text)},
          {"tokens", std::to_string(o.tokens)},
          {"window", std::to_string(o.window)},
          {"stride", std::to_string(o.stride)},
          {"calibration", files::is_regular_file(calibration) ? hash_of(calibration) : ""},
          {"samples", o.samples == 0 ? "default" : std::to_string(o.samples)},
          {"skip", joined(o.skip)},
          {"only", joined(o.only)},
          {"lm_head", o.lm_head ? "true" : "false"},
          {"report", o.report.empty() ? "false" : "true"},
          {"backend", std::string(backend.name())},
          {"threads", std::to_string(default_executor().concurrency())}};
}

void save_rows(const std::string& path, const CompareSettings& settings, const CompareResult& result, bool finished) {
  json::OrderedDocument out(Json{{"finished", finished}, {"settings", Json::object()}, {"rows", Json::array()}});
  for (const auto& [key, value] : settings) (*out)["settings"][key] = value;
  if (!result.reference.method.empty()) (*out)["reference"] = to_json(result.reference);
  for (const CompareRow& r : result.rows) (*out)["rows"].push_back(to_json(r));
  // What a failure says may quote a file's bytes, which need not be UTF-8.
  save_text(path, out->dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

CompareResult load_rows(const std::string& path, const CompareSettings& settings) {
  CompareResult out;
  if (!files::exists(path)) return out;
  const json::OrderedDocument document = read(path);
  try {
    const Json& theirs = document->at("settings");
    for (const auto& [key, value] : settings) {
      const std::string had = theirs.at(key).get<std::string>();
      if (had != value && !(key == "report" && had == "true"))  // a map of layers more does no harm
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("'{}' was made with other settings: {} was {} and is {}; leave --resume out to measure "
                                "all again",
                                path, key, had, value));
    }
    if (document->contains("reference")) out.reference = from_json(document->at("reference"));
    for (const Json& row : document->at("rows")) out.rows.push_back(from_json(row));
  } catch (const nlohmann::json::exception& e) {
    refuse(path, e.what());
  }
  return out;
}

void refuse_unfinished(const std::string& path) {
  if (!files::is_regular_file(path)) return;
  std::size_t rows = 0;
  try {
    const json::OrderedDocument document = read(path);
    if (document->value("finished", true)) return;
    rows = document->value("rows", Json::array()).size();
  } catch (const std::exception&) {
    return;  // not ours: an output that is replaced, as every command does
  }
  if (rows > 0)
    throw Error(ErrorCode::invalid_argument,
                fmt::format("'{}' holds {} rows of a run that did not end: --resume goes on with it; to start again, "
                            "remove it",
                            path, rows));
}

}  // namespace nibble::cli
