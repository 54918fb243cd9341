// Whole models by GPTQ and AWQ: a model is gone through block by block on a calibration text, and each linear layer is
// quantized by what the layer then sees.
//
//   nibble::model::CalibrateOptions options;
//   options.method = CalibratedMethod::parse("gptq-4-g128-act");
//   auto report = nibble::engine::quantize_calibrated("model", "model-gptq", token_ids, options);
//
// GPTQ (Frantar et al. 2022) goes through the groups of layers that share an input in turn, each quantized for the
// inputs that those before, already quantized, give it; the next block sees what the quantized block gives. AWQ (Lin et
// al. 2023) searches the whole block as it was, and the next block sees what that gives.
//
// Any engine's model can be gone through so: it implements model/calibrated_block.h, and gets its finished blocks by a
// CalibrationSink (calibrate()), or as a model directory like one that engine::quantize_calibrated writes
// (quantize_calibrated()):
//
//   struct Keep : CalibrationSink {
//     void write(std::size_t index, FinishedBlock block) override { … }       // the layers' matrices, what AWQ folded
//   } sink;
//   auto report = nibble::model::calibrate(my_model, token_ids, options, sink);
//
// In a mixture of experts each expert's layers see the tokens that go to it. AWQ scales the gates and ups of all
// experts and the router's columns alike, for they have one norm before them, and an expert's down by itself.
//
// Memory: one block with its statistics (four matrices of in × in at most, and half a one of doubles for each expert),
// and the hidden states up to cache_bytes. GPTAQ and Qronos take twice that, the full-precision model's states and its
// block being there too, and for each of the statistics in × in doubles more. In a mixture of experts they pair the
// tokens that the quantized model sends to an expert with the same tokens in full precision; one that the
// full-precision model sends elsewhere counts as if its input were the same in both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/core/progress.h"
#include "nibble/format/quantized_tensors.h"
#include "nibble/matrix/block_matrix.h"

namespace nibble::inline NIBBLE_ABI::model {

/// How a linear layer is quantized, as text:
///
///   gptq-<bits>-g<size>|channel[-sym|-asym][-act][-static][-gar][-mse][-refit][-gptaq|-qronos]   gptq-4-g128-act
///   awq-<bits>-g<size>|channel[-sym|-asym][-noclip][-duo]                awq-4-g128
///   <a QuantSpec of integers>                                            int8, int4-g128-asym: rounded to nearest
///   gptq-<a GGUF type that can_encode()>[-gptaq|-qronos]                 gptq-q4_k: for export_gguf_calibrated() alone
///
/// Without -sym both store zero points, as "-asym" says. -act, -static, -gar and -mse are gptq::Options' act_order,
/// static_groups, act_group_aware and grid_search, -refit their refit_scales; -duo is awq::ScaleOptions::duo_scaling.
/// -gptaq is their alpha, of gptq::kPublishedAlpha, and -qronos their qronos: both make up for the difference between
/// what a layer sees in the quantized model and what it would see in full precision, for which the run carries both
/// models' hidden states (see Memory). bench/README.md says what each is worth.
struct CalibratedMethod {
  enum class Kind : std::uint8_t { round, gptq, awq } kind = Kind::gptq;
  QuantSpec spec{.scheme = SchemeKind::asymmetric};  ///< What is stored.
  std::optional<BlockType> blocks = {};  ///< GPTQ: blocks of this type are stored, and `spec` means nothing.
  bool act_order = false, static_groups = false, act_group_aware = false, grid_search = false;  ///< GPTQ
  bool refit_scales = false, gptaq = false, qronos = false;                                     ///< GPTQ
  bool clip = true, duo_scaling = false;                                                        ///< AWQ

  /// Whether it needs the layer's input in full precision beside that in the quantized model.
  [[nodiscard]] bool corrects_inputs() const { return gptaq || qronos; }

  friend bool operator==(const CalibratedMethod&, const CalibratedMethod&) = default;
  /// Error{invalid_argument} quotes the text and says what is wrong with it.
  static CalibratedMethod parse(std::string_view text);
  /// The text that parses back to this.
  [[nodiscard]] std::string to_string() const;
  /// Whether the text names GPTQ or AWQ, rightly or not.
  static bool is_calibrated(std::string_view text);
};

/// Layers of another treatment than the rest.
struct ModuleRule {
  std::string pattern;                     ///< A regular expression, found anywhere in the layer's name.
  std::optional<CalibratedMethod> method;  ///< None: left in floating point.
};

/// What became of one layer.
struct LayerReport {
  std::string layer;
  std::string method;  ///< Text of the CalibratedMethod.
  /// ½·tr(ΔW·H·ΔWᵀ), H = (2/tokens)·Σ x·xᵀ over what the layer saw (AWQ: a sample of it): the squared error of the
  /// outputs, summed over them, of a mean token; and the same had the layer been rounded to nearest. Neither counts
  /// GPTQ's damping. GPTAQ and Qronos aim at the outputs for other inputs, and leave more of this loss than GPTQ does.
  double loss = 0, rounding_loss = 0;
  double damp_percent = 0;  ///< GPTQ: the one that served.
  double coverage = 1;      ///< Share of the calibration tokens that it saw: an expert's layers do not see all.
  double ratio = 0;         ///< AWQ: the exponent chosen for the scales of its inputs.
  std::size_t dead_channels = 0;
  std::vector<std::string> recovery;  ///< GPTQ: what it took to factor the Hessian.
  std::string fallback;               ///< Not empty: the layer was rounded to nearest, and why.
};

struct CalibrateOptions {
  CalibratedMethod method;              ///< GPTQ or AWQ.
  std::vector<ModuleRule> rules;        ///< The first that matches a layer holds. GPTQ and AWQ do not go together.
  std::vector<std::string> skip, only;  ///< As QuantizeModelOptions; before the rules.
  bool lm_head = false;                 ///< Quantize the head too: by GPTQ, or to nearest. Not if it is tied.
  /// Null: gptq for symmetric GPTQ, gptq-v2 with zero points, awq for AWQ; where such a layout has no room for the
  /// layers, compressed-tensors, and failing that nibble.
  std::optional<CheckpointLayout> layout;

  std::size_t samples = 128;        ///< Sequences, evenly spaced over the text; as many as it has, if fewer.
  std::size_t sample_tokens = 512;  ///< Tokens of a sequence, or of the model's context if that is less.
  double damp_percent = 0.01;       ///< gptq::Options::damp_percent
  bool true_sequential = true;      ///< GPTQ: as described above; else a block's layers all see the block as it was.
  /// Hidden states of all sequences that may be held in memory; more go to a file (CalibrationSink::folder). Those of
  /// the full-precision model, with GPTAQ and Qronos, are as many again, and have a limit and a file of their own.
  std::size_t cache_bytes = std::size_t{4} << 30;
  /// Go on with what an earlier run with the same options left; the result is the same, byte for byte. Without it such
  /// a leftover is an error. (Of runs that write a model; folder_sink has its own.)
  bool resume = false;

  const Backend* backend = nullptr;  ///< Null: default_backend().
  Executor* executor = nullptr;      ///< Null: default_executor().
  Progress progress;
  std::function<void(const LayerReport&)> on_layer;  ///< Called as each layer is done; not for those of earlier runs.
};

/// A block as calibration leaves it: what takes the place of the weights that it had.
struct FinishedBlock {
  struct Layer {
    LayerReport report;
    QuantizedMatrix matrix;
    BlockMatrix blocks = {};    ///< Instead of the matrix, where the method is of GGUF's blocks; else of no rows.
    DType dtype = DType::bf16;  ///< Of the weights before.

    [[nodiscard]] bool has_blocks() const { return blocks.rows > 0; }
  };
  std::vector<Layer> layers;
  std::map<std::string, std::vector<float>> vectors;  ///< Norms and biases that AWQ changed, by name.
};

/// Where the finished blocks of a run go, one at a time.
class CalibrationSink {
 public:
  /// All that the result depends on, by name.
  using Manifest = std::map<std::string, std::string>;

  virtual ~CalibrationSink() = default;
  /// Before any work: how many of the `count` blocks, from the first on, an earlier run of the same manifest left
  /// finished here. They are read, not done again. The head counts as the block behind the last.
  virtual std::size_t begin(const Manifest&, std::size_t) { return 0; }
  /// Blocks come in their order. An error ends the run.
  virtual void write(std::size_t index, FinishedBlock block) = 0;
  /// A block that begin() counted.
  [[nodiscard]] virtual FinishedBlock read(std::size_t index) const;
  /// Where hidden states go that memory has no room for; empty: the system's folder for temporary files.
  [[nodiscard]] virtual std::filesystem::path folder() const { return {}; }
};

/// Keeps each finished block as a file in `folder`, so that a run that was ended at any moment can go on, and gives any
/// of them back by read(). Errors of begin(): invalid_argument where such files are there and not `resume`, another
/// process is at work there, or the manifest is another (names the first difference).
std::unique_ptr<CalibrationSink> folder_sink(std::filesystem::path folder, bool resume);

struct CalibrateReport {
  std::vector<LayerReport> layers;  ///< In the order of the forward pass; those of earlier runs too.
  CheckpointLayout layout = CheckpointLayout::nibble;
  std::size_t samples = 0, tokens = 0;  ///< Of calibration.
  std::size_t blocks = 0, resumed = 0;  ///< Blocks, and those found finished.
  bool complete_before = false;         ///< With resume: the output was there already, made by the same options.
  std::size_t file_bytes = 0;           ///< Of model.safetensors, where one is written.
  double bits_per_weight = 0;           ///< Over the quantized layers, scales included.
  /// Files beside the weights that were not copied, each with the reason: "pytorch_model.bin (weights)".
  std::vector<std::string> left_out;
  std::vector<std::string> notes;  ///< Of a GGUF input: a tokenizer that could not be written.
};

class CalibratedModel;

/// Goes through a model of any engine. The blocks given to `sink` do not depend on the number of threads, on the
/// backend, on where hidden states lie, or on how often the run was ended and begun again; of the options, layout and
/// resume mean nothing here. Errors: invalid_argument (an option out of range; a rule that matches nothing; fewer than
/// two tokens, or an id outside the vocabulary), those of gptq::solve and awq::search_scales, the engine's and the
/// sink's, cancelled. What went wrong in a block is said with its number, and the blocks before it are in the sink.
CalibrateReport calibrate(CalibratedModel& model, std::span<const std::int32_t> ids, const CalibrateOptions& options,
                          CalibrationSink& sink);

/// The same, and writes the model `to`, which must not exist, as quantize_model does: `from`, a dense model's directory
/// of any model_type or a GGUF file, with the layers that `model`, an engine that has loaded it, names as `from` does.
/// `to` appears complete or not at all; after an error or a cancel the finished blocks stay in "<to>.partial" for
/// resume. Errors beside those: invalid_argument (`to` or a leftover exists; a layer that is quantized already),
/// not_found (a layer that `from` has not), unsupported (the layout cannot hold a layer, said before any work).
CalibrateReport quantize_calibrated(const std::filesystem::path& from, const std::filesystem::path& to,
                                    CalibratedModel& model, std::span<const std::int32_t> ids,
                                    const CalibrateOptions& options);

}  // namespace nibble::inline NIBBLE_ABI::model
