// What `compare` is asked, and the rows that it finds.
#pragma once

#include <cstddef>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::cli {

struct CompareOptions {
  std::string model, text, json, plot, report, calibration, save, adapter;
  std::vector<std::string> methods, skip, only;
  std::size_t tokens = 32768, window = 512, stride = 512;
  bool lm_head = false;

  [[nodiscard]] bool selects_layers() const { return lm_head || !skip.empty() || !only.empty(); }
};

inline constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

/// How much of a layer's output a method loses.
struct LayerLoss {
  std::string layer;
  double loss = kUnknown;
};

struct CompareRow {
  std::string method;
  double bits_per_weight = kUnknown, perplexity = kUnknown, kl_mean = kUnknown, prefill = kUnknown, decode = kUnknown;
  double perplexity_error = kUnknown, change_error = kUnknown, kl_error = kUnknown;  ///< Standard errors.
  std::size_t file_bytes = 0, peak_rss_bytes = 0, predicted = 0, kl_predictions = 0;
  std::vector<LayerLoss> losses;  ///< Where a report was asked for.
  std::string failure;            ///< Not empty: there are no figures, and why.
};

struct CompareResult {
  std::vector<CompareRow> rows;
  CompareRow reference;  ///< fp32, which is always evaluated first, and shown only if asked for.
  bool interrupted = false;
};

/// Makes, evaluates and forgets each method's model, a process each. What fails is a row that says why; after Ctrl-C
/// the rows that are finished are returned.
CompareResult compare_methods(const CompareOptions& options);

/// Where what a method stores lies: a directory, or a file.
std::filesystem::path place_of(const std::filesystem::path& folder, std::string_view method);

}  // namespace nibble::cli
