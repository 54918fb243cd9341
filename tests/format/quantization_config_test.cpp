// Configurations of the real tools, of older tools, and of nobody.
#include "nibble/format/quantization_config.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "nibble/format/quantized_tensors.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble {
namespace {

using namespace testing_support;

QuantizationConfig parse(const std::string& json) { return *QuantizationConfig::parse(json, "config.json"); }

LayerQuantization layer(int bits, std::size_t group, bool symmetric, bool act_order = false) {
  return {bits, group == 0 ? Granularity::channel : Granularity::group, group, symmetric, act_order};
}

TEST(QuantizationConfig, ReadsAutoGptq) {
  const auto c = parse(R"({"bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": true, "static_groups": false,
                           "sym": false, "true_sequential": true, "model_name_or_path": null, "model_file_base_name": "model"})");
  EXPECT_EQ(c.method(), "gptq");
  EXPECT_EQ(c.format(), "gptq");
  EXPECT_FALSE(c.zeros_by_word());
  EXPECT_EQ(c.of_layer("any"), layer(4, 128, false, true));
  // Missing sym means true; group −1 a row.
  EXPECT_EQ(parse(R"({"quant_method": "gptq", "bits": 3, "group_size": -1})").of_layer("any"), layer(3, 0, true));
}

TEST(QuantizationConfig, ReadsGptqModelWithItsRules) {
  const auto c =
      parse(R"({"quantization_config": {"bits": 4, "group_size": 32, "sym": true, "method": "gptq", "format": "gptq_v2",
    "pack_dtype": "int32", "lm_head": false, "meta": {"quantizer": ["gptqmodel:2.0.0"], "uri": "x"},
    "dynamic": {"-:.*gate.*": {}, "+:.*\\.1[0-9]\\..*down.*": {"bits": 8, "group_size": -1},
                ".*down.*": {"sym": false, "desc_act": true}, ".*up.*": {"bits": 3}}}})");
  EXPECT_EQ(c.format(), "gptq_v2");
  EXPECT_TRUE(c.zeros_by_word());
  EXPECT_EQ(c.of_layer("model.layers.12.mlp.down_proj"), layer(8, 0, true));
  EXPECT_EQ(c.of_layer("model.layers.2.mlp.down_proj"), layer(4, 32, false, true));
  EXPECT_EQ(c.of_layer("model.layers.2.mlp.up_proj"), layer(3, 32, true));
  EXPECT_EQ(c.of_layer("model.layers.2.mlp.gate_proj"), layer(4, 32, true));  // quantized all the same, so as the rest
}

TEST(QuantizationConfig, ReadsAwqOldAndNew) {
  const auto old = parse(R"({"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMV"})");
  EXPECT_EQ(old.method(), "awq");
  EXPECT_EQ(old.format(), "gemv");
  EXPECT_EQ(old.of_layer("x"), layer(4, 64, false));
  const auto c = parse(R"({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": false, "version": "gemm",
                           "modules_to_not_convert": null})");
  EXPECT_EQ(c.of_layer("x"), layer(4, 128, true));
}

TEST(QuantizationConfig, ReadsAutoRound) {
  const auto c = parse(R"({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4,
    "group_size": 128, "sym": true, "data_type": "int", "autoround_version": "0.16.1", "extra_config": {
      "model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 64}, ".*experts.*": {"bits": 2},
      "model.layers.1.mlp.up_proj": {"bits": 16, "data_type": "fp"}}})");
  EXPECT_EQ(c.method(), "gptq");
  EXPECT_EQ(c.format(), "gptq");
  EXPECT_EQ(c.of_layer("any"), layer(4, 128, true));
  EXPECT_EQ(c.of_layer("model.layers.0.mlp.down_proj"), layer(8, 64, true));
  EXPECT_EQ(c.of_layer("model.layers.5.mlp.experts.3.up_proj"), layer(2, 128, true));
  // Expressions are looked for anywhere in a name, a part of one too; a layer's own name comes first.
  const auto parts = parse(R"({"quant_method": "auto-round", "bits": 4, "group_size": 128, "extra_config": {
      "layers\\.0\\.mlp": {"bits": 3}, "o_proj": {"bits": 8}, "^model\\.layers\\.7": {"bits": 2},
      "model.layers.0.mlp.up_proj": {"bits": 2}}})");
  EXPECT_EQ(parts.of_layer("model.layers.0.mlp.down_proj"), layer(3, 128, true));
  EXPECT_EQ(parts.of_layer("model.layers.0.mlp.up_proj"), layer(2, 128, true));
  EXPECT_EQ(parts.of_layer("model.layers.9.self_attn.o_proj"), layer(8, 128, true));
  EXPECT_EQ(parts.of_layer("model.layers.7.self_attn.q_proj"), layer(2, 128, true));
  EXPECT_EQ(parts.of_layer("model.layers.10.mlp.up_proj"), layer(4, 128, true));
  const auto method = [](const char* packing, const char* more = "") {
    const auto c = parse(R"({"quant_method": "auto-round", "bits": 4, "packing_format": ")" + std::string(packing) +
                         "\"" + more + "}");
    return c.method() + " " + c.format();
  };
  EXPECT_EQ(method("auto_round:auto_awq"), "awq gemm");
  EXPECT_EQ(method("auto_round"), "gptq gptq_v2");
  expect_error(ErrorCode::unsupported, "packing_format 'mlx' is not read", [&] { (void)method("mlx"); });
  expect_error(ErrorCode::unsupported, "\"rotation_config\"",
               [&] { (void)method("auto_round:auto_gptq", R"(, "rotation_config": {"hadamard_type": "random"})"); });
  expect_error(ErrorCode::unsupported, "data_type 'fp8'", [&] {
    (void)method("auto_round:auto_gptq", R"(, "extra_config": {"x": {"bits": 8, "data_type": "fp8"}})");
  });
  expect_error(ErrorCode::unsupported, "how zero points are stored",
               [] { (void)parse(R"({"quant_method": "auto-round", "bits": 4, "sym": false})"); });
  expect_error(ErrorCode::unsupported, "data_type 'mx_fp'",
               [&] { (void)method("auto_round:auto_gptq", R"(, "data_type": "mx_fp")"); });
}

TEST(QuantizationConfig, ReadsFloats) {
  const auto compressed = [](const std::string& format, const std::string& weights) {
    return parse(R"({"quant_method": "compressed-tensors", "format": ")" + format +
                 R"(", "config_groups": {"g": {"targets": ["Linear"], "weights": )" + weights +
                 R"(, "input_activations": {"num_bits": 8, "type": "float"}}}})")
        .of_layer("L");
  };
  const auto as = [](int bits, Granularity granularity, std::size_t size, SchemeKind floats,
                     bool tensor_scale = false) {
    return LayerQuantization{bits, granularity, size, true, false, floats, tensor_scale};
  };
  EXPECT_EQ(compressed("float-quantized", R"({"num_bits": 8, "type": "float", "strategy": "channel"})"),
            as(8, Granularity::channel, 0, SchemeKind::e4m3));
  EXPECT_EQ(compressed("float-quantized",
                       R"({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]})"),
            as(8, Granularity::tile, 128, SchemeKind::e4m3));
  EXPECT_EQ(compressed("mxfp6-pack-quantized", R"({"num_bits": 6, "type": "float", "group_size": 32})"),
            as(6, Granularity::group, 32, SchemeKind::e2m3));
  EXPECT_EQ(compressed("nvfp4-pack-quantized",
                       R"({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16})"),
            as(4, Granularity::group, 16, SchemeKind::e2m1, true));
  EXPECT_NE(compressed("float-quantized", R"({"num_bits": 5, "type": "float", "strategy": "tensor"})").obstacle, "");
  EXPECT_NE(compressed("float-quantized", R"({"num_bits": 8, "type": "double", "strategy": "tensor"})").obstacle, "");

  const auto fp8 = [](const char* block) {
    return parse(std::string(R"({"quant_method": "fp8", "weight_block_size": )") + block + "}").of_layer("L");
  };
  EXPECT_EQ(fp8("[128, 128]").granularity, Granularity::tile);
  EXPECT_EQ(fp8("[128, 128]").group_size, 128u);
  EXPECT_EQ(fp8("[1, 64]").granularity, Granularity::group);
  EXPECT_EQ(fp8("null").granularity, Granularity::tensor);
  for (const char* wrong : {"[0, 128]", "[128]", "128", "[\"a\", 1]", "[-1, 128]", "[128, 999999999999]"})
    expect_error(ErrorCode::corrupt_file, "weight_block_size", [&] { (void)fp8(wrong); });
  EXPECT_EQ(parse(R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}})").method(), "modelopt");
}

TEST(QuantizationConfig, ReadsCompressedTensorsGroups) {
  const auto c = parse(
      R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
    "config_groups": {
      "group_0": {"targets": ["re:.*mlp.*"], "weights": {"num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel"}},
      "group_1": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": false, "strategy": "group",
                  "group_size": 64, "actorder": "group", "dynamic": false}},
      "group_2": {"targets": ["model.layers.0.mlp.up_proj"], "weights": {"num_bits": 3, "strategy": "tensor", "group_size": null}},
      "group_3": {"targets": ["re:.*attn.*"], "weights": {"num_bits": 5, "type": "float"}}}}})");
  EXPECT_EQ(c.of_layer("model.layers.1.mlp.up_proj"), layer(8, 0, true));
  EXPECT_EQ(c.of_layer("model.layers.0.mlp.up_proj"), (LayerQuantization{3, Granularity::tensor, 0, true, false}));
  EXPECT_EQ(c.of_layer("model.layers.0.self_attn.q_proj").obstacle,
            "its weights are floats of 5 bits; 8, 6 and 4 are read");
  EXPECT_EQ(c.of_layer("lm_head"), layer(4, 64, false, true));
}

std::string groups(const std::string& groups, const std::string& more = "") {
  return R"({"quant_method": "compressed-tensors", )" + more + R"("config_groups": {)" + groups + "}}";
}

TEST(QuantizationConfig, EachGroupHasAFormat) {
  const auto c = parse(groups(
      R"("a": {"targets": ["re:.*down_proj"], "format": "pack-quantized", "weights": {"num_bits": 8, "strategy": "channel"}},
    "b": {"targets": ["re:.*up_proj"], "format": "int-quantized", "weights": {"num_bits": 8, "strategy": "channel"},
          "input_activations": {"num_bits": 8, "dynamic": true}},
    "d": {"targets": ["re:.*gate_proj"], "format": "marlin-24", "weights": {"num_bits": 4, "strategy": "channel"}},
    "c": {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group", "group_size": 32}})",
      R"("format": "mixed-precision", )"));
  EXPECT_EQ(c.of_layer("x.down_proj"), layer(8, 0, true));
  EXPECT_EQ(c.of_layer("x.q_proj"), layer(4, 32, true));
  EXPECT_EQ(c.of_layer("x.up_proj"), layer(8, 0, true));
  EXPECT_EQ(c.of_layer("x.gate_proj").obstacle,
            "its format is 'marlin-24'; pack-quantized, int-quantized, float-quantized, mxfp8-quantized and the packed "
            "MX and NVFP4 formats are read");
}

TEST(QuantizationConfig, AnUnmatchedLayerIsNoneOfTheGroups) {
  const std::string weights = R"("weights": {"num_bits": 4, "strategy": "group", "group_size": 32}})";
  const auto two = parse(
      groups(R"("a": {"targets": ["LlamaMLP"], )" + weights + R"(, "b": {"targets": ["re:.*q_proj"], )" + weights));
  EXPECT_EQ(two.of_layer("x.q_proj"), layer(4, 32, true));
  EXPECT_NE(two.of_layer("x.up_proj").obstacle.find("no target"), std::string::npos);
  // One group, and what else could be packed?
  EXPECT_EQ(parse(groups(R"("a": {"targets": ["LlamaDecoderLayer"], )" + weights)).of_layer("x"), layer(4, 32, true));
  const auto looks = parse(groups(R"x("a": {"targets": ["re:^(?!.*lm_head).*"], )x" + weights));
  EXPECT_EQ(looks.of_layer("x"), layer(4, 32, true));
  EXPECT_FALSE(looks.of_layer("lm_head").obstacle.empty());
}

TEST(QuantizationConfig, KnowsPresets) {
  const auto preset = [](const std::string& name) {
    return parse(groups("\"" + name + R"(": ["Linear"])")).of_layer("x");
  };
  EXPECT_EQ(preset("W4A16"), layer(4, 128, true));
  EXPECT_EQ(preset("w3a16"), layer(3, 128, true));
  EXPECT_EQ(preset("W8A16"), layer(8, 128, true));
  EXPECT_EQ(preset("W4A16_ASYM"), layer(4, 128, false));
  for (const char* name : {"W8A8", "W4A8", "NVFP4", "FP8_DYNAMIC", "W9A16", "W1A16", "mine"})
    EXPECT_NE(preset(name).obstacle.find(name), std::string::npos) << name;
}

TEST(QuantizationConfig, RefusesWhatChangesTheModelUnread) {
  const std::string group = R"("a": {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "channel"})";
  EXPECT_NE(parse(groups(group + R"(, "input_activations": {"num_bits": 8}})"))
                .of_layer("x")
                .obstacle.find("input_activations"),
            std::string::npos);
  for (const char* neutral : {R"("kv_cache_scheme": null, "sparsity_config": {}, "transform_config": {}, )",
                              R"("sparsity_config": {"format": "dense"}, )"})
    EXPECT_EQ(parse(groups(group + "}", neutral)).of_layer("x"), layer(4, 0, true));
  const auto refuse = [](const std::string& json, const std::string& says) {
    expect_error(ErrorCode::unsupported, says, [&] { (void)QuantizationConfig::parse(json, "q.json"); });
  };
  refuse(groups(group + "}", R"("kv_cache_scheme": {"num_bits": 8}, )"), "kv_cache_scheme");
  refuse(groups(group + "}", R"("transform_config": {"config_groups": {"u": {}}}, )"), "transform_config");
  refuse(groups(group + "}", R"("sparsity_config": {"format": "sparse-24-bitmask"}, )"), "sparse-24-bitmask");
  refuse(R"({"quant_method": "gptq", "bits": 4, "adapter": {"name": "eora"}})", "adapter");
}

/// The keys that speak of a run are the run's own, or are not there.
TEST(QuantizationConfig, SaysOfTheRunWhatItWas) {
  const QuantSpec spec = QuantSpec::parse("int4-g64-sym");
  const auto written = [](CheckpointLayout layout, const QuantizedLayer& l, const QuantizationRun& run = {}) {
    return nlohmann::json::parse(quantization_config(layout, {l}, {}, run));
  };
  const auto unknown = written(CheckpointLayout::gptq, {"L", {spec, 64, 256}});
  for (const char* key : {"damp_percent", "static_groups", "true_sequential"})
    EXPECT_FALSE(unknown.contains(key)) << key;
  EXPECT_EQ(unknown["desc_act"], false);
  const auto run = written(CheckpointLayout::gptq, {"L", {spec, 64, 256}, true},
                           {.damp_percent = 0.05, .true_sequential = false, .static_groups = true});
  EXPECT_EQ(run["damp_percent"], 0.05);
  EXPECT_EQ(run["static_groups"], true);
  EXPECT_EQ(run["true_sequential"], false);
  EXPECT_EQ(run["desc_act"], true);
  // "weight" is the order that leaves no g_idx: the one that compressed-tensors 0.20 still reads.
  const auto order = [&](const char* text, bool act_order) {
    return written(CheckpointLayout::compressed_tensors,
                   {"L", {QuantSpec::parse(text), 64, 256}, act_order})["config_groups"]["group_0"]["weights"]
        .value("actorder", nlohmann::json());
  };
  EXPECT_EQ(order("int4-g64-sym", true), "weight");
  EXPECT_TRUE(order("int4-g64-sym", false).is_null());
  EXPECT_TRUE(order("int4-channel-sym", true).is_null());
  expect_error(ErrorCode::unsupported, "one threshold of outliers", [] {
    (void)quantization_config(
        CheckpointLayout::bitsandbytes,
        {{"a", {QuantSpec::parse("llm-int8"), 64, 64}}, {"b", {QuantSpec::parse("int8"), 64, 64}}}, {});
  });
}

TEST(QuantizationConfig, LeavesOthersToThemselves) {
  EXPECT_FALSE(QuantizationConfig::parse(R"({"model_type": "llama", "hidden_size": 64})", "config.json"));
  EXPECT_EQ(parse(R"({"quantization_config": {"quant_method": "bitsandbytes", "bits": "many"}})").method(),
            "bitsandbytes");
  EXPECT_EQ(parse(R"({"quantization_config": {"quant_method": "hqq"}})").method(), "hqq");
}

TEST(QuantizationConfig, IsLookedForInThreeFiles) {
  const TemporaryFolder folder;
  const auto write = [&](const char* file, const char* text) { std::ofstream(folder / file) << text; };
  EXPECT_FALSE(QuantizationConfig::find(folder.path()));
  write("config.json", R"({"quantization_config": {"quant_method": "gptq", "bits": 2}})");
  EXPECT_EQ(QuantizationConfig::find(folder.path())->of_layer("x").bits, 2);
  write("quant_config.json", R"({"w_bit": 3})");
  EXPECT_EQ(QuantizationConfig::find(folder.path())->of_layer("x").bits, 3);
  write("quantize_config.json", R"({"bits": 8})");
  EXPECT_EQ(QuantizationConfig::find(folder.path())->of_layer("x").bits, 8);
}

TEST(QuantizationConfig, NamesWhatIsWrong) {
  const auto refuse = [](const std::string& json, const std::string& says, ErrorCode code = ErrorCode::corrupt_file) {
    expect_error(code, says, [&] { (void)QuantizationConfig::parse(json, "q.json"); });
  };
  const auto gptq = [](const std::string& fields) { return R"({"quant_method": "gptq", )" + fields + "}"; };
  refuse("", "'q.json' is not JSON");
  refuse("[[[[", "'q.json' is not JSON");
  refuse("[]", "'q.json' is not a JSON object");
  refuse(std::string(100000, '['), "more than 64 deep");
  refuse(R"({"quantization_config": 4})", "\"quantization_config\" is not an object");
  refuse(R"({"quant_method": "gptq"})", "'q.json': \"bits\" is missing");
  for (const char* bits : {"0", "1", "9", "-4", "4.5", "\"4\"", "1e30", "99999999999999999999"})
    refuse(gptq(std::string("\"bits\": ") + bits), "\"bits\" is ");
  refuse(gptq("\"bits\": [" + std::string(50000, '[') + std::string(50000, ']') + "]"), "deep, in \"bits\"");
  refuse(gptq("\"bits\": [[4]]"), "\"bits\" is an array");
  refuse(gptq("\"bits\": 4, \"bits\": 8"), "the key \"bits\" twice");
  for (const char* size : {"0", "-2", "1.5", "\"128\"", "9999999999"})
    refuse(gptq(std::string("\"bits\": 4, \"group_size\": ") + size), "\"group_size\" is ");
  refuse(gptq(R"("bits": 4, "sym": 1)"), "\"sym\" is 1; true or false is needed");
  refuse(gptq(R"("bits": 4, "checkpoint_format": 2)"), "text is needed");
  refuse(gptq(R"("bits": 4, "checkpoint_format": "marlin")"), "'marlin' is not read", ErrorCode::unsupported);
  refuse(gptq(R"("bits": 4, "is_marlin_format": true)"), "'marlin' is not read", ErrorCode::unsupported);
  refuse(gptq(R"("bits": 4, "pack_dtype": "int16")"), "pack_dtype 'int16'", ErrorCode::unsupported);
  refuse(gptq(R"("bits": 4, "dynamic": [])"), "\"dynamic\" is not an object");
  refuse(gptq(R"("bits": 4, "dynamic": {"a.*": {"bits": 1}})"), "\"dynamic\"[\"a.*\"]: \"bits\" is 1");
  refuse(gptq(R"x("bits": 4, "dynamic": {"(?<=a)": {"bits": 8}})x"), "'(?<=a)'", ErrorCode::unsupported);
  refuse(R"({"quant_method": "awq", "version": "ipex"})", "'ipex' is not read", ErrorCode::unsupported);
  const auto groups = [](const std::string& weights) {
    return R"({"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["Linear"], "weights": )" +
           weights + "}}}";
  };
  refuse(groups(R"({"num_bits": 4, "strategy": "group"})"), "the strategy is group");
  refuse(groups(R"({"num_bits": 4, "strategy": "block"})"), "'block' is not read", ErrorCode::unsupported);
  refuse(groups("7"), "\"weights\" is not an object");
  std::string many;
  for (int i = 0; i < 5000; ++i) many += "\"a.*" + std::to_string(i) + "\": {},";
  refuse(gptq("\"bits\": 4, \"dynamic\": {" + many + "\"b\": {}}"), "more than 4096 patterns", ErrorCode::unsupported);
}

/// A rule for each of many layers is found, not searched for; the first that matches holds, as it stands.
TEST(QuantizationConfig, FindsTheFirstOfManyRules) {
  constexpr int layers = 50000;
  std::string rules = R"("+:^layers\\.7$": {"bits": 3}, "+:layers\\.70.*": {"bits": 5})";
  for (int i = 0; i < layers; ++i)
    if (i != 7) rules += ", \"+:^layers\\\\." + std::to_string(i) + "$\": {\"bits\": " + (i % 2 == 0 ? "8" : "2") + "}";
  const auto config =
      QuantizationConfig::parse(R"({"quant_method": "gptq", "bits": 4, "dynamic": {)" + rules + "}}", "q.json");
  EXPECT_EQ(config->of_layer("layers.7").bits, 3);
  EXPECT_EQ(config->of_layer("layers.6").bits, 8);
  EXPECT_EQ(config->of_layer("layers.70").bits, 5) << "a pattern before the name";
  EXPECT_EQ(config->of_layer("layers.49999").bits, 2);
  EXPECT_EQ(config->of_layer("layers.50000").bits, 4);
  int eights = 0;
  for (int i = 0; i < layers; ++i) eights += config->of_layer("layers." + std::to_string(i)).bits == 8 ? 1 : 0;
  EXPECT_EQ(eights, layers / 2 - 56) << "layers.70, 70…, 700…, 7000… have 5";
}

/// What we write for layers that differ, we read for each layer as it is.
TEST(QuantizationConfig, SaysWhatEachLayerIs) {
  std::vector<QuantizedLayer> layers;
  const auto add = [&](const char* name, const char* spec, bool act_order = false) {
    layers.push_back({name, {QuantSpec::parse(spec), 64, 256, act_order}});
  };
  add("model.layers.0.mlp.up_proj", "int8-channel-sym-f16");
  for (const char* name : {"model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"}) add(name, "int4-g64-asym");
  add("model.layers.1.mlp.up_proj", "int3-g32-sym", true);
  for (const auto layout : {CheckpointLayout::gptq, CheckpointLayout::gptq_v2, CheckpointLayout::compressed_tensors}) {
    layers.back().description.act_order = layout != CheckpointLayout::compressed_tensors;  // it holds none
    const auto c = parse(quantization_config(layout, layers, {"lm_head", "model.layers.1.mlp.gate_proj"}));
    for (const QuantizedLayer& l : layers) {
      const QuantSpec& s = l.description.spec;
      EXPECT_EQ(c.of_layer(l.name),
                layer(s.bits, s.group_size, s.scheme == SchemeKind::symmetric, l.description.act_order))
          << l.name;
    }
    EXPECT_EQ(c.of_layer("model.layers.9.mlp.up_proj").bits, 4);  // what most are
    EXPECT_EQ(c.of_layer("model.layers.0.mlp.up_projection").bits, 4);
  }
  expect_error(ErrorCode::unsupported, "are quantized differently", [&] {
    auto two = std::vector<QuantizedLayer>(layers.begin() + 1, layers.begin() + 3);
    two[1].description.spec = QuantSpec::parse("int4-g64-sym");
    (void)quantization_config(CheckpointLayout::awq_gemm, two, {});
  });
  expect_error(ErrorCode::invalid_argument, "without quantized layers",
               [] { (void)quantization_config(CheckpointLayout::gptq, {}, {}); });
}

}  // namespace
}  // namespace nibble
