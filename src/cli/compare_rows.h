// What `compare` is asked, and the rows that it finds.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::cli {

struct CompareOptions {
  std::string model, text, json, plot, report, calibration, save, adapter;
  std::vector<std::string> methods, skip, only;
  std::size_t tokens = 32768, window = 512, stride = 512;
  std::size_t samples = 0;  ///< Of the calibration text; 0: what each method takes by default.
  int jobs = 0;             ///< Models gone through at once; 0: as many as memory and threads allow.
  bool lm_head = false, resume = false;

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

/// How many models can be gone through at once: no more than there are threads and models, each in the memory that the
/// model takes in fp32, with the hidden states of the calibration and the logits of a window.
int jobs_for(const CompareOptions& options);

/// Makes, evaluates and forgets each method's model, a process each, but for the rows of `found`, which an earlier run
/// left. What fails is a row that says why; after Ctrl-C the rows that are finished are returned. `on_rows` is called
/// with all that there are whenever some are finished.
CompareResult compare_methods(const CompareOptions& options, const CompareResult& found,
                              const std::function<void(const CompareResult&)>& on_rows);

/// Where what a method stores lies: a directory, or a file.
std::filesystem::path place_of(const std::filesystem::path& folder, std::string_view method);

}  // namespace nibble::cli
