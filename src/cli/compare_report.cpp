#include "compare_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "commands.h"
#include "heat_map.h"
#include "plot.h"
#include "svg.h"

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

std::string number(const char* format, double value) {
  return std::isfinite(value) ? fmt::format(fmt::runtime(format), value) : std::string("—");
}

std::string change_of(const CompareRow& r, const CompareRow& reference) {
  const double change = 100 * (r.perplexity / reference.perplexity - 1);
  return r.change_error > 0 ? fmt::format("{:+.2f} ± {:.2f} %", change, 100 * r.change_error)
                            : number("{:+.2f} %", change);
}

std::string divergence_of(const CompareRow& r) {
  const double kl = std::isfinite(r.kl_mean) ? std::max(0.0, r.kl_mean) : kUnknown;
  return r.kl_error > 0 && kl >= 1e-6 ? fmt::format("{:.6f} ± {:.0f} %", kl, 100 * r.kl_error / kl)
                                      : number("{:.6f}", kl);
}

std::string title_of(const CompareOptions& o) {
  return "What each method costs: " + fs::path(o.model).filename().string();
}

constexpr const char* kStyle = R"(
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1080px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .3em .6em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { border-bottom: 2px solid #888; } th:first-child, td:first-child { text-align: left; }
td.failed { text-align: left; white-space: normal; color: #a00; }
tr:hover td { background: #f5f5f5; }
.wide { overflow-x: auto; } p.note { color: #555; font-size: 13px; white-space: pre-line; }
code { background: #f3f3f3; padding: .1em .3em; overflow-wrap: anywhere; }
)";

std::string html_table(const CompareResult& result) {
  std::string out = "<div class='wide'><table>\n<tr>";
  for (const std::string& column : comparison_columns()) out += "<th>" + svg_text(column) + "</th>";
  out += "</tr>\n";
  for (const CompareRow& r : result.rows) {
    out += "<tr>";
    if (r.failure.empty())
      for (const std::string& cell : comparison_cells(r, result.reference)) out += "<td>" + svg_text(cell) + "</td>";
    else
      out += fmt::format("<td>{}</td><td class='failed' colspan='{}'>failed: {}</td>", svg_text(r.method),
                         comparison_columns().size() - 1, svg_text(r.failure));
    out += "</tr>\n";
  }
  return out + "</table></div>\n";
}

/// As a shell takes it.
std::string quoted(const std::string& text) {
  constexpr std::string_view plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./,+:=@%";
  if (!text.empty() && text.find_first_not_of(plain) == std::string::npos) return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

std::string command_of(const CompareOptions& o) {
  std::string out =
      "nibble compare " + quoted(o.model) + " --methods " + quoted(fmt::format("{}", fmt::join(o.methods, ",")));
  out +=
      " --text " + quoted(o.text) + fmt::format(" --tokens {} --window {} --stride {}", o.tokens, o.window, o.stride);
  if (!o.calibration.empty()) out += " --calibration " + quoted(o.calibration);
  if (!o.adapter.empty()) out += " --adapter " + quoted(o.adapter);
  for (const std::string& pattern : o.skip) out += " --skip " + quoted(pattern);
  for (const std::string& pattern : o.only) out += " --only " + quoted(pattern);
  if (chosen_backend() != nullptr) out += " --backend " + std::string(chosen_backend()->name());
  return out + (o.lm_head ? " --lm-head" : "");
}

std::string html_map(const CompareResult& result) {
  std::vector<HeatRow> rows;
  for (const CompareRow& r : result.rows)
    if (!r.losses.empty()) rows.push_back({r.method, r.losses});
  if (rows.empty()) return {};
  return "<h2>What each layer loses</h2>\n<p>The part of each layer's output that goes wrong, of what it is given "
         "while the unquantized model reads the calibration text: of its weights alone, without an adapter and "
         "whatever "
         "activations are rounded to. AWQ is not shown, whose layers are scaled against "
         "each "
         "other and cannot be compared one by one.</p>\n<div class='wide'>\n" +
         heat_map_svg(rows) + "</div>\n";
}

}  // namespace

std::vector<std::string> comparison_columns() {
  return {"method",  "bits/weight", "file",          "peak memory", "perplexity",
          "vs fp32", "KL to fp32",  "prefill tok/s", "decode tok/s"};
}

std::vector<std::string> comparison_cells(const CompareRow& r, const CompareRow& reference) {
  if (!r.failure.empty()) return {r.method, "failed", "—", "—", "—", "—", "—", "—", "—"};
  return {r.method,
          number("{:.3f}", r.bits_per_weight),
          megabytes(r.file_bytes),
          megabytes(r.peak_rss_bytes),
          number("{:.4f}", r.perplexity),
          change_of(r, reference),
          divergence_of(r),
          number("{:.0f}", r.prefill),
          number("{:.0f}", r.decode)};
}

std::string comparison_legend(const CompareOptions& o, const CompareResult& result) {
  const CompareRow& reference = result.reference;
  std::string out = fmt::format(
      "bits/weight: linear layers of the blocks, scales included; embeddings, norms{} stay as they are. "
      "+a8: activations in 8 bits, too. +fold: norms folded first; +rot: and weights rotated, in a copy of fp32 whose "
      "head is a matrix of its own.\n",
      o.lm_head            ? " (and what --skip and --only leave)"
      : o.selects_layers() ? ", lm_head and what --skip and --only leave"
                           : " and lm_head");
  out += fmt::format("Perplexity over {} predicted tokens of {}, windows of {}, stride {}.\n", reference.predicted,
                     fs::path(o.text).filename().string(), o.window, o.stride);
  if (reference.perplexity_error > 0)
    out += fmt::format(
        "±: standard errors, by how much another such text would move a figure; fp32's perplexity ± {:.3f}, most of "
        "which all rows have in common.\n",
        reference.perplexity_error);
  std::size_t compared = 0;
  for (const CompareRow& r : result.rows) compared = std::max(compared, r.kl_predictions);
  if (compared != 0 && compared < reference.predicted)
    out +=
        fmt::format("KL over the first {} of them: fp32's probabilities of more would take too much room.\n", compared);
  return out;
}

std::string comparison_chart(const CompareOptions& o, const std::vector<CompareRow>& rows) {
  std::vector<PlotPoint> points;
  for (const CompareRow& r : rows)
    if (r.failure.empty()) points.push_back({r.method, static_cast<double>(r.file_bytes) / 1e6, r.perplexity});
  return plot_svg(points, title_of(o));
}

std::string comparison_report(const CompareOptions& o, const CompareResult& result) {
  std::string out = "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n<title>" +
                    svg_text(title_of(o)) + "</title>\n<style>" + kStyle + "</style>\n</head>\n<body>\n<h1>" +
                    svg_text(title_of(o)) + "</h1>\n";
  if (result.interrupted) out += "<p>Interrupted: these rows were finished.</p>\n";
  if (!result.reference.failure.empty())
    out += "<p>fp32 failed, so nothing is compared with it: " + svg_text(result.reference.failure) + "</p>\n";
  out += html_table(result) + "<p class='note'>" + svg_text(comparison_legend(o, result)) + "</p>\n";
  out += "<h2>Perplexity against size</h2>\n<div class='wide'>\n" + comparison_chart(o, result.rows) + "</div>\n";
  out += html_map(result);
  return out + "<h2>How it was made</h2>\n<p><code>" + svg_text(command_of(o)) + "</code></p>\n</body>\n</html>\n";
}

}  // namespace nibble::cli
