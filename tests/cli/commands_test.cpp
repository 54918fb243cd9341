// The tool as a person runs it: arguments in, text, files and exit status out.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#ifdef NIBBLE_WITH_CUDA
#include "nibble/cuda/device.h"
#endif
#include "nibble/format/checkpoint.h"
#include "nibble/format/gguf.h"
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
const std::string kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

TEST(Tool, EveryCommandExplainsItself) {
  const auto all = run("--help");
  EXPECT_EQ(all.status, 0);
  for (const std::string command : {"compare", "quantize", "convert", "export-gguf", "imatrix", "eval", "generate",
                                    "finetune", "qat", "inspect", "memory", "merge", "rotate", "recommend"}) {
    EXPECT_TRUE(has(all.text, command)) << command;
    const auto help = run(command + " --help");
    EXPECT_EQ(help.status, 0) << command;
    EXPECT_TRUE(has(help.text, "Options")) << help.text;
  }
  EXPECT_NE(run("").status, 0);
  EXPECT_NE(run("quantise").status, 0);
  EXPECT_EQ(run("--version").status, 0);
}

// The lesson's exercise 1: 32 layers, hidden 4096, FFN 16384.
TEST(Memory, IsTheLessonsArithmetic) {
  const TemporaryFolder folder;
  ASSERT_EQ(
      run("memory --methods fp32,fp16,int8,int4-g128-sym,nf4,nf4-dq --json " + (folder / "m.json").string()).status, 0);
  const double attention = 4.0 * 4096 * 4096, ffn = 3.0 * 4096 * 16384;
  const auto rows = read_json(folder / "m.json")["rows"];
  ASSERT_EQ(rows.size(), 6u);
  // Bits of a code, and of its share of a scale: one f32 a row of 4096, one f16 per 128, one f32 per 64.
  const auto expect = [&](std::size_t row, double attention_bits, double ffn_bits) {
    EXPECT_DOUBLE_EQ(rows[row]["attention_bytes_per_layer"].get<double>(), attention * attention_bits / 8) << row;
    EXPECT_DOUBLE_EQ(rows[row]["ffn_bytes_per_layer"].get<double>(), ffn * ffn_bits / 8) << row;
    EXPECT_DOUBLE_EQ(rows[row]["layers_bytes"].get<double>(), 32 * (attention * attention_bits + ffn * ffn_bits) / 8)
        << row;
    EXPECT_DOUBLE_EQ(rows[row]["kv_cache_bytes"].get<double>(), 32.0 * 2 * 4096 * 4096 * 2);
  };
  expect(0, 32, 32);
  expect(1, 16, 16);
  expect(2, 8 + 32.0 / 4096, 8 + 32 * (2.0 * 16384 + 4096) / ffn);
  expect(3, 4 + 16.0 / 128, 4 + 16.0 / 128);
  expect(4, 4 + 32.0 / 64, 4 + 32.0 / 64);
  EXPECT_NEAR(rows[5]["bits_per_weight"].get<double>(), 4 + 8.0 / 64 + 32.0 / 64 / 256, 1e-4);
}

TEST(Memory, ReadsAModelsConfig) {
  const TemporaryFolder folder;
  ASSERT_EQ(run("memory " + kModel + " --context 512 --methods bf16 --json " + (folder / "m.json").string()).status, 0);
  const auto row = read_json(folder / "m.json")["rows"][0];
  const double attention = 256 * 256 * 2 + 256 * 128 * 2, ffn = 3 * 256 * 768;  // 4 heads, 2 KV heads of 64
  EXPECT_DOUBLE_EQ(row["layers_bytes"].get<double>(), 6 * (attention + ffn) * 2);
  EXPECT_DOUBLE_EQ(row["kv_cache_bytes"].get<double>(), 6.0 * 2 * 128 * 512 * 2);
}

TEST(Inspect, RefusesAReferenceThatIsAnotherModel) {
  const TemporaryFolder folder;
  const auto at = [&](const char* name) { return (folder / name).string(); };
  ASSERT_EQ(run("quantize " + kModel + " -o " + at("q") + " --method int8 --quiet").status, 0);
  const auto fits = run("inspect " + at("q") + " --reference " + kModel);
  EXPECT_EQ(fits.status, 0) << fits.text;
  const std::string up = "model.layers.0.mlp.up_proj.weight";
  const auto write = [&](const char* name, const std::vector<TensorInfo>& tensors) {
    SafetensorsWriter writer(folder / name, tensors, {});
    for (const TensorInfo& t : tensors) {
      std::size_t bytes = size_of(t.type);
      for (const std::size_t d : t.shape) bytes *= d;
      const std::vector<std::byte> zeros(bytes);
      writer.write(t.name, zeros);
    }
    writer.finish();
  };
  std::vector<TensorInfo> tensors = Checkpoint::open(kModel).tensors();
  for (const auto& [rows, cols] : std::vector<std::pair<std::size_t, std::size_t>>{{8, 8}, {256, 768}, {2048, 256}}) {
    for (TensorInfo& t : tensors)
      if (t.name == up) t.shape = {rows, cols};
    const std::string name = std::to_string(rows) + ".safetensors";
    write(name.c_str(), tensors);
    const auto other = run("inspect " + at("q") + " --reference " + at(name.c_str()));
    EXPECT_EQ(other.status, 1) << other.text;
    EXPECT_TRUE(has(other.text, "tensor '" + up + "' is " + std::to_string(rows) + " × ")) << other.text;
  }
  std::erase_if(tensors, [&](const TensorInfo& t) { return t.name == up; });
  write("lacking.safetensors", tensors);
  const auto lacking = run("inspect " + at("q") + " --reference " + at("lacking.safetensors"));
  EXPECT_EQ(lacking.status, 1) << lacking.text;
  EXPECT_TRUE(has(lacking.text, "the reference has no tensor '" + up + "'")) << lacking.text;
}

TEST(Eval, RefusesAModelThatGivesNoNumbers) {
  const TemporaryFolder folder;
  const auto model =
      testing_support::damaged_model(kModel, folder / "nan", "model.layers.1.mlp.down_proj.weight", 300, NAN);
  const auto outcome = run("eval " + model.string() + " --tokens 100 --json " + (folder / "figures.json").string());
  EXPECT_EQ(outcome.status, 1) << outcome.text;
  EXPECT_TRUE(has(outcome.text, "'model.layers.2.self_attn.q_proj'")) << outcome.text;
  EXPECT_FALSE(fs::exists(folder / "figures.json"));
}

TEST(Gguf, IsAnInputOfEveryCommand) {
  const TemporaryFolder folder;
  const std::string gguf = (folder / "model.gguf").string();
  const auto exported = run("export-gguf " + kModel + " " + gguf + " --type q8_0");
  ASSERT_EQ(exported.status, 0) << exported.text;
  EXPECT_TRUE(has(exported.text, "Q8_0") && has(exported.text, "F32") && has(exported.text, "tensors"))
      << exported.text;
  EXPECT_EQ(run("export-gguf " + kModel + " " + gguf + " --type q4_k --force --quiet").text, "");
  ASSERT_EQ(run("export-gguf " + kModel + " " + gguf + " --type q8_0 --force --quiet").status, 0);
  const auto listed = run("inspect " + gguf);
  EXPECT_EQ(listed.status, 0);
  for (const char* part : {"blk.0.attn_q.weight", "8.500", "general.architecture", "GGUF version 3"})
    EXPECT_TRUE(has(listed.text, part)) << part;
  const auto quantized = run("quantize " + gguf + " -o " + (folder / "nf4").string() + " --method nf4");
  EXPECT_EQ(quantized.status, 0) << quantized.text;
  EXPECT_TRUE(has(quantized.text, "a second time")) << quantized.text;
  EXPECT_EQ(run("convert " + gguf + " " + (folder / "bf16").string() + " --to bf16 --quiet").text, "");
  EXPECT_EQ(run("convert " + gguf + " " + (folder / "nibble").string() + " --to nibble --quiet").text, "");
  EXPECT_EQ(run("eval " + (folder / "nibble").string() + " --tokens 40 --quiet").text, "");
  const auto compared = run("compare " + gguf + " --methods fp32,int8 --tokens 40");
  EXPECT_EQ(compared.status, 0) << compared.text;
}

TEST(Memory, OfAnArchitectureThatIsNotKnownCountsItsTensors) {
  using namespace testing_support;
  const TemporaryFolder folder;
  auto config = config_of(TinyModel{});
  config["model_type"] = "mystery";
  const auto model = write_model(folder / "in", config, tensors_of(TinyModel{}));
  const auto outcome =
      run("memory " + model.string() + " --methods fp16,int8 --json " + (folder / "rows.json").string());
  EXPECT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(has(outcome.text, "'mystery' is not known here")) << outcome.text;
  const auto rows = read_json(folder / "rows.json")["rows"];
  std::size_t linear = 0, other = 0;
  for (const NamedTensor& t : tensors_of(TinyModel{})) (is_linear(t) ? linear : other) += t.bytes.size() / 2;
  EXPECT_EQ(rows[0]["layers_bytes"], 2.0 * static_cast<double>(linear));
  EXPECT_EQ(rows[0]["other_bytes"], 2.0 * static_cast<double>(other));
  EXPECT_LT(rows[1]["layers_bytes"].get<double>(), 1.2 * static_cast<double>(linear));
}

TEST(Quantize, EveryMethodTakesSkipOnlyAndTheHead) {
  const TemporaryFolder folder;
  int n = 0;
  for (const std::string method : {"nf4", "int8", "llm-int8", "int4-g128-sym", "int3-g32-asym"}) {
    const fs::path out = folder / std::to_string(n++);
    const auto outcome = run("quantize " + kModel + " -o " + out.string() + " --method " + method +
                             " --skip down_proj --only mlp --lm-head");
    const auto config = read_json(fs::path(kModel) / "config.json");
    if (config.value("tie_word_embeddings", false)) {
      EXPECT_EQ(outcome.status, 1);
      EXPECT_TRUE(has(outcome.text, "tied")) << outcome.text;
      continue;
    }
    ASSERT_EQ(outcome.status, 0) << outcome.text;
    EXPECT_TRUE(has(outcome.text, "13 linear layers")) << outcome.text;  // gate and up of six blocks, and the head
    const auto q = read_json(out / "config.json")["quantization_config"];
    const Json skipped = q.contains("llm_int8_skip_modules") ? q["llm_int8_skip_modules"] : q["modules_to_not_convert"];
    EXPECT_EQ(skipped.size(), 30u) << method;
    EXPECT_EQ(std::count(skipped.begin(), skipped.end(), "lm_head"), 0) << method;
    EXPECT_EQ(std::count(skipped.begin(), skipped.end(), "model.layers.5.mlp.down_proj"), 1) << method;
    EXPECT_EQ(run("eval " + out.string() + " --tokens 40 --quiet").text, "") << method;
  }
  const auto nothing = run("quantize " + kModel + " -o " + (folder / "x").string() + " --skip donw_proj");
  EXPECT_EQ(nothing.status, 1);
  EXPECT_TRUE(has(nothing.text, "nearest: 'down_proj'")) << nothing.text;
  EXPECT_TRUE(has(run("quantize " + kModel + " -o " + (folder / "x").string() + " --method bf16 --only mlp").text,
                  "converts every tensor"));
}

TEST(Eval, OfALongTextOnlyWhatIsNeededIsRead) {
  const TemporaryFolder folder;
  const fs::path text = folder / "long.txt";
  {
    std::ofstream out(text, std::ios::binary);
    out << std::ifstream(NIBBLE_EXAMPLE_DATA "/evaluation.txt").rdbuf();
  }
  const auto whole = run("eval " + kModel + " --tokens 40 --text " + text.string() + " --json " +
                         (folder / "a.json").string() + " --quiet");
  ASSERT_EQ(whole.status, 0) << whole.text;
  fs::resize_file(text, std::uintmax_t{3} << 30);  // a hole of zeros: read whole it would be refused
  const auto start = run("eval " + kModel + " --tokens 40 --text " + text.string() + " --json " +
                         (folder / "b.json").string() + " --quiet");
  ASSERT_EQ(start.status, 0) << start.text;
  EXPECT_EQ(read_json(folder / "a.json")["perplexity"], read_json(folder / "b.json")["perplexity"]);
  EXPECT_TRUE(has(run("eval " + kModel + " --text " + text.string()).text, "at most 1 GiB"));
  EXPECT_TRUE(has(run("eval " + kModel + " --text " + folder.path().string()).text, "is a folder"));
}

TEST(Recommend, FitsTheMemoryAndSaysWhy) {
  EXPECT_TRUE(has(run("recommend --purpose finetune").text, "Use nf4-dq"));
  EXPECT_TRUE(has(run("recommend --purpose quality --params 7b --memory 16").text, "Use int8"));
  EXPECT_TRUE(
      has(run("recommend --purpose quality --params 7b --memory 5").text, "Use int4-g32-asym"));  // 4.05 of 4.25 GB
  const auto none = run("recommend --params 70b --memory 6");
  EXPECT_EQ(none.status, 1);
  EXPECT_TRUE(has(none.text, "do not fit 6.0 GB"));
  EXPECT_NE(run("recommend --purpose fun").status, 0);
}

TEST(Quantize, TheMethodCanBeSaidInParts) {
  const TemporaryFolder folder;
  const auto quantize = [&](const std::string& options, const std::string& name) {
    const auto outcome = run("quantize " + kModel + " -o " + (folder / name).string() + " " + options);
    EXPECT_EQ(outcome.status, 0) << outcome.text;
    std::ifstream in(folder / name / "model.safetensors", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  EXPECT_EQ(quantize("--method asym --bits 3 --group-size 32", "a"), quantize("--method int3-g32-asym", "b"));
  EXPECT_EQ(quantize("--method nf4 --group-size 128", "c"), quantize("--method nf4-b128", "d"));
  EXPECT_EQ(run("quantize " + kModel + " -o x --method int4-g128-sym --bits 3").status, 1);
  EXPECT_EQ(run("quantize " + kModel + " -o " + (folder / "a").string()).status, 1);  // is there already
  const auto unknown = run("quantize " + kModel + " -o " + (folder / "z").string() + " --method int9");
  EXPECT_EQ(unknown.status, 1);
  EXPECT_TRUE(has(unknown.text, "known methods")) << unknown.text;
  EXPECT_FALSE(fs::exists(folder / "z"));
}

TEST(Convert, SaysWhatIsLostAndAsksFirst) {
  const TemporaryFolder folder;
  const auto at = [&](const char* name) { return (folder / name).string(); };
  ASSERT_EQ(run("quantize " + kModel + " -o " + at("q") + " --method int4-g64-asym --quiet").status, 0);
  const auto exact = run("convert " + at("q") + " " + at("awq") + " --to awq");
  EXPECT_EQ(exact.status, 0) << exact.text;
  EXPECT_TRUE(has(exact.text, "42 quantized layers in the layout awq, without loss")) << exact.text;
  EXPECT_TRUE(has(run("inspect " + at("awq")).text, "int4-g64-asym")) << run("inspect " + at("awq")).text;
  const auto refused = run("convert " + at("awq") + " " + at("bnb") + " --to bitsandbytes");
  EXPECT_EQ(refused.status, 1);
  EXPECT_TRUE(has(refused.text, "layer 'model.layers.0.mlp.down_proj'")) << refused.text;
  EXPECT_TRUE(has(refused.text, "--allow-loss")) << refused.text;
  EXPECT_FALSE(fs::exists(folder / "bnb"));
  const auto lossy = run("convert " + at("awq") + " " + at("bnb") + " --to bitsandbytes --allow-loss --quiet");
  EXPECT_EQ(lossy.status, 0) << lossy.text;
  EXPECT_TRUE(has(lossy.text, "42 of 42 layers are not the same any more")) << lossy.text;
  EXPECT_TRUE(
      has(run("convert " + at("awq") + " " + at("x") + " --to ggml").text, "there is no layout 'ggml'; there are"));
}

TEST(Qat, WritesAModelThatEvalReads) {
  const TemporaryFolder folder;
  const std::string out = folder / "out";
  const std::string command = "qat " + kModel + " -o " + out + " --max-steps 3 --max-length 64 --learning-rate 0.02 ";
  const auto trained = run(command + "--evaluation-share 0.01 --log " + (folder / "log").string());
  ASSERT_EQ(trained.status, 0) << trained.text;
  EXPECT_TRUE(has(trained.text, "held-out loss")) << trained.text;
  std::ifstream log(folder / "log");
  std::string line;
  std::size_t lines = 0;
  while (std::getline(log, line)) EXPECT_EQ(Json::parse(line)["step"], ++lines);
  EXPECT_EQ(lines, 3u);
  EXPECT_FALSE(fs::exists(out + ".checkpoints"));
  const auto evaluated = run("eval " + out + " --tokens 200");
  EXPECT_EQ(evaluated.status, 0) << evaluated.text;
  EXPECT_TRUE(has(evaluated.text, "2.562")) << evaluated.text;
  EXPECT_EQ(run(command).status, 1) << "the output is there";
  const auto begun = run("qat " + kModel + " -o " + (folder / "more").string() + " --method int2-g16-asym --start " +
                         out + " --max-steps 1");
  EXPECT_EQ(begun.status, 1);
  EXPECT_TRUE(has(begun.text, "is int2-g32-asym there, and int2-g16-asym here")) << begun.text;
}

TEST(ExportGguf, WritesAFileThatEvalReads) {
  const TemporaryFolder folder;
  const auto file = (folder / "model.gguf").string();
  const auto outcome = run("export-gguf " + kModel + " " + file + " --type Q8_0");
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(has(outcome.text, "linear layers at 8.500 bits per weight")) << outcome.text;
  const auto evaluated = run("eval " + file + " --tokens 512 --json " + (folder / "e.json").string());
  ASSERT_EQ(evaluated.status, 0) << evaluated.text;
  EXPECT_EQ(read_json(folder / "e.json")["bits_per_weight"].get<double>(), 8.5);
  const auto again = run("export-gguf " + kModel + " " + file);
  EXPECT_EQ(again.status, 1);
  EXPECT_TRUE(has(again.text, "--force replaces it")) << again.text;
  const auto unknown = run("export-gguf " + kModel + " " + file + " --force --type q8_k");
  EXPECT_EQ(unknown.status, 1);
  EXPECT_TRUE(has(unknown.text, "'q8_k' is no type to write; there are F32, F16")) << unknown.text;
}

TEST(ExportGguf, SolvesTheLayersByGptq) {
  const TemporaryFolder folder;
  const auto file = (folder / "model.gguf").string();
  const auto outcome = run("export-gguf " + kModel + " " + file + " --type q4_k --gptq --samples 2 --sample-tokens 32");
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(has(outcome.text, "42 layers by GPTQ: of rounding's loss, summed over them, ")) << outcome.text;
  EXPECT_TRUE(has(outcome.text, "linear layers at 4.500 bits per weight")) << outcome.text;
  const auto refused = [&](const std::string& options, const char* says) {
    const auto r = run("export-gguf " + kModel + " " + file + " --force " + options);
    EXPECT_EQ(r.status, 1) << options;
    EXPECT_TRUE(has(r.text, says)) << r.text;
  };
  refused("--type f16 --gptq", "F16 has none: choose another --type");
  refused("--type q4_k --gptq --imatrix some.imatrix", "leave --imatrix out");
  refused("--type q4_k --resume", "--resume goes on with a run of --gptq");
  refused("--type q4_k --samples 3", "go with --calibration, --gptq");
  refused("--type q4_k_m --adapter adapter", "--adapter writes f32, f16 or bf16");
  refused("--mix q4_0 --adapter adapter", "--adapter writes f32, f16 or bf16");
  refused("--target-bits 4 --adapter adapter", "--adapter writes f32, f16 or bf16");
  refused("--type q4_k --damp-percent 0.1", "--damp-percent goes with --gptq");
  EXPECT_FALSE(fs::exists(file + ".partial"));
}

TEST(ExportGguf, SplitsALargeFile) {
  const TemporaryFolder folder;
  const auto file = (folder / "m.gguf").string(), command = "export-gguf " + kModel + " " + file + " --type q8_0";
  const auto outcome = run(command + " --split-max-size 2MB");
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(has(outcome.text, "m-00001-of-00003.gguf and 2 files more")) << outcome.text;
  EXPECT_FALSE(fs::exists(file));
  const auto again = run(command + " --split-max-size 2MB");
  EXPECT_EQ(again.status, 1);
  EXPECT_TRUE(has(again.text, "of-00003.gguf' exists already; --force replaces it")) << again.text;
  ASSERT_EQ(run(command).status, 0);
  const auto whole = run("eval " + file + " --tokens 300");
  const auto parts = run("eval " + (folder / "m-00001-of-00003.gguf").string() + " --tokens 300");
  EXPECT_EQ(parts.status, 0) << parts.text;
  EXPECT_EQ(whole.text.substr(0, 60), parts.text.substr(0, 60));
  const auto second = run("eval " + (folder / "m-00002-of-00003.gguf").string());
  EXPECT_EQ(second.status, 1);
  EXPECT_TRUE(has(second.text, "give the first")) << second.text;
}

TEST(ExportGguf, MakesAFileOfTheSizeAskedFor) {
  const TemporaryFolder folder;
  const auto file = (folder / "model.gguf").string(), plan = (folder / "plan.json").string();
  const auto outcome = run("export-gguf " + kModel + " " + file + " --target-size 2.5MB --save-plan " + plan +
                           " --samples 4 --sample-tokens 128");
  ASSERT_EQ(outcome.status, 0) << outcome.text;
  EXPECT_TRUE(has(outcome.text, "nats of KL")) << outcome.text;
  EXPECT_LE(fs::file_size(file), 2500000u);
  EXPECT_GE(fs::file_size(file), 2400000u);
  const auto again = run("export-gguf " + kModel + " " + (folder / "again.gguf").string() + " --plan " + plan);
  ASSERT_EQ(again.status, 0) << again.text;
  const GgufFile first(file), second(folder / "again.gguf");
  for (const GgufTensor& t : first.tensors()) EXPECT_EQ(second.info(t.name).type, t.type) << t.name;
  const auto bits =
      run("export-gguf " + kModel + " " + file + " --force --target-bits 4.5 --samples 4 --sample-tokens 128");
  ASSERT_EQ(bits.status, 0) << bits.text;
  const auto small =
      run("export-gguf " + kModel + " " + file + " --force --target-size 100KB --samples 1 --sample-tokens 64");
  EXPECT_EQ(small.status, 1);
  EXPECT_TRUE(has(small.text, "the smallest file of this model has")) << small.text;
  const auto both = run("export-gguf " + kModel + " " + file + " --force --target-bits 4 --type q4_k");
  EXPECT_NE(both.status, 0);
}

TEST(Inspect, ShowsTensorsAndTheirErrorAgainstAReference) {
  const TemporaryFolder folder;
  const auto out = (folder / "nf4").string();
  ASSERT_EQ(run("quantize " + kModel + " -o " + out + " --quiet").status, 0);
  const auto outcome = run("inspect " + out + " --reference " + kModel);
  EXPECT_EQ(outcome.status, 0) << outcome.text;
  for (const char* part : {"model.layers.5.mlp.down_proj", "nf4-b64", "4.500"})
    EXPECT_TRUE(has(outcome.text, part)) << part;
}

TEST(Generate, TheSameSeedGivesTheSameTextOnEveryBackend) {
  const std::string arguments = "generate --tokens 40 --temperature 0.8 --seed 3 --method int4-g32-asym";
  const auto best = run(arguments);
  ASSERT_EQ(best.status, 0) << best.text;
  EXPECT_GT(best.text.size(), 60u);
  EXPECT_EQ(best.text, run(arguments, "NIBBLE_BACKEND=scalar").text);
  EXPECT_EQ(best.text, run(arguments, "NIBBLE_THREADS=1").text);
  EXPECT_EQ(best.text, run(arguments + " --backend scalar").text);
  EXPECT_EQ(best.text, run("--backend scalar " + arguments, "NIBBLE_BACKEND=avx3").text);  // before the environment
  const auto misspelt = run(arguments, "NIBBLE_BACKEND=avx3");
  EXPECT_EQ(misspelt.status, 1);
  EXPECT_TRUE(has(misspelt.text, "there is no backend 'avx3'; there are")) << misspelt.text;
}

// The default is an error here, so that each command shows whether it, or what it calls, asks for it.
TEST(Tool, NoCommandAsksForTheDefaultBackendWhereOneIsChosen) {
  const TemporaryFolder folder;
  const std::string at = (folder / "").string(), text = std::string(NIBBLE_EXAMPLE_DATA) + "/calibration.txt";
  const std::string model = at + "tiny";  // the scalar backend takes a minute for the embedded one
  testing_support::write_tiny_model(model);
  const std::string training = " --max-steps 1 --max-length 32 --batch 1 --accumulation 1 --quiet --data " + text;
  const std::string calibrated = " --samples 2 --sample-tokens 32 --quiet --calibration " + text;
  for (const std::string& command : {
           "quantize " + model + " -o " + at + "int4 --method int4-g32-sym --quiet",
           "quantize " + model + " -o " + at + "gptq --method gptq-4-g32-sym" + calibrated,
           "quantize " + model + " -o " + at + "awq --method awq-4-g32" + calibrated,
           "convert " + at + "gptq " + at + "converted --to nibble --quiet",
           "convert " + at + "gptq " + at + "decoded --to bf16 --quiet",
           "export-gguf " + at + "gptq " + at + "model.gguf --quiet",
           "inspect " + at + "gptq --reference " + model,
           "eval " + at + "gptq --tokens 64 --quiet",
           "generate " + at + "gptq --tokens 2",
           "compare " + model + " --methods int4-g32-sym --tokens 64",
           "finetune " + model + " -o " + at + "adapter" + training,
           "generate " + model + " --adapter " + at + "adapter --tokens 2",
           "merge " + model + " --adapter " + at + "adapter --into original -o " + at + "merged --quiet",
           "qat " + model + " -o " + at + "qat --method int4-g32-sym" + training,
           "memory " + model,
           std::string("recommend --params 7b"),
       }) {
    const auto outcome = run(command + " --backend scalar", "NIBBLE_BACKEND=avx3");
    EXPECT_EQ(outcome.status, 0) << command << ": " << outcome.text;
  }
}

TEST(Tool, ListsBackendsAndWhyOneCannotRunHere) {
  const auto help = run("--help", "NIBBLE_BACKEND=avx3");  // help is given whatever else is wrong
  EXPECT_EQ(help.status, 0);
  for (const char* part : {"--backend", "scalar        plain C++", "cuda  ", "NIBBLE_THREADS"})
    EXPECT_TRUE(has(help.text, part)) << part << ": " << help.text;
#ifdef NIBBLE_WITH_CUDA
  const std::string why = cuda::why_unavailable();
  if (why.empty()) return;  // a GPU: tests of label gpu
  EXPECT_TRUE(has(help.text, "not here: " + why)) << help.text;
  const std::string refusal = "the backend 'cuda' cannot run here: " + why;
#else
  const std::string refusal =
      "this build of nibble has no CUDA backend; configure it with -DNIBBLE_CUDA=ON, which takes nvcc, cuBLAS and "
      "cuSOLVER";
  EXPECT_TRUE(has(help.text, refusal)) << help.text;
#endif
  for (const auto& outcome :
       {run("generate --backend cuda"), run("--backend cuda generate"), run("generate", "NIBBLE_BACKEND=cuda")}) {
    EXPECT_EQ(outcome.status, 1);
    EXPECT_EQ(outcome.text, "nibble: " + refusal + "\n");
  }
}

TEST(Tool, NamesTheFileThatIsMissing) {
  const auto outcome = run("eval /nowhere/model");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_TRUE(has(outcome.text, "there is no '/nowhere/model'")) << outcome.text;
}

}  // namespace
}  // namespace nibble::cli
