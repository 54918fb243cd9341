// `compare` as a person runs it.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "nibble/format/checkpoint.h"
#include "tests/support/damaged_model.h"
#include "tests/support/run_tool.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing_support::has;
using testing_support::run;
using testing_support::TemporaryFolder;

Json read_json(const fs::path& path) { return Json::parse(std::ifstream(path)); }
std::string read_text(const fs::path& path) {
  std::stringstream out;
  out << std::ifstream(path).rdbuf();
  return out.str();
}
const std::string kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

/// The embedded model with every weight of a norm replaced by NaN.
void make_broken(const fs::path& to) {
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(kModel)) fs::copy(entry.path(), to / entry.path().filename());
  const fs::path file = to / "model.safetensors";
  std::uint64_t length = 0;
  std::ifstream in(file, std::ios::binary);
  in.read(reinterpret_cast<char*>(&length), 8);
  std::string header(length, ' ');
  in.read(header.data(), static_cast<std::streamsize>(length));
  const auto offsets = Json::parse(header)["model.norm.weight"]["data_offsets"];
  std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
  out.seekp(static_cast<std::streamoff>(8 + length + offsets[0].get<std::uint64_t>()));
  out << std::string(offsets[1].get<std::size_t>() - offsets[0].get<std::size_t>(), '\xff');  // bf16: NaN
}

TEST(Compare, WritesTheTableTheJsonAndTheChart) {
  const TemporaryFolder folder;
  const auto json = folder / "rows.json", svg = folder / "chart.svg";
  const auto outcome = run("compare --methods fp32,bf16,int8,nf4,nf4-dq,fp4 --tokens 4096 --json " + json.string() +
                           " --plot " + svg.string());
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  const auto rows = read_json(json)["rows"];
  ASSERT_EQ(rows.size(), 6u);
  const auto perplexity = [&](std::size_t i) { return rows[i]["perplexity"].get<double>(); };
  for (const auto& row : rows) {
    EXPECT_TRUE(has(outcome.text, row["method"].get<std::string>()));
    for (const char* key : {"bits_per_weight", "file_bytes", "peak_rss_bytes", "perplexity", "prefill_tokens_per_s",
                            "decode_tokens_per_s"})
      EXPECT_GT(row[key].get<double>(), 0) << key;
  }
  EXPECT_EQ(perplexity(0), perplexity(1));  // the model is stored in bf16
  EXPECT_EQ(rows[0]["kl_mean"].get<double>(), 0);
  EXPECT_NEAR(perplexity(2) / perplexity(0), 1, 0.005);
  EXPECT_LT(perplexity(3), perplexity(5));
  EXPECT_NEAR(perplexity(4) / perplexity(3), 1, 0.002);
  EXPECT_NEAR(rows[4]["bits_per_weight"].get<double>(), 4.127, 0.001);
  EXPECT_LT(rows[3]["file_bytes"].get<double>(), rows[1]["file_bytes"].get<double>() / 2);
  std::stringstream chart;
  chart << std::ifstream(svg).rdbuf();
  for (const char* part : {"<svg", "</svg>", "nf4-dq", "int8", "MB"}) EXPECT_TRUE(has(chart.str(), part)) << part;
}

TEST(Compare, SaysHowManyTokensWerePredicted) {
  const TemporaryFolder folder;
  std::ofstream(folder / "short.txt") << std::string(244, 'a');
  const auto outcome = run("compare --methods fp32 --text " + (folder / "short.txt").string());
  EXPECT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(has(outcome.text, "over 243 predicted tokens of short.txt")) << outcome.text;
}

TEST(Compare, EightBitActivationsCostLittle) {
  const TemporaryFolder folder;
  const auto json = folder / "rows.json";
  ASSERT_EQ(run("compare --methods int8,int8+a8,int4-g32-sym,int4-g32-sym+a8,nf4,nf4+a8 --tokens 4096 --json " +
                json.string())
                .status,
            0);
  const auto rows = read_json(json)["rows"];
  const auto get = [&](std::size_t i, const char* key) { return rows[i][key].get<double>(); };
  for (const std::size_t i : {0u, 2u, 4u}) {
    EXPECT_EQ(get(i, "file_bytes"), get(i + 1, "file_bytes"));
    EXPECT_NE(get(i, "perplexity"), get(i + 1, "perplexity"));
    EXPECT_NEAR(get(i + 1, "perplexity") / get(i, "perplexity"), 1, 0.005);
  }
  const auto stored = run("quantize " + kModel + " -o x --method int8+a8");
  EXPECT_EQ(stored.status, 1);
  EXPECT_TRUE(has(stored.text, "not what to store")) << stored.text;
  EXPECT_EQ(run("compare --methods dynamic8+a8").status, 1);
}

TEST(Compare, GgufFilesAreRows) {
  const TemporaryFolder folder;
  const auto calibration = (folder / "text.txt").string(), kept = (folder / "kept").string();
  std::ofstream(calibration) << std::string(600, 'a') + std::string(600, 'b');
  const auto outcome =
      run("compare --methods q4_k,q4_0-imatrix,Q3_K_M,gptq-q4_0,q8_0+a8,"
          "gguf-mxfp4,mxfp4,gptq-mxfp4,gptq-q4_0-qronos --tokens 512 --calibration " +
          calibration + " --save " + kept + " --json " + (folder / "c.json").string());
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  const auto rows = read_json(folder / "c.json")["rows"];
  ASSERT_EQ(rows.size(), 9u);
  EXPECT_NE(rows[8]["kl_mean"], rows[3]["kl_mean"]);
  EXPECT_EQ(rows[5]["bits_per_weight"].get<double>(), 4.25);
  EXPECT_EQ(rows[5]["file_bytes"].get<std::size_t>(), fs::file_size(folder / "kept" / "gguf-mxfp4.gguf"));
  EXPECT_TRUE(fs::is_directory(folder / "kept" / "mxfp4")) << "the scheme of that name";
  EXPECT_NE(rows[7]["kl_mean"], rows[5]["kl_mean"]);
  EXPECT_EQ(rows[0]["bits_per_weight"].get<double>(), 4.5);
  EXPECT_EQ(rows[0]["file_bytes"].get<std::size_t>(), fs::file_size(folder / "kept" / "q4_k.gguf"));
  EXPECT_GT(rows[2]["kl_mean"].get<double>(), rows[0]["kl_mean"].get<double>());
  EXPECT_GT(rows[4]["kl_mean"].get<double>(), 0);
  const auto refused = [&](const std::string& command, const char* says) {
    const auto r = run(command);
    EXPECT_EQ(r.status, 1) << command;
    EXPECT_TRUE(has(r.text, says)) << r.text;
  };
  refused("compare --methods q4_k --skip down_proj", "leave --skip, --only and --lm-head out");
  refused("compare --methods gptq-q4_k-imatrix", "known methods: fp32");
  refused("compare --methods q4_k-qronos", "known methods: fp32");
  refused("export-gguf " + kModel + " " + (folder / "x").string() + " --type q4_k --qronos", "go with --gptq");
  refused("quantize " + kModel + " -o " + (folder / "x").string() + " --method gptq-q4_k_m", "nibble export-gguf");
  refused("eval " + kModel + " --method q4_k_m", "make it first: nibble export-gguf MODEL OUT.gguf --mix q4_k_m");
  refused("memory --methods q4_k", "export-gguf says its size");
}

TEST(Compare, WritesAPageWithAMapOfLayers) {
  const TemporaryFolder folder;
  const auto page = folder / "page.html", text = folder / "text.txt";
  std::ofstream(text) << read_text(fs::path(NIBBLE_EXAMPLE_DATA) / "calibration.txt").substr(0, 6000);
  const auto outcome = run("compare --methods fp32,int3-g32-sym,q4_0,nvfp4 --tokens 100 --calibration " +
                           text.string() + " --report " + page.string());
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(has(outcome.text, "Report: " + page.string()));
  const std::string html = read_text(page);
  // 42 layers of three methods: fp32 loses nothing and has no row.
  for (const char* method : {"int3-g32-sym", "q4_0", "nvfp4"})
    EXPECT_TRUE(has(html, std::string("<title>") + method + ", model.layers.5.mlp.down_proj: ")) << method;
  EXPECT_FALSE(has(html, "<title>fp32, model.layers"));
  EXPECT_TRUE(has(html, "nibble compare"));
  EXPECT_EQ(run("compare --methods int8 --report").status == 0, false);
}

TEST(Compare, AMethodThatFailsIsARowAndTheOthersStay) {
  const TemporaryFolder folder;
  const auto json = folder / "rows.json", svg = folder / "chart.svg";
  const auto outcome =
      run("compare --methods int8,gptq-4-g128,nf4 --tokens 100 --calibration " + (folder / "nothing.txt").string() +
          " --json " + json.string() + " --plot " + svg.string() + " --report " + (folder / "page.html").string());
  EXPECT_EQ(outcome.status, 1);
  EXPECT_TRUE(has(outcome.text, "gptq-4-g128 failed: there is no '" + (folder / "nothing.txt").string()))
      << outcome.text;
  EXPECT_TRUE(has(outcome.text, "1 of 3 methods failed")) << outcome.text;
  const auto rows = read_json(json)["rows"];
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_GT(rows[0]["perplexity"].get<double>(), 1);
  EXPECT_TRUE(has(rows[1]["error"].get<std::string>(), "nothing.txt"));
  EXPECT_GT(rows[2]["kl_mean"].get<double>(), 0);
  EXPECT_TRUE(fs::exists(svg));
  EXPECT_TRUE(has(outcome.text, "the report has no map of layers")) << outcome.text;
  EXPECT_TRUE(has(read_text(folder / "page.html"), "failed: there is no"));
}

TEST(Compare, QuantizesTheLayersThatAreChosen) {
  const TemporaryFolder folder;
  const auto json = folder / "rows.json";
  const auto bits = [&](const std::string& choice) {
    const auto outcome = run("compare --methods bf16,int8 --tokens 40 --json " + json.string() + choice);
    EXPECT_EQ(outcome.status, 0) << outcome.text;
    return std::pair(read_json(json)["rows"][1]["bits_per_weight"].get<double>(), outcome.text);
  };
  const double all = bits("").first;
  const auto [skipped, text] = bits(" --skip down_proj --skip layers.0");
  EXPECT_GT(skipped, all + 2) << "what is left has 16 bits";
  EXPECT_TRUE(has(text, "what --skip and --only leave")) << text;
  EXPECT_GT(bits(" --only q_proj").first, skipped);
}

TEST(Compare, AModelThatGivesNoNumbersIsSaidAndTheFilesAreWritten) {
  const TemporaryFolder folder;
  make_broken(folder / "broken");
  const auto json = folder / "rows.json";
  const auto outcome = run("compare " + (folder / "broken").string() + " --methods bf16,int8 --tokens 40 --json " +
                           json.string() + " --plot " + (folder / "chart.svg").string());
  EXPECT_EQ(outcome.status, 1);
  EXPECT_TRUE(has(outcome.text, "fp32 failed")) << outcome.text;
  EXPECT_FALSE(has(outcome.text, "json")) << outcome.text;  // no exception of the JSON library
  const auto rows = read_json(json)["rows"];
  ASSERT_EQ(rows.size(), 2u);
  for (const auto& row : rows) EXPECT_TRUE(row.contains("error")) << row;
  EXPECT_TRUE(fs::exists(folder / "chart.svg"));
}

// The middle row is there because folding has a price of its own.
TEST(Compare, ModelsAreFoldedAndRotatedBeforeTheyAreQuantized) {
  const TemporaryFolder folder;
  const auto json = folder / "rows.json";
  const auto outcome =
      run("compare --methods fp32,fp32+rot,int2-g64-asym,int2-g64-asym+fold,int2-g64-asym+rot,int2-g64-asym+rot+a8 "
          "--tokens 4096 --save " +
          (folder / "kept").string() + " --json " + json.string());
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  const auto rows = read_json(json)["rows"];
  ASSERT_EQ(rows.size(), 6u);
  const auto kl = [&](std::size_t i) { return rows[i]["kl_mean"].get<double>(); };
  EXPECT_LT(kl(1), 1e-7) << "the same model, in the arithmetic of fp32";
  EXPECT_GT(kl(3), 1.2 * kl(2)) << "of two bits folding alone costs";
  EXPECT_LT(kl(4), 0.85 * kl(3)) << "and rotation takes that back";
  EXPECT_NE(kl(5), kl(4));
  for (std::size_t i = 3; i < 5; ++i) EXPECT_EQ(rows[i]["bits_per_weight"], rows[2]["bits_per_weight"]);
  const std::string norm = "model.layers.0.input_layernorm.weight", plain = "int2-g64-asym";
  for (const auto& [name, folded] : {std::pair(plain, false), {plain + "+fold", true}, {plain + "+rot", true}}) {
    const auto values = Checkpoint::open(folder / "kept" / name).read_f32(norm);
    EXPECT_EQ(values == std::vector<float>(values.size(), 1), folded) << name;
  }
}

TEST(Compare, RotatedRowsAreOfCompareAndOfNoGgufFile) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& command, const char* says) {
    const auto r = run(command);
    EXPECT_EQ(r.status, 1) << command;
    EXPECT_TRUE(has(r.text, says)) << r.text;
  };
  refused("compare --methods q4_k+rot", "rotations are not offered for GGUF's types");
  refused("compare --methods int4-g7x+rot", "int4-g7x");
  refused("quantize " + kModel + " -o " + (folder / "x").string() + " --method int4-g128-sym+rot",
          "nibble rotate MODEL");
  refused("compare --methods int4-g128-sym+rot --adapter " + kModel, "merge the adapter into the model first");
  EXPECT_FALSE(fs::exists(folder / "x"));
}

}  // namespace
}  // namespace nibble::cli
