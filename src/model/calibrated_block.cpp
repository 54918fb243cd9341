#include "nibble/model/calibrated_block.h"

#include "nibble/core/error.h"
#include "nibble/model/calibrate.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

[[noreturn]] void refuse(const char* promise, const char* missing) {
  throw Error(ErrorCode::unsupported,
              std::string("this block says that ") + promise + " and does not implement " + missing);
}

}  // namespace

bool scaled_with_previous(std::span<const LayerGroup> groups, std::size_t group) {
  if (group == 0 || !groups[group].beside_previous) return false;
  const ScaleSource &source = groups[group].source, &before = groups[group - 1].source;
  return source.is_norm() && !source.is_linear && !before.is_linear && source.norm.name == before.norm.name;
}

void CalibratedBlock::replace_by_blocks(LayerId, BlockMatrix) {
  throw Error(ErrorCode::unsupported,
              "the engine's blocks do not multiply GGUF's: its CalibratedBlock does not implement replace_by_blocks()");
}

void CalibratedBlock::resume(std::size_t, MatrixView<const float>, MatrixView<float>, Listener) {
  refuse("a pass can begin within it (resumes_at)", "resume()");
}

std::span<const std::size_t> CalibratedBlock::tokens_of(std::size_t) const {
  throw Error(
      ErrorCode::unsupported,
      "GPTAQ and Qronos pair the tokens of an expert with those in full precision: the engine's CalibratedBlock "
      "does not implement tokens_of()");
}

void CalibratedBlock::run_module(std::size_t, std::span<const FloatMatrix>, std::span<const MatrixView<const float>>,
                                 Outputs) {
  refuse("a group begins a module (has_module)", "run_module()");
}

std::vector<CalibratedLayer> CalibratedModel::layers(std::size_t index) {
  std::vector<CalibratedLayer> out;
  const std::unique_ptr<CalibratedBlock> asked = block(index);
  for (const LayerGroup& group : asked->groups()) out.insert(out.end(), group.layers.begin(), group.layers.end());
  return out;
}

FinishedBlock CalibrationSink::read(std::size_t index) const {
  throw Error(ErrorCode::unsupported,
              "the sink gives no block back, and block " + std::to_string(index) + " is needed to go on from");
}

}  // namespace nibble::inline NIBBLE_ABI::model
