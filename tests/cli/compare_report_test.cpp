#include "cli/compare_report.h"

#include <gtest/gtest.h>

#include <string>

#include "cli/heat_map.h"

namespace nibble::cli {
namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

std::vector<LayerLoss> losses(double of_first) {
  std::vector<LayerLoss> out;
  for (int block = 0; block < 3; ++block)
    for (const char* kind : {"self_attn.q_proj", "mlp.down_proj"}) {
      out.push_back({"model.layers." + std::to_string(block) + "." + kind, of_first});
      of_first *= 1.5;
    }
  return out;
}

TEST(HeatMap, HasACellForEachLayerOfEachMethod) {
  const std::string svg = heat_map_svg({{"int4", losses(0.01)}, {"int3", losses(0.05)}});
  EXPECT_EQ(count(svg, "<title>"), 12u);
  EXPECT_NE(svg.find("int4, model.layers.0.self_attn.q_proj: 1 %"), std::string::npos) << svg;
  EXPECT_EQ(count(svg, ">q_proj<"), 1u) << "layers of a kind stand side by side";
  EXPECT_EQ(count(svg, ">down_proj<"), 1u);
  // The least and the largest have the ends of the scale.
  EXPECT_EQ(count(svg, "fill='#fef0d9'><title>"), 1u);
  EXPECT_EQ(count(svg, "fill='#7f0000'><title>"), 1u);
}

TEST(HeatMap, LeavesGreyWhatItDoesNotKnow) {
  auto some = losses(0.01);
  some.resize(4);
  const std::string svg =
      heat_map_svg({{"all", losses(0.01)}, {"some", some}, {"exact", {{"model.layers.0.mlp.down_proj", 0}}}});
  EXPECT_EQ(count(svg, "fill='#e8e8e8'"), 2u + 5u);
  EXPECT_NE(svg.find("exact, model.layers.0.mlp.down_proj: 0 %"), std::string::npos);
  EXPECT_EQ(heat_map_svg({}), "");
  EXPECT_EQ(heat_map_svg({{"none", {}}}), "");
}

TEST(HeatMap, OfExpertsShowsTheOneThatLosesMost) {
  const std::string svg = heat_map_svg({{"int3",
                                         {{"m.layers.0.mlp.experts.0.w1", 0.1},
                                          {"m.layers.0.mlp.experts.1.w1", 0.3},
                                          {"m.layers.0.mlp.w1", 0.2},
                                          {"m.layers.0.mlp.shared_expert.w1", 0.25}}}});
  EXPECT_EQ(count(svg, "<title>"), 3u) << "the experts, the layer of that name, and the shared one";
  EXPECT_NE(svg.find("m.layers.0.mlp.experts.1.w1: 30 %"), std::string::npos) << svg;
  EXPECT_EQ(count(heat_map_svg({{"bf16", {{"a.0.q", 0}}}}), "inf"), 0u) << "nothing is lost";
}

/// Names of models, methods and layers are a stranger's.
TEST(CompareReport, IsOnePageWhateverTheNames) {
  CompareOptions o;
  o.model = "/models/<script>alert('x')</script>";
  o.text = "text & more.txt";
  o.methods = {"fp32", "int3", "<b>"};
  o.skip = {"*mlp*"};
  o.adapter = "my adapter";
  CompareResult result;
  result.reference.method = "fp32";
  result.reference.perplexity = 10;
  result.reference.predicted = 1000;
  result.rows.push_back(result.reference);
  CompareRow row;
  row.method = "int3";
  row.perplexity = 11;
  row.file_bytes = 2'000'000;
  row.losses = {{"a.<i>.0.q_proj", 0.1}, {"a.<i>.1.q_proj", 0.2}};
  result.rows.push_back(row);
  CompareRow failed;
  failed.method = "<b>";
  failed.failure = "no such file '<x>'";
  result.rows.push_back(failed);
  const std::string page = comparison_report(o, result);
  for (const char* raw : {"<script>", "<b>", "<i>", "<x>", "text & more"}) EXPECT_EQ(count(page, raw), 0u) << raw;
  EXPECT_EQ(count(page, "<svg"), 2u);
  EXPECT_EQ(count(page, "</html>"), 1u);
  EXPECT_NE(page.find("failed: no such file"), std::string::npos);
  EXPECT_NE(page.find("+10.00 %"), std::string::npos);
  EXPECT_NE(page.find("--adapter &#39;my adapter&#39; --skip &#39;*mlp*&#39;"), std::string::npos) << page;
  // It needs nothing from elsewhere: the only address is the name of SVG.
  EXPECT_EQ(count(page, "http"), count(page, "http://www.w3.org/2000/svg"));
  EXPECT_EQ(count(page, "src="), 0u);
}

TEST(CompareReport, HasNoMapWhereNoLayerIsKnown) {
  CompareOptions o;
  o.model = "m";
  CompareResult result;
  result.rows.resize(1);
  result.rows[0].perplexity = result.reference.perplexity = 3;
  EXPECT_EQ(count(comparison_report(o, result), "What each layer loses"), 0u);
}

}  // namespace
}  // namespace nibble::cli
