#include "nibble/model/adapter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "model/adapter_files.h"
#include "nibble/core/float_types.h"
#include "nibble/format/safetensors.h"
#include "tests/support/adapters.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using testing_support::expect_equal;
using testing_support::expect_error;
using testing_support::filled;
using testing_support::golden_values;
using testing_support::kQuery;
using testing_support::TemporaryFolder;
using testing_support::tiny;

const fs::path kGolden = NIBBLE_TEST_DATA "/golden";

std::string text_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// --- reading what PEFT wrote

class Golden : public ::testing::TestWithParam<const char*> {};

TEST_P(Golden, LoadsAsPeftDoes) {
  const Json expected = Json::parse(std::ifstream(kGolden / "adapters/expected.json")).at(GetParam());
  const Adapter adapter = Adapter::load(kGolden / "adapters" / GetParam());
  EXPECT_EQ(adapter.base_model, "gqa_tied");
  EXPECT_EQ(adapter.dropout, std::string(GetParam()) == "patterns" ? 0.05 : 0);
  EXPECT_EQ(adapter.layers.size(), expected.size());
  const bool dora = std::string(GetParam()) == "dora";
  std::size_t parameters = 0;
  for (const auto& [name, e] : expected.items()) {
    const AdapterLayer* l = adapter.find(name);
    ASSERT_NE(l, nullptr) << name;
    EXPECT_EQ(l->rank, e.at("rank").get<std::size_t>()) << name;
    EXPECT_EQ(l->alpha, e.at("alpha").get<double>()) << name;
    EXPECT_EQ(l->scale(), static_cast<float>(e.at("scale").get<double>())) << name;
    EXPECT_EQ(l->a, golden_values("base_model.model." + name + ".lora_A.weight", l->rank * l->in));
    EXPECT_EQ(l->b, golden_values("base_model.model." + name + ".lora_B.weight", l->out * l->rank));
    EXPECT_EQ(l->magnitude, golden_values("base_model.model." + name + ".lora_magnitude_vector", dora ? l->out : 0));
    parameters += l->parameters();
  }
  EXPECT_EQ(adapter.parameters(), parameters);
  EXPECT_NO_THROW(adapter.check(tiny()));
  EXPECT_EQ(adapter.find("model.layers.0.self_attn"), nullptr);
}

TEST_P(Golden, ComesBackFromOursAndTheSecondCopyHasTheSameBytes) {
  const TemporaryFolder folder;
  const Adapter adapter = Adapter::load(kGolden / "adapters" / GetParam());
  adapter.save(folder / "once/");
  const Adapter again = Adapter::load(folder / "once");
  expect_equal(adapter, again);
  again.save(folder / "twice");
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors", "README.md"})
    EXPECT_EQ(text_of(folder / "once" / file), text_of(folder / "twice" / file)) << file;
  // PEFT's file has the same tensors, and lays them out by name alone as ours does where all have one type.
  EXPECT_EQ(SafetensorsFile(kGolden / "adapters" / GetParam() / "adapter_model.safetensors").tensors().size(),
            SafetensorsFile(folder / "once/adapter_model.safetensors").tensors().size());
}

INSTANTIATE_TEST_SUITE_P(Adapter, Golden, ::testing::Values("patterns", "rslora", "dora"),
                         [](const auto& test) { return std::string(test.param); });

// --- making

TEST(Adapter, IsMadeForEveryLinearLayerAndChangesNothingYet) {
  const Adapter adapter = Adapter::make(tiny(), {.rank = 4, .alpha = 8, .dropout = 0.1, .rslora = true, .dora = true});
  EXPECT_EQ(adapter.layers.size(), 14u);
  EXPECT_EQ(adapter.dropout, 0.1);
  EXPECT_NO_THROW(adapter.check(tiny()));
  for (const AdapterLayer& l : adapter.layers) {
    EXPECT_EQ(l.scale(), 4.0f);
    EXPECT_EQ(l.b, std::vector<float>(l.out * 4));
    EXPECT_EQ(l.magnitude, std::vector<float>(l.out));
    const float bound = 1 / std::sqrt(static_cast<float>(l.in));
    double sum = 0, squares = 0;
    for (const float a : l.a) {
      ASSERT_LE(std::fabs(a), bound);
      sum += a, squares += static_cast<double>(a) * a;
    }
    const auto n = static_cast<double>(l.a.size());
    EXPECT_LT(std::fabs(sum / n), 4 * bound / std::sqrt(3 * n)) << l.name;  // four standard deviations
    EXPECT_NEAR(squares / n / (bound * bound), 1.0 / 3, 4 * 0.3 / std::sqrt(n)) << l.name;
  }
}

TEST(Adapter, InitialValuesAreThoseOfTheSeedAndTheNameAlone) {
  const AdapterOptions all{.rank = 4}, some{.rank = 4, .target_modules = {"q_proj"}}, other{.rank = 4, .seed = 2};
  const Adapter x = Adapter::make(tiny(), all), y = Adapter::make(tiny(), some), z = Adapter::make(tiny(), other);
  EXPECT_EQ(y.layers.size(), 2u);
  EXPECT_EQ(x.find(kQuery)->a, y.find(kQuery)->a);
  EXPECT_NE(x.find(kQuery)->a, z.find(kQuery)->a);
  EXPECT_NE(x.find(kQuery)->a, x.find("model.layers.1.self_attn.q_proj")->a);
  std::set<float> distinct;
  for (const AdapterLayer& l : x.layers) distinct.insert(l.a.begin(), l.a.end());
  std::size_t values = 0;
  for (const AdapterLayer& l : x.layers) values += l.a.size();
  EXPECT_GT(distinct.size(), values * 99 / 100);
  // On every machine; computed apart from this library, in Python.
  EXPECT_EQ(x.find(kQuery)->a[0], 0x1.c18d520000000p-4f);
  EXPECT_EQ(x.find(kQuery)->a[255], -0x1.53abd20000000p-4f);
}

TEST(Adapter, TargetsAreNamesOrTheirLastParts) {
  const auto names = [](std::vector<std::string> targets) {
    std::vector<std::string> out;
    for (const auto& l : Adapter::make(tiny(), {.rank = 1, .target_modules = std::move(targets)}).layers)
      out.push_back(l.name);
    return out;
  };
  EXPECT_EQ(names({"model.layers.1.mlp.up_proj"}), std::vector<std::string>{"model.layers.1.mlp.up_proj"});
  EXPECT_EQ(names({"mlp.up_proj", "q_proj"}),
            (std::vector<std::string>{"model.layers.0.mlp.up_proj", kQuery, "model.layers.1.mlp.up_proj",
                                      "model.layers.1.self_attn.q_proj"}));
  EXPECT_EQ(names({"all-linear"}).size(), 14u);
  for (const char* wrong : {"lm_head", "proj", "model.layers.2.mlp.up_proj", "", "layers.0"})
    expect_error(ErrorCode::invalid_argument, "self_attn.q_proj, self_attn.k_proj", [&] { names({"q_proj", wrong}); });
}

TEST(Adapter, OptionsOutOfRangeAreRefused) {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  const auto make = [](const AdapterOptions& o) { return [o] { (void)Adapter::make(tiny(), o); }; };
  for (const std::size_t rank : {std::size_t{0}, ~std::size_t{0}})
    expect_error(ErrorCode::invalid_argument, "rank is " + std::to_string(rank), make({.rank = rank}));
  for (const double alpha : {0.0, -1.0, nan, inf, 1e300})
    expect_error(ErrorCode::invalid_argument, "alpha is", make({.alpha = alpha}));
  for (const double dropout : {-0.1, 1.0, nan})
    expect_error(ErrorCode::invalid_argument, "dropout is", make({.dropout = dropout}));
}

TEST(Adapter, LayersAreInNaturalOrder) {
  EXPECT_TRUE(natural_less("layers.2.x", "layers.10.x"));
  EXPECT_FALSE(natural_less("layers.10.x", "layers.2.x"));
  EXPECT_TRUE(natural_less("layers.1.b", "layers.2.a"));
  EXPECT_TRUE(natural_less("a", "a.b"));
  EXPECT_TRUE(natural_less("a.1", "a.b"));
  EXPECT_NE(natural_less("a.01", "a.1"), natural_less("a.1", "a.01"));
  EXPECT_FALSE(natural_less("a.1", "a.1"));
}

TEST(Adapter, IsHeldAgainstTheModel) {
  const auto with = [](const std::string& name, std::size_t in, std::size_t out) {
    Adapter a;
    a.layers.push_back({name, in, out, 1, 1, false, std::vector<float>(in), std::vector<float>(out), {}});
    return a;
  };
  EXPECT_NO_THROW(with("model.layers.1.mlp.down_proj", 112, 64).check(tiny()));
  expect_error(ErrorCode::shape_mismatch, "112 inputs and 64 outputs",
               [&] { with("model.layers.1.mlp.down_proj", 64, 112).check(tiny()); });
  for (const char* name : {"model.layers.2.mlp.down_proj", "model.layers.01.mlp.down_proj", "lm_head", "mlp.down_proj",
                           "model.layers.-1.mlp.down_proj", "model.layers.99999999999999999999.mlp.down_proj",
                           "model.layers.1.input_layernorm", "model.layers.", ""})
    expect_error(ErrorCode::not_found, std::string("'") + name + "'", [&] { with(name, 112, 64).check(tiny()); });
}

// --- writing

TEST(Adapter, EveryTypeAndVariantComesBack) {
  const TemporaryFolder folder;
  int n = 0;
  for (const bool rslora : {false, true})
    for (const bool dora : {false, true})
      for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
        const fs::path to = folder / std::to_string(n++);
        Adapter adapter = filled({.rank = 3, .alpha = 5.5, .rslora = rslora, .dora = dora});
        if (type != DType::f32)  // to values that have the type
          for (AdapterLayer& l : adapter.layers)
            for (auto* v : {&l.a, &l.b, &l.magnitude})
              for (float& x : *v) x = type == DType::f16 ? static_cast<float>(f16(x)) : static_cast<float>(bf16(x));
        adapter.save(to, type);
        expect_equal(adapter, Adapter::load(to));
        const SafetensorsFile file(to / "adapter_model.safetensors");
        for (const TensorInfo& t : file.tensors()) EXPECT_EQ(t.type, type);
      }
}

TEST(Adapter, OtherRanksAndAlphasAreNamed) {
  const TemporaryFolder folder;
  Adapter adapter = filled({.rank = 2, .alpha = 4});
  adapter.layers[3].alpha = 1.5;
  adapter.layers[5].rank = 1;
  adapter.layers[5].a.resize(adapter.layers[5].in);
  adapter.layers[5].b.resize(adapter.layers[5].out);
  adapter.save(folder / "a");
  expect_equal(adapter, Adapter::load(folder / "a"));
  const Json config = Json::parse(std::ifstream(folder / "a/adapter_config.json"));
  EXPECT_EQ(config.at("r"), 2);
  EXPECT_EQ(config.at("lora_alpha").dump(), "4");  // whole, as PEFT declares it
  EXPECT_EQ(config.at("rank_pattern"), (Json{{adapter.layers[5].name, 1}}));
  EXPECT_EQ(config.at("alpha_pattern"), (Json{{adapter.layers[3].name, 1.5}}));
  EXPECT_EQ(config.at("target_modules"),
            (Json{"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"}));
  // With a hole the last parts would name too much.
  adapter.layers.pop_back();
  adapter.save(folder / "b");
  const Json holed = Json::parse(std::ifstream(folder / "b/adapter_config.json")).at("target_modules");
  EXPECT_EQ(holed.size(), 13u);
  EXPECT_EQ(holed[0], "model.layers.0.mlp.down_proj");
}

TEST(Adapter, NamesThatPeftWouldConfuseAreRefused) {
  const TemporaryFolder folder;
  const auto layer = [](const std::string& name, std::size_t rank) {
    return AdapterLayer{name, 2, 2, rank, 1, false, std::vector<float>(2 * rank), std::vector<float>(2 * rank), {}};
  };
  Adapter adapter;
  adapter.layers = {layer("y", 1), layer("head", 2), layer("x.head", 3), layer("z", 1)};
  adapter.save(folder / "longer-first");
  EXPECT_EQ(Adapter::load(folder / "longer-first").find("x.head")->rank, 3u);
  EXPECT_EQ(Adapter::load(folder / "longer-first").find("head")->rank, 2u);
  adapter.layers[2] = layer("x.head", 1);  // "head" holds for it, too, and it has the usual rank
  expect_error(ErrorCode::unsupported, "x.head", [&] { adapter.save(folder / "a"); });
  adapter.layers = {layer("a+b", 2), layer("y", 1), layer("z", 1)};
  expect_error(ErrorCode::unsupported, "a+b", [&] { adapter.save(folder / "a"); });
  adapter.layers = {layer("a(b", 2), layer("y", 1), layer("z", 1)};
  expect_error(ErrorCode::unsupported, "rank_pattern", [&] { adapter.save(folder / "a"); });
  EXPECT_FALSE(fs::exists(folder / "a"));
}

TEST(Adapter, NothingIsWrittenOnError) {
  const TemporaryFolder folder;
  const Adapter good = filled({.rank = 2, .dora = true});
  const auto refused = [&](ErrorCode code, const std::string& says, auto&& change, DType type = DType::f32) {
    Adapter bad = good;
    change(bad);
    expect_error(code, says, [&] { bad.save(folder / "out", type); });
    expect_error(code, says, [&] { bad.write(folder.path(), type); });
    EXPECT_TRUE(fs::is_empty(folder.path())) << says;
  };
  const auto nothing = [](Adapter&) {};
  refused(ErrorCode::invalid_argument, "F64", nothing, DType::f64);
  refused(ErrorCode::invalid_argument, "U8", nothing, DType::u8);
  refused(ErrorCode::invalid_argument, "no layers", [](Adapter& a) { a.layers.clear(); });
  refused(ErrorCode::invalid_argument, "two layers", [](Adapter& a) { a.layers.push_back(a.layers[0]); });
  refused(ErrorCode::invalid_argument, "name ''", [](Adapter& a) { a.layers[0].name.clear(); });
  refused(ErrorCode::invalid_argument, "\\xff", [](Adapter& a) { a.layers[0].name = "\xff"; });
  refused(ErrorCode::invalid_argument, "UTF-8", [](Adapter& a) { a.base_model = "\xff"; });
  refused(ErrorCode::invalid_argument, "dropout", [](Adapter& a) { a.dropout = 1; });
  refused(ErrorCode::invalid_argument, "impossible", [](Adapter& a) { a.layers[1].rank = 0; });
  refused(ErrorCode::invalid_argument, "alpha", [](Adapter& a) { a.layers[1].alpha = std::nan(""); });
  refused(ErrorCode::invalid_argument, "rsLoRA", [](Adapter& a) { a.layers[1].rslora = true; });
  refused(ErrorCode::invalid_argument, "DoRA", [](Adapter& a) { a.layers[1].magnitude.clear(); });
  refused(ErrorCode::shape_mismatch, "magnitudes", [](Adapter& a) { a.layers[1].magnitude.pop_back(); });
  refused(ErrorCode::shape_mismatch, "in A", [](Adapter& a) { a.layers[1].a.pop_back(); });
  refused(ErrorCode::shape_mismatch, "in B", [](Adapter& a) { a.layers[1].b.push_back(0); });
  refused(ErrorCode::non_finite, "lora_A", [](Adapter& a) { a.layers[1].a[0] = std::nanf(""); });
  refused(
      ErrorCode::non_finite, "lora_B", [](Adapter& a) { a.layers[1].b[0] = 1e6f; }, DType::f16);
  good.save(folder / "out");
  const std::string before = text_of(folder / "out/adapter_model.safetensors");
  expect_error(ErrorCode::invalid_argument, "out", [&] { good.save(folder / "out"); });
  EXPECT_EQ(text_of(folder / "out/adapter_model.safetensors"), before);
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
