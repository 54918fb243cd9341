// The model's file is cut off while a command is at work with it: Error{io} that names it, and no output.
#include <gtest/gtest.h>

#include <functional>

#include "nibble/core/mapped_files.h"
#include "nibble/engine/calibrate.h"
#include "nibble/engine/evaluate.h"
#include "nibble/model/convert.h"
#include "nibble/model/export_gguf.h"
#include "nibble/model/quantize.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using testing_support::expect_error;
using testing_support::TemporaryFolder;
using testing_support::write_tiny_model;

class ChangedInput : public testing::Test {
 protected:
  ChangedInput() {
    guard_mapped_files();
    write_tiny_model(folder_ / "in");
  }
  /// A progress callback that cuts the file at the `calls`-th time.
  Progress cut(const fs::path& model, int calls) {
    return [file = model / "model.safetensors", calls](double, std::string_view) mutable {
      if (--calls == 0) fs::resize_file(file, fs::file_size(file) / 8);
      return true;
    };
  }
  /// With the cut at several moments.
  void each_cut(const std::function<void(const Progress&, const fs::path& model)>& command) {
    for (const int calls : {1, 2, 7}) {
      const fs::path model = folder_ / "cut", out = folder_ / "out";
      fs::remove_all(model);
      fs::copy(folder_ / "in", model);
      expect_error(ErrorCode::io, "'" + (model / "model.safetensors").string() + "' was cut off",
                   [&] { command(cut(model, calls), model); });
      EXPECT_FALSE(fs::exists(out)) << calls;
    }
  }
  TemporaryFolder folder_;
};

TEST_F(ChangedInput, QuantizeWritesNothing) {
  each_cut([&](const Progress& progress, const fs::path& model) {
    QuantizeModelOptions options;
    options.spec = QuantSpec::parse("int8");
    options.progress = progress;
    (void)quantize_model(model, folder_ / "out", options);
  });
}

TEST_F(ChangedInput, ConvertWritesNothing) {
  QuantizeModelOptions quantize;
  quantize.spec = QuantSpec::parse("int4-g32-sym");
  (void)quantize_model(folder_ / "in", folder_ / "q", quantize);
  fs::remove_all(folder_ / "in");
  fs::rename(folder_ / "q", folder_ / "in");
  each_cut([&](const Progress& progress, const fs::path& model) {
    ConvertModelOptions options;
    options.to = CheckpointLayout::nibble;
    options.progress = progress;
    (void)convert_model(model, folder_ / "out", options);
  });
}

TEST_F(ChangedInput, ExportWritesNothing) {
  each_cut([&](const Progress& progress, const fs::path& model) {
    ExportGgufOptions options;
    options.progress = progress;
    (void)export_gguf(model, folder_ / "out", options);
  });
}

TEST_F(ChangedInput, CalibrationWritesNothing) {
  each_cut([&](const Progress& progress, const fs::path& model) {
    CalibrateOptions options;
    options.method = CalibratedMethod::parse("gptq-4-g32");
    options.samples = 1;
    options.sample_tokens = 8;
    options.progress = progress;
    fs::remove_all(folder_ / "out.partial");
    (void)engine::quantize_calibrated(model, folder_ / "out", std::vector<std::int32_t>(16, 7), options);
  });
}

TEST_F(ChangedInput, ALoadedModelGivesNoLogits) {
  const engine::Model model = engine::Model::load(folder_ / "in");
  const fs::path file = folder_ / "in/model.safetensors";
  const std::vector<std::int32_t> ids(8, 200);
  EXPECT_NO_THROW((void)evaluate(model, ids));
  fs::resize_file(file, 4096);
  expect_error(ErrorCode::io, "was cut off", [&] { (void)evaluate(model, ids); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
