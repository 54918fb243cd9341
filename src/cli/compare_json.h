// The rows of `compare` as JSON: for other programs, and for a run that goes on with them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "compare_rows.h"

namespace nibble::cli {

/// What all rows depend on, by name. Two runs whose settings are alike give the same rows, but for the speed.
using CompareSettings = std::vector<std::pair<std::string, std::string>>;

/// Reads the model's configuration and the ends of its tensors, and the texts. The methods are not among them: a later
/// run may ask for others.
CompareSettings compare_settings(const CompareOptions& options);

/// `finished`: no method that was asked for is left out.
void save_rows(const std::string& path, const CompareSettings& settings, const CompareResult& result, bool finished);

/// The rows of a file that save_rows() wrote; none if there is no such file. Error{corrupt_file} for anything else,
/// Error{invalid_argument} names the setting that differs and both its values.
CompareResult load_rows(const std::string& path, const CompareSettings& settings);

/// Error{invalid_argument} if `path` has the rows of a run that did not end, which would be lost.
void refuse_unfinished(const std::string& path);

}  // namespace nibble::cli
