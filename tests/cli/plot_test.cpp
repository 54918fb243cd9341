#include "cli/plot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <regex>

namespace nibble::cli {
namespace {

/// The table of the README: clusters, equal points, one far off.
const std::vector<PlotPoint> kMany{{"fp32", 19.42, 3.0788},          {"bf16", 9.71, 3.0788},
                                   {"fp16", 9.71, 3.0788},           {"int8", 5.07, 3.0790},
                                   {"int8+a8", 5.07, 3.0791},        {"llm-int8", 5.07, 3.0790},
                                   {"int4-g128-sym", 2.72, 3.1056},  {"int4-g64-sym", 2.79, 3.0920},
                                   {"int4-g32-sym", 2.94, 3.0892},   {"int4-g32-sym+a8", 2.94, 3.0899},
                                   {"int4-g128-asym", 2.74, 3.0912}, {"int4-g64-asym", 2.83, 3.0901},
                                   {"int4-g32-asym", 3.02, 3.0861},  {"nf4", 2.95, 3.0882},
                                   {"nf4-dq", 2.79, 3.0882},         {"fp4", 2.95, 3.0907},
                                   {"gptq-4-g128", 2.79, 3.0789},    {"gptq-4-g128-act", 2.79, 3.0846},
                                   {"awq-4-g128", 2.74, 3.0867},     {"int3-g128-asym", 2.14, 3.1290},
                                   {"gptq-3-g128", 2.20, 3.0988},    {"awq-3-g128", 2.15, 3.1039},
                                   {"int2-g32-asym", 1.80, 3.3926},  {"gptq-2-g32", 1.85, 3.1816}};

struct Label {
  double x, y, width;
  std::string text;
};

/// Texts in a family's colour: the methods' labels.
std::vector<Label> labels(const std::string& svg) {
  static const std::regex label(
      "<text x='([0-9.]+)' y='([0-9.]+)' fill='#[0-9a-f]{6}'(?: font-weight='bold')?>([^<]+)<");
  std::vector<Label> out;
  for (std::sregex_iterator it(svg.begin(), svg.end(), label), end; it != end; ++it)
    out.push_back({std::stod((*it)[1]), std::stod((*it)[2]), 6 * static_cast<double>((*it)[3].length()), (*it)[3]});
  return out;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(Plot, LabelsOverlapNeitherEachOtherNorTheEdge) {
  for (const std::size_t n : {std::size_t{5}, kMany.size()}) {
    const auto shown = labels(plot_svg({kMany.begin(), kMany.begin() + static_cast<std::ptrdiff_t>(n)}, "t"));
    EXPECT_GE(shown.size(), n * 3 / 4);  // where it is crowded some have no room
    for (std::size_t i = 0; i < shown.size(); ++i) {
      const Label& a = shown[i];
      EXPECT_GT(a.x, 100) << a.text;
      EXPECT_LT(a.x + a.width, 930) << a.text;
      for (std::size_t j = 0; j < i; ++j) {
        const Label& b = shown[j];
        EXPECT_FALSE(std::abs(a.y - b.y) < 12 && a.x < b.x + b.width && b.x < a.x + a.width)
            << a.text << ", " << b.text;
      }
    }
  }
}

TEST(Plot, EveryMethodHasAMarkThatSaysItsNumbers) {
  const std::string svg = plot_svg(kMany, "Sense & <Sensibility>");
  for (const PlotPoint& p : kMany) EXPECT_EQ(count(svg, "<title>" + p.label + ": "), 1u) << p.label;
  EXPECT_NE(svg.find("Sense &amp; &lt;Sensibility&gt;"), std::string::npos);
  for (const char* family : {">GPTQ<", ">AWQ<", ">floating point<", ">integers, rounded<"})
    EXPECT_EQ(count(svg, family), 1u) << family;
}

// Smaller, equal steps of the size's logarithm are equal steps on the page.
TEST(Plot, TheSizeAxisIsLogarithmic) {
  const std::string svg = plot_svg({{"a", 1, 3}, {"b", 10, 3}, {"c", 100, 3}}, "t");
  const std::regex mark("<circle cx='([0-9.]+)' cy='[0-9.]+' r='5.4' fill='#0072b2' [^>]*><title>");
  std::vector<double> x;
  for (std::sregex_iterator it(svg.begin(), svg.end(), mark), end; it != end; ++it) x.push_back(std::stod((*it)[1]));
  ASSERT_EQ(x.size(), 3u);
  std::sort(x.begin(), x.end());
  EXPECT_NEAR(x[1] - x[0], x[2] - x[1], 0.2);
}

TEST(Plot, TheLineRunsThroughWhatNothingBeats) {
  const auto line = [](const std::vector<PlotPoint>& points) {
    const std::string svg = plot_svg(points, "t");
    const std::size_t at = svg.find("<polyline points='") + 18;
    return count(svg.substr(at, svg.find('\'', at) - at), ",");
  };
  EXPECT_EQ(line({{"a", 1, 5}, {"b", 2, 4}, {"c", 3, 4.5}, {"d", 4, 3}, {"e", 4, 3.5}}), 3u);
  EXPECT_EQ(line({{"a", 1, 3}, {"b", 2, 3}, {"c", 3, 3}}), 1u);
}

TEST(Plot, WhatIsNoNumberIsLeftOutAndWhatIsFarOffStandsAtTheEdge) {
  const std::string svg = plot_svg({{"good", 2, 3}, {"nan", 2, NAN}, {"none", 0, 3}, {"far", 1, 9000}}, "t");
  EXPECT_EQ(svg.find("<title>nan"), std::string::npos);
  EXPECT_EQ(svg.find("<title>none"), std::string::npos);
  EXPECT_NE(svg.find("far ↑ 9e+03"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  EXPECT_NE(plot_svg({}, "t").find("no method gave a perplexity"), std::string::npos);
  EXPECT_EQ(plot_svg({{"one", 2, 3}}, "t").find("nan"), std::string::npos);
}

}  // namespace
}  // namespace nibble::cli
