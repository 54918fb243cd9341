// No output may be an input, lie inside one or hold one, however its name is written.
#include "core/output_path.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::files {
namespace {

namespace fs = std::filesystem;
using testing_support::expect_error;
using testing_support::TemporaryFolder;

void put(const fs::path& path) { std::ofstream(path) << "text"; }

class OutputPath : public testing::Test {
 protected:
  OutputPath() {
    fs::create_directories(folder_ / "in/sub");
    put(folder_ / "in/model.safetensors");
    put(folder_ / "in/sub/file");
    put(folder_ / "other");
    fs::create_directory(folder_ / "blobs");
    put(folder_ / "blobs/abc");
    fs::create_symlink(folder_ / "blobs/abc", folder_ / "in/config.json");
  }
  void refused(const fs::path& output, const std::string& why, OutputKind kind = OutputKind::file) const {
    expect_error(ErrorCode::invalid_argument, why, [&] { check_output({output, kind}, {folder_ / "in"}); });
  }
  TemporaryFolder folder_;
};

TEST_F(OutputPath, AnInputIsRefusedByWhateverName) {
  fs::create_symlink(folder_ / "in/model.safetensors", folder_ / "link");
  fs::create_hard_link(folder_ / "in/model.safetensors", folder_ / "hard");
  fs::create_directory_symlink(folder_ / "in", folder_ / "in2");
  for (const char* name : {"in/model.safetensors", "in/../in/./model.safetensors", "in//model.safetensors", "link",
                           "hard", "in2/model.safetensors", "blobs/abc", "in/sub/file"})
    refused(folder_ / name, "is the input");
  refused(folder_ / "in", "is the input", OutputKind::folder);
  refused(folder_ / "in2/", "is the input", OutputKind::folder);
}

TEST_F(OutputPath, InsideAnInputIsRefusedByWhateverName) {
  fs::create_directory_symlink(folder_ / "in/sub", folder_ / "elsewhere");
  fs::create_directory(folder_ / "outside");
  fs::create_directory_symlink(folder_ / "outside", folder_ / "in/linked");
  for (const char* name :
       {"in/new", "in/sub/new", "in/sub/../new", "elsewhere/new", "outside/new", "outside/a/b/c", "in/a/b/c"})
    for (const OutputKind kind : {OutputKind::file, OutputKind::new_folder, OutputKind::folder})
      refused(folder_ / name, "lies inside the input", kind);
}

TEST_F(OutputPath, AFolderThatHoldsAnInputIsRefused) {
  refused(folder_.path(), "holds the input", OutputKind::folder);
  expect_error(ErrorCode::invalid_argument, "holds the input", [&] {
    check_output({folder_ / "blobs", OutputKind::folder}, {folder_ / "blobs/abc"});
  });
}

TEST_F(OutputPath, BesideAnInputIsAllowed) {
  for (const char* name : {"out", "in.gguf", "inside", "other", "blobs/new"})
    EXPECT_NO_THROW(check_output({folder_ / name}, {folder_ / "in"})) << name;
  EXPECT_NO_THROW(check_output({folder_ / "a/b/out", OutputKind::new_folder}, {folder_ / "in"}));
  EXPECT_NO_THROW(check_output({folder_ / "out"}, {"", folder_ / "nothing"}));
}

TEST_F(OutputPath, AFileIsAnInputWithTheShardsThatAreReadWithIt) {
  put(folder_ / "blobs/one.safetensors");
  put(folder_ / "blobs/two.safetensors");
  put(folder_ / "blobs/quantize_config.json");
  const fs::path input = folder_ / "blobs/one.safetensors";
  for (const char* name : {"one.safetensors", "two.safetensors", "quantize_config.json"})
    expect_error(ErrorCode::invalid_argument, "is the input",
                 [&] { check_output({folder_ / "blobs" / name}, {input}); });
  EXPECT_NO_THROW(check_output({folder_ / "blobs/new"}, {input}));
  EXPECT_NO_THROW(check_output({folder_ / "blobs/abc"}, {input}));
}

TEST_F(OutputPath, NamesThatCannotBeWrittenAreRefused) {
  refused("", "is empty");
  refused(fs::path(std::string("a\0b", 3)), "holds a NUL");
  refused(folder_ / std::string(256, 'x'), "a name of 256 bytes");
  refused(folder_ / std::string(256, 'x') / "out", "a name of 256 bytes", OutputKind::new_folder);
  std::string deep = folder_.path();
  while (deep.size() < 4096) deep += "/abcdefgh";
  refused(deep, "too long a path", OutputKind::new_folder);
  refused(folder_ / "nothing/out", "there is no folder");
  refused(folder_ / "other/out", "is no folder");
  refused(folder_ / "other/out", "is no folder", OutputKind::new_folder);
  refused(folder_ / "blobs", "is a folder");
  refused(folder_ / "out/", "names a folder");
  refused("/dev/null", "is a pipe or a device");
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  refused(folder_ / "pipe", "is a pipe or a device");
  refused(folder_ / "other", "exists already", OutputKind::new_folder);
  fs::create_symlink(folder_ / "nothing", folder_ / "dangling");
  refused(folder_ / "dangling", "exists already", OutputKind::new_folder);
  refused(folder_ / "dangling", "is no folder", OutputKind::folder);
}

TEST_F(OutputPath, TwoOutputsNeedTwoNames) {
  expect_error(ErrorCode::invalid_argument, "--plot", [&] {
    check_outputs({{folder_ / "a", OutputKind::file, "--json"}, {folder_ / "blobs/../a", OutputKind::file, "--plot"}},
                  {});
  });
  // A file may go into the folder that another output makes.
  EXPECT_NO_THROW(check_outputs({{folder_ / "out/", OutputKind::new_folder}, {folder_ / "out/report.json"}}, {}));
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::files
