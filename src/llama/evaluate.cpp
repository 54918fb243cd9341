#include "nibble/llama/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "core/files.h"
#include "core/output_path.h"
#include "core/pending.h"

namespace nibble::llama {

namespace {

/// What a reference file must agree on before its numbers mean anything.
struct ReferenceHeader {
  char magic[8] = {'n', 'i', 'b', 'l', 'r', 'e', 'f', '1'};
  std::uint64_t vocab = 0, tokens = 0, window = 0, stride = 0, text_hash = 0;
};

std::uint64_t fnv1a(std::span<const std::int32_t> ids) {
  std::uint64_t hash = 14695981039346656037u;
  for (std::byte b : std::as_bytes(ids)) hash = (hash ^ static_cast<std::uint64_t>(b)) * 1099511628211u;
  return hash;
}

void log_softmax(std::span<float> x) {
  float most = x[0];
  for (float v : x) most = std::max(most, v);
  double sum = 0;
  for (float v : x) sum += std::exp(static_cast<double>(v - most));
  const auto shift = static_cast<float>(std::log(sum)) + most;
  for (float& v : x) v -= shift;
}

double divergence(std::span<const float> reference, std::span<const float> other) {
  double sum = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const auto r = static_cast<double>(reference[i]);
    sum += std::exp(r) * (r - static_cast<double>(other[i]));
  }
  return sum;
}

/// The reference being written or read beside the evaluation.
class Reference {
 public:
  Reference(const EvaluateOptions& options, const ReferenceHeader& header) {
    if (!options.save_reference.empty()) {
      files::check_output({options.save_reference, files::OutputKind::file, "the reference to be saved"},
                          {options.compare_reference});
      out_.emplace(options.save_reference);
      append(std::as_bytes(std::span(&header, 1)));
    }
    if (!options.compare_reference.empty()) {
      path_ = options.compare_reference;
      in_ = files::open_input(path_);
      ReferenceHeader theirs;
      take(std::as_writable_bytes(std::span(&theirs, 1)));
      if (std::memcmp(&theirs, &header, sizeof header) != 0)
        throw Error(ErrorCode::corrupt_file,
                    "'" + path_.string() + "' is not a reference for this text, vocabulary and window; make it again");
    }
  }

  void save(std::span<const float> row) {
    if (out_) append(std::as_bytes(row));
  }
  /// KL of the next reference row against `row`; 0 without a reference.
  double compare(std::span<const float> row) {
    if (in_.get() < 0) return 0;
    buffer_.resize(row.size());
    take(std::as_writable_bytes(std::span(buffer_)));
    return divergence(buffer_, row);
  }
  /// The file to be saved gets its name.
  void finish() {
    if (out_) out_->commit();
  }

 private:
  void append(std::span<const std::byte> bytes) {
    out_->write(bytes, written_);
    written_ += bytes.size();
  }
  void take(std::span<std::byte> bytes) {
    files::read_at(in_.get(), bytes, read_, path_);
    read_ += bytes.size();
  }

  std::filesystem::path path_;
  std::optional<files::PendingFile> out_;
  files::Descriptor in_;
  std::size_t written_ = 0, read_ = 0;
  std::vector<float> buffer_;
};

}  // namespace

double Evaluation::perplexity() const { return std::exp(nll / static_cast<double>(predicted)); }

Evaluation evaluate(const Model& model, std::span<const std::int32_t> ids, const EvaluateOptions& options) {
  if (options.max_tokens != 0) ids = ids.first(std::min(ids.size(), options.max_tokens));
  if (ids.size() < 2)
    throw Error(ErrorCode::invalid_argument,
                "a text of " + std::to_string(ids.size()) + " tokens predicts nothing; at least 2 are needed");
  if (options.window < 2 || options.stride < 1 || options.stride > options.window)
    throw Error(ErrorCode::invalid_argument, "window " + std::to_string(options.window) + " and stride " +
                                                 std::to_string(options.stride) +
                                                 ": the window must be at least 2 and the stride 1 to the window");
  const std::size_t vocab = model.config().vocab;
  ReferenceHeader header;
  header.vocab = vocab;
  header.tokens = ids.size();
  header.window = options.window;
  header.stride = options.stride;
  header.text_hash = fnv1a(ids);
  Reference reference(options, header);

  Evaluation result;
  KvCache cache(model.config(), std::min(options.window, ids.size()));
  std::size_t next = 1;  // the first token not yet predicted
  for (std::size_t begin = 0; next < ids.size() && begin + 1 < ids.size(); begin += options.stride) {
    report(options.progress, static_cast<double>(begin) / static_cast<double>(ids.size()), "evaluating");
    const std::size_t end = std::min(begin + options.window, ids.size());
    cache.clear();
    std::vector<float> logits = model.forward(ids.subspan(begin, end - begin), cache);
    for (std::size_t target = std::max(next, begin + 1); target < end; ++target) {
      const std::span<float> row(logits.data() + (target - 1 - begin) * vocab, vocab);
      log_softmax(row);
      result.nll -= static_cast<double>(row[static_cast<std::size_t>(ids[target])]);
      result.kl += reference.compare(row);
      reference.save(row);
      ++result.predicted;
    }
    next = end;
  }
  reference.finish();
  report(options.progress, 1, "evaluated");
  return result;
}

}  // namespace nibble::llama
