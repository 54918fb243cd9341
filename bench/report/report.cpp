// Reads the JSON that Google Benchmark writes: prints one table, draws the roofline, and checks the ratios that must
// hold on any machine.
//
//   bench_table RESULTS.json [--plot roofline.svg] [--gate]
//
// Repetitions of a case become their median. With --gate the exit status is 1 when a ratio falls short; every ratio is
// between two figures of the same process, never a time alone.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

namespace {

struct Case {
  std::string name, limit;
  double milliseconds = 0, gflops = 0, gbps = 0, of_limit = 0, over_fp16 = 0;
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

std::vector<Case> read_cases(const nlohmann::json& document) {
  std::vector<std::string> order;
  std::map<std::string, std::vector<nlohmann::json>> runs;
  for (const auto& b : document.at("benchmarks")) {
    if (b.value("run_type", "") != "iteration" || b.value("error_occurred", false)) continue;
    std::string name = b.at("run_name");
    for (const std::string_view clock : {"/real_time", "/manual_time"})
      if (name.ends_with(clock)) name.resize(name.size() - clock.size());
    if (!runs.contains(name)) order.push_back(name);
    runs[name].push_back(b);
  }
  std::vector<Case> cases;
  for (const auto& name : order) {
    const auto of = [&](const char* key) {
      std::vector<double> values;
      for (const auto& run : runs[name]) values.push_back(run.value(key, 0.0));
      return median(values);
    };
    const double unit = runs[name][0].value("time_unit", "ms") == "us" ? 1e-3 : 1;
    cases.push_back({name, runs[name][0].value("label", ""), of("real_time") * unit, of("gflops"), of("gbps"),
                     of("of_limit"), of("over_fp16")});
  }
  return cases;
}

void print_table(const std::vector<Case>& cases) {
  fmt::print("{:<58}{:>10}{:>10}{:>9}{:>10}  {}\n", "case", "ms", "GOP/s", "GB/s", "of limit", "which");
  for (const Case& c : cases)
    fmt::print("{:<58}{:>10.4g}{:>10.1f}{:>9.2f}{:>9.0f}%  {}{}\n", c.name, c.milliseconds, c.gflops, c.gbps,
               100 * c.of_limit, c.limit.starts_with("limit: ") ? c.limit.substr(7) : c.limit,
               c.over_fp16 > 0 ? fmt::format(", {:.2f} times cuBLAS fp16", c.over_fp16) : "");
}

/// Logarithmic axes: operations per byte of weights against operations per second.
class Roofline {
 public:
  Roofline(double bytes_per_second, double fma, double vnni) : bandwidth_(bytes_per_second), fma_(fma), vnni_(vnni) {
    text_ = fmt::format(
        R"svg(<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" font-family="sans-serif" font-size="12">
<rect width="{0}" height="{1}" fill="white"/>
<text x="{2}" y="24" font-size="16">What the kernels reach of this machine, one thread</text>
<text x="{2}" y="{3}">operations per byte of weights</text>
<text x="16" y="{4}" transform="rotate(-90 16 {4})">GOP/s</text>
)svg",
        kWidth, kHeight, kLeft, kHeight - 12, kHeight / 2 + 20);
    grid();
    roof(fma_, "FMA peak");
    if (vnni_ > 0) roof(vnni_, "VNNI peak");
  }
  void point(const Case& c) {
    if (c.gbps <= 0) return;
    const char* colour = !c.name.starts_with("matmul/")             ? "#999999"
                         : c.name.find("/i8/") != std::string::npos ? "#d95f02"
                                                                    : "#1b6ca8";
    text_ += fmt::format(
        R"(<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="{}" fill-opacity="0.7"><title>{}: {:.0f} GOP/s</title></circle>
)",
        x(c.gflops / c.gbps), y(c.gflops * 1e9), colour, c.name, c.gflops);
  }
  std::string finish() const {
    return text_ +
           fmt::format(R"(<circle cx="{0}" cy="50" r="4" fill="#1b6ca8"/><text x="{1}" y="54">fp32 activations</text>
<circle cx="{0}" cy="70" r="4" fill="#d95f02"/><text x="{1}" y="74">8-bit activations</text>
<circle cx="{0}" cy="90" r="4" fill="#999999"/><text x="{1}" y="94">for comparison: scalar, or dequantize and Eigen</text>
</svg>
)",
                       kLeft + 16, kLeft + 26);
  }

 private:
  static constexpr double kWidth = 820, kHeight = 520, kLeft = 70, kRight = 30, kTop = 40, kBottom = 50;
  static constexpr double kMinX = 1, kMaxX = 4096, kMinY = 1e9, kMaxY = 4e12;
  static double x(double intensity) {
    return kLeft + (kWidth - kLeft - kRight) * std::log(intensity / kMinX) / std::log(kMaxX / kMinX);
  }
  static double y(double rate) {
    return kHeight - kBottom - (kHeight - kTop - kBottom) * std::log(rate / kMinY) / std::log(kMaxY / kMinY);
  }
  void grid() {
    for (double i = kMinX; i <= kMaxX; i *= 4)
      text_ += fmt::format(
          R"(<line x1="{0:.1f}" y1="{1}" x2="{0:.1f}" y2="{2}" stroke="#ddd"/><text x="{0:.1f}" y="{3}" text-anchor="middle">{4}</text>
)",
          x(i), kTop, kHeight - kBottom, kHeight - kBottom + 16, i);
    for (double rate = kMinY; rate <= kMaxY; rate *= 10)
      text_ += fmt::format(
          R"(<line x1="{0}" y1="{1:.1f}" x2="{2}" y2="{1:.1f}" stroke="#ddd"/><text x="{3}" y="{4:.1f}" text-anchor="end">{5:.0f}</text>
)",
          kLeft, y(rate), kWidth - kRight, kLeft - 6, y(rate) + 4, rate / 1e9);
  }
  void roof(double peak, const char* name) {
    const double ridge = peak / bandwidth_;
    text_ += fmt::format(R"(<polyline points="{:.1f},{:.1f} {:.1f},{:.1f} {:.1f},{:.1f}" fill="none" stroke="black"/>
<text x="{:.1f}" y="{:.1f}" text-anchor="end">{}, {:.0f} GOP/s</text>
)",
                         x(kMinX), y(kMinX * bandwidth_), x(ridge), y(peak), x(kMaxX), y(peak), x(kMaxX), y(peak) - 6,
                         name, peak / 1e9);
  }

  double bandwidth_, fma_, vnni_;
  std::string text_;
};

/// A ratio that must hold: `fast` takes at most 1/`factor` of the time of `slow`.
struct Gate {
  const char *fast, *slow;
  double factor;
};
// Measured ratios are several times these: a gate is for what broke, not for what drifted.
constexpr Gate kGates[] = {
    {"matmul/int4-g128-sym/f32/4096x4096/n1/t1", "dequantize_then_eigen/int4-g128-sym/f32/4096x4096/n1/t1", 4},
    {"matmul/int4-g128-sym/f32/4096x4096/n512/t1", "dequantize_then_eigen/int4-g128-sym/f32/4096x4096/n512/t1", 0.8},
    {"matmul/int4-g128-sym/i8/4096x4096/n512/t1", "matmul/int4-g128-sym/f32/4096x4096/n512/t1", 1.1},
    {"matmul/int4-g128-sym/f32/4096x4096/n1/t1", "scalar/int4-g128-sym/f32/4096x4096/n1/t1", 3},
    {"matmul/int4-g128-sym/i8/4096x4096/n1/t1", "scalar/int4-g128-sym/i8/4096x4096/n1/t1", 3},
    {"avx2/int4-g128-sym/f32/4096x4096/n1/t1", "scalar/int4-g128-sym/f32/4096x4096/n1/t1", 3},
};
constexpr double kMinOfLimit = 0.15;

bool check_gates(const std::vector<Case>& cases) {
  const auto find = [&](const std::string& name) {
    return std::find_if(cases.begin(), cases.end(), [&](const Case& c) { return c.name == name; });
  };
  bool good = true;
  for (const Gate& g : kGates) {
    const auto fast = find(g.fast), slow = find(g.slow);
    if (fast == cases.end() || slow == cases.end()) continue;  // not run, or not on this machine
    const double ratio = slow->milliseconds / fast->milliseconds;
    const bool holds = ratio >= g.factor;
    fmt::print("{} {:.2f}x (at least {}x): {} against {}\n", holds ? "holds " : "FAILED", ratio, g.factor, g.fast,
               g.slow);
    good = good && holds;
  }
  for (const Case& c : cases)
    if (c.name.starts_with("matmul/") && c.of_limit < kMinOfLimit) {
      fmt::print("FAILED {}: {:.0f} % of its limit\n", c.name, 100 * c.of_limit);
      good = false;
    }
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("The table and the roofline of a benchmark run.");
  std::string results, plot;
  bool gate = false;
  app.add_option("results", results, "JSON of Google Benchmark (--benchmark_out)")->required();
  app.add_option("--plot", plot, "Write the roofline as SVG");
  app.add_flag("--gate", gate, "Check the ratios that must hold");
  CLI11_PARSE(app, argc, argv);
  const auto document = nlohmann::json::parse(std::ifstream(results), nullptr, false);
  if (!document.is_object()) {
    fmt::print(stderr, "'{}' is not Google Benchmark's JSON; make it with --benchmark_out={}\n", results, results);
    return 1;
  }
  const auto cases = read_cases(document);
  print_table(cases);
  if (!plot.empty()) {
    const auto& context = document.at("context");
    const auto limit = [&](const char* key) { return std::stod(context.value(key, "0")); };
    Roofline roofline(limit("streaming_read_t1"), limit("fma_peak_t1"), limit("vnni_peak_t1"));
    for (const Case& c : cases)
      if (c.name.ends_with("/t1")) roofline.point(c);
    std::ofstream(plot) << roofline.finish();
  }
  return gate && !check_gates(cases) ? 1 : 0;
}
