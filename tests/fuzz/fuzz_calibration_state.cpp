// Any bytes as what a killed calibration run left: its manifest, up to the first zero byte, and a finished block.
#include <algorithm>

#include "input.h"
#include "model/calibration_folder.h"
#include "nibble/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nibble;
  static const fuzz::Folder folder;
  static const std::filesystem::path output = folder.path() / "out";
  std::filesystem::create_directory(model::CalibrationFolder::of(output));
  const std::string_view input = fuzz::text_of(data, size);
  const std::size_t zero = std::min(input.find('\0'), input.size());
  folder.put("out.partial/manifest.json", input.substr(0, zero));
  try {
    const model::CalibrationFolder state(model::CalibrationFolder::of(output),
                                         {{"model", "m"}, {"method", "gptq-4-g128"}}, true);
    (void)state.finished(2);
  } catch (const Error&) {
  }
  const fuzz::MemoryFile block(input.substr(std::min(zero + 1, size)));
  try {
    const model::FinishedFile finished(block.path());
    for (const auto& layer : finished.layers()) finished.matrix(layer.report.layer).validate("fuzz");
    for (const auto& name : finished.vectors()) (void)finished.vector(name);
  } catch (const Error&) {
  }
  return 0;
}
