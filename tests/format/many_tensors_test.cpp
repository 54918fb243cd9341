// Files of very many tensors: reading and writing take time in proportion to how many there are.
#include <gtest/gtest.h>

#include <array>
#include <ctime>
#include <functional>

#include "nibble/core/error.h"
#include "nibble/format/checkpoint.h"
#include "nibble/format/gguf.h"
#include "tests/support/temporary_folder.h"

namespace nibble {
namespace {

using testing_support::TemporaryFolder;

/// The processor's time of the best of three: noise makes it only slower.
double seconds(const std::function<void()>& action) {
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    const std::clock_t begin = std::clock();
    action();
    best = std::min(best, static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
  }
  return best;
}

/// Eight times the tensors: eight times as long where each costs the same, 64 times where each looks at all others.
constexpr int kFew = 1000, kMany = 8 * kFew;
constexpr double kMaxGrowth = 32;

std::string name_of(int i) { return "model.layers." + std::to_string(i) + ".weight"; }

void write_safetensors(const std::filesystem::path& path, int count, DType type = DType::u8) {
  std::vector<TensorInfo> tensors;
  for (int i = 0; i < count; ++i) tensors.push_back({name_of(i), type, {1}, 0, 0});
  SafetensorsWriter writer(path, tensors, {{"format", "pt"}});
  for (const TensorInfo& t : tensors) writer.write(t.name, std::as_bytes(std::span("1234", size_of(type))));
  writer.finish();
}

void write_gguf(const std::filesystem::path& path, int count) {
  std::vector<GgufTensor> tensors;
  for (int i = 0; i < count; ++i) {
    GgufTensor t;
    t.name = name_of(i);
    t.type = BlockType::f32;
    t.shape = {8};
    tensors.push_back(t);
  }
  GgufWriter writer(path, {}, tensors);
  const std::array<float, 8> values{};
  for (const GgufTensor& t : tensors) writer.write(t.name, std::as_bytes(std::span(values)));
  writer.finish();
}

TEST(ManyTensors, SafetensorsIsWrittenAndReadInLinearTime) {
  const TemporaryFolder folder;
  const auto few = folder / "few.safetensors", many = folder / "many.safetensors";
  EXPECT_LT(seconds([&] { write_safetensors(many, kMany); }),
            kMaxGrowth * seconds([&] { write_safetensors(few, kFew); }));
  EXPECT_LT(seconds([&] { (void)Checkpoint::open(many); }), kMaxGrowth * seconds([&] { (void)Checkpoint::open(few); }));
  const Checkpoint checkpoint = Checkpoint::open(many);
  ASSERT_EQ(checkpoint.tensors().size(), static_cast<std::size_t>(kMany));
  EXPECT_TRUE(checkpoint.contains(name_of(4321)));
}

TEST(ManyTensors, GgufIsWrittenAndReadInLinearTime) {
  const TemporaryFolder folder;
  const auto few = folder / "few.gguf", many = folder / "many.gguf";
  EXPECT_LT(seconds([&] { write_gguf(many, kMany); }), kMaxGrowth * seconds([&] { write_gguf(few, kFew); }));
  EXPECT_LT(seconds([&] { (void)GgufFile(many); }), kMaxGrowth * seconds([&] { (void)GgufFile(few); }));
  EXPECT_EQ(GgufFile(many).info(name_of(4321)).name, name_of(4321));
}

TEST(ManyTensors, TheLayersOfOneAreFoundInLinearTime) {
  const TemporaryFolder folder;
  const auto look = [&](int count) {
    const auto path = folder / (std::to_string(count) + ".safetensors");
    write_safetensors(path, count, DType::f32);
    const Checkpoint checkpoint = Checkpoint::open(path);
    return seconds([&] {
      for (const TensorInfo& t : checkpoint.tensors()) EXPECT_FALSE(layout_of(checkpoint, *layer_of_tensor(t.name)));
    });
  };
  EXPECT_LT(look(kMany), kMaxGrowth * look(kFew));
}

/// The text of a name is the file's own business, whatever is in it; two of one name are nobody's.
TEST(ManyTensors, NamesComeBackAsTheyWent) {
  const TemporaryFolder folder;
  const std::string odd = "a\"b\\c\n\x01\xC3\xA9";
  const auto path = folder / "odd.safetensors";
  SafetensorsWriter writer(path, {{odd, DType::u8, {}, 0, 0}}, {{odd, odd}});
  writer.write(odd, std::as_bytes(std::span("x", 1)));
  writer.finish();
  const Checkpoint checkpoint = Checkpoint::open(path);
  EXPECT_EQ(checkpoint.tensors()[0].name, odd);
  EXPECT_EQ(checkpoint.find_metadata(odd), odd);
  EXPECT_THROW(SafetensorsWriter(path, {{"a", DType::u8, {}, 0, 0}, {"a", DType::u8, {}, 0, 0}}, {}), Error);
  EXPECT_THROW(SafetensorsWriter(path, {{"\xff", DType::u8, {}, 0, 0}}, {}), Error);
}

}  // namespace
}  // namespace nibble
