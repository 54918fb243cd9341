// What `compare` prints and writes of its rows: the table's cells, the chart, the page.
#pragma once

#include <string>
#include <vector>

#include "compare_rows.h"

namespace nibble::cli {

std::vector<std::string> comparison_columns();
/// A row's cells under those columns.
std::vector<std::string> comparison_cells(const CompareRow& row, const CompareRow& reference);
/// What stands below the table, a line a fact.
std::string comparison_legend(const CompareOptions& options, const CompareResult& result);
/// The SVG of --plot.
std::string comparison_chart(const CompareOptions& options, const std::vector<CompareRow>& rows);
/// The HTML of --report: one page that needs no other file and no network.
std::string comparison_report(const CompareOptions& options, const CompareResult& result);

}  // namespace nibble::cli
