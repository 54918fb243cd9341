// Importance matrices: how much each input channel of a model's linear layers carries, as llama.cpp's imatrix tool
// measures it and its quantizer, and ours (BlockMatrix::encode), weigh errors by it.
//
//   auto importance = nibble::ImportanceMatrix::read("model.imatrix");
//   auto blocks = BlockMatrix::encode(w, BlockType::q4_k, name, executor, importance.mean_squares(name, w.cols));
//
// Both of llama.cpp's files are read and written:
//
//   GGUF     general.type "imatrix"; imatrix.datasets (strings), imatrix.chunk_count, imatrix.chunk_size (u32); and of
//            each weight W of K columns: W.in_sum2 F32 [experts, K], the sums of squares of its inputs, and W.counts
//            F32 [experts, 1], over how many tokens. (W.in_sum, of later versions, is not read.)
//   legacy   i32 entries; each: i32 length, name, i32 calls, i32 values, f32 values, which are means times calls.
//            Behind them i32 chunks, i32 length, name of the text. A call is a chunk, which is taken for 512 tokens.
//            Experts lie in a row.
//
// Names are those of GGUF's weights: "blk.3.ffn_down.weight". Source: llama.cpp, common/imatrix-loader.cpp and
// tools/imatrix/imatrix.cpp. A file is untrusted: a refusal is Error{corrupt_file} that names the entry.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/core/abi.h"
#include "nibble/core/matrix_view.h"

namespace nibble::inline NIBBLE_ABI {

class ImportanceMatrix {
 public:
  /// Of one weight, or of a stack of experts' weights that share a name.
  struct Entry {
    std::size_t columns = 0;
    std::vector<double> sums;    ///< Σ x² of each input channel: [experts][columns].
    std::vector<double> counts;  ///< Over so many tokens: [experts].

    [[nodiscard]] std::size_t experts() const { return counts.size(); }
  };
  enum class Form : std::uint8_t { gguf, legacy };

  /// Either form, told apart by what the file begins with. Errors: not_found, io; corrupt_file; non_finite names an
  /// entry that holds a NaN, an infinity or less than 0.
  static ImportanceMatrix read(const std::filesystem::path& path);
  /// Crash-safe. Error{io}; invalid_argument where nothing is in it, and for a name that has no room in GGUF (over 55
  /// bytes).
  void write(const std::filesystem::path& path, Form form = Form::gguf) const;

  /// Counts a batch of inputs x [tokens, columns] of a weight; of expert `expert` out of `experts`. Errors:
  /// shape_mismatch where the weight had other columns or experts; non_finite names token, channel and value, and
  /// nothing of the batch is counted then.
  void add(std::string_view weight, MatrixView<const float> x, std::size_t expert = 0, std::size_t experts = 1);
  /// Adds what another holds, of another text say. Error{shape_mismatch} names a weight of another shape there.
  void merge(const ImportanceMatrix& other);

  [[nodiscard]] const Entry* find(std::string_view weight) const;
  /// What BlockMatrix::encode takes: the mean square of each of a weight's `columns` input channels; all 1 of an expert
  /// that no token went to. Empty where the weight is not in here; Error{shape_mismatch} where it has another shape.
  [[nodiscard]] std::vector<float> mean_squares(std::string_view weight, std::size_t columns, std::size_t expert = 0,
                                                std::size_t experts = 1) const;

  [[nodiscard]] const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }

  std::vector<std::string> datasets;  ///< What was read for it.
  /// The text went in pieces of so many tokens, and so many of them. Of both forms' headers; llama.cpp's defaults.
  std::uint32_t chunk_size = 512, chunk_count = 0;

 private:
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace nibble::inline NIBBLE_ABI
