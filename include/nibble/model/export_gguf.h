// A model directory to one GGUF file that llama.cpp runs: weights, configuration and tokenizer.
//
//   nibble::model::export_gguf("path/to/model", "model.gguf", {.type = nibble::BlockType::q4_k});
//
// Reading needs no call of its own: Model::load, Config::load and load_tokenizer take a .gguf file.
//
// The tokenizer goes along, with the model's chat templates, as llama.cpp's "gpt2" (byte-level BPE) or "llama"
// (SentencePiece). A model over plain bytes is written as a "gpt2" vocabulary of the 256 bytes in order with no merges:
// whatever words the pre-tokenizer cuts, each byte becomes its own token. Such a model has no token that begins or ends
// a text; llama.cpp then takes number 11, the vertical tab, for both, and is told not to add it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/core/progress.h"
#include "nibble/format/imatrix.h"
#include "nibble/model/calibrate.h"
#include "nibble/model/gguf_mix.h"
#include "nibble/model/type_plan.h"
#include "nibble/scheme/gguf_blocks.h"

namespace nibble::inline NIBBLE_ABI::model {

struct ExportGgufOptions {
  /// Of the blocks' linear layers: any that can_encode(). Norms and biases are F32; the embedding and the head have
  /// this type too if it is a float, else Q8_0. Where a row is no whole number of super-blocks the tensor takes, as in
  /// llama.cpp, Q4_0 for Q2_K and Q3_K, Q5_0 for Q4_K, Q5_1 for Q5_K, Q8_0 for Q6_K and IQ4_NL for IQ4_XS; and F16
  /// where it is no whole number of blocks.
  BlockType type = BlockType::f16;
  /// The types of a mix that people know by name instead (model/gguf_mix.h), the embedding and the head among them;
  /// `type` then means nothing. Null: of `type`.
  const GgufMix* mix = nullptr;
  /// The types of these tensors instead, over `type` and `mix`. Null: there is none.
  const TypePlan* plan = nullptr;
  /// What the errors of each input channel count where weights are encoded, under GGUF's names (engine::importance, or
  /// llama.cpp's imatrix); null: all alike. Tensors that are not in it are encoded as without. It is named in the file,
  /// as llama.cpp does it.
  const ImportanceMatrix* importance = nullptr;
  std::string importance_name = {};  ///< The file that it was read from, if any: for that.
  /// A file that would be larger is split over several of at most so many bytes, as llama.cpp reads them:
  /// "m-00001-of-00003.gguf", which is to be given, and so on. 0: one file.
  std::size_t part_bytes = 0;
  const Backend* backend = nullptr;  ///< Null: default_backend(). Decodes layers that are quantized.
  Executor* executor = nullptr;      ///< Null: default_executor().
  Progress progress = {};
};

/// Tensors of one type in the file written.
struct GgufTypeShare {
  BlockType type = BlockType::f32;
  std::size_t tensors = 0, bytes = 0;
  std::string why = {};  ///< Not empty: these have not the type asked for, and why.
};

struct ExportGgufReport {
  std::vector<GgufTypeShare> types;          ///< Of all tensors, those of a kind together, in the order of the file.
  std::vector<std::filesystem::path> files;  ///< One, or the parts.
  std::size_t file_bytes = 0;                ///< Of all of them.
  double bits_per_weight = 0;                ///< Over the blocks' linear layers, scales included.
  std::vector<LayerReport> layers;           ///< Those that GPTQ solved, in the order of the forward pass.
  std::vector<std::string>
      notes;  ///< What is not as asked for: a second quantization, dropped settings. (Types: above.)
};

/// Reads the model `from` and writes `to`, crash-safe, holding about one tensor at a time. Layers that are quantized
/// already keep their codes and scales where `type` is their exact form (exact_block_type), else they are decoded and
/// encoded again, and the notes say so. Errors: unsupported (a type that cannot be written, a tokenizer without a name
/// in llama.cpp), invalid_argument and shape_mismatch for an importance that is of another model, those of Checkpoint,
/// BlockMatrix::encode and GgufWriter.
ExportGgufReport export_gguf(const std::filesystem::path& from, const std::filesystem::path& to,
                             const ExportGgufOptions& options = {});

/// Bytes of the file that it would write. Errors as export_gguf's before it writes.
std::size_t gguf_file_bytes(const std::filesystem::path& from, const ExportGgufOptions& options = {});

/// The same with the blocks' linear layers solved by GPTQ: block by block on the tokens `ids`, each layer for what
/// those before it, in the codes of the file, give it (model/calibrate.h). `model` is an engine that has loaded `from`,
/// whose blocks take GGUF's (CalibratedBlock::replace_by_blocks). Layers of a type without codes (F16, where rows are
/// no whole blocks) stay, and so do those that `calibration` skips, which are rounded. Of `calibration`'s method gptaq
/// and qronos count, the rest is settled by `options`; rules, layout and lm_head have no meaning here. After an error
/// or a cancel the finished blocks stay in "<to>.partial" for resume. Errors beside those of export_gguf and calibrate:
/// invalid_argument for what has no meaning, for layers that are quantized already, and for a leftover of another run.
ExportGgufReport export_gguf_calibrated(const std::filesystem::path& from, const std::filesystem::path& to,
                                        CalibratedModel& model, std::span<const std::int32_t> ids,
                                        const ExportGgufOptions& options, const CalibrateOptions& calibration = {});

}  // namespace nibble::inline NIBBLE_ABI::model
