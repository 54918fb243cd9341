#include "nibble/llama/evaluate.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/output_path.h"
#include "reference.h"

namespace nibble::llama {

namespace {

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
  header.rows = std::min<std::uint64_t>(ids.size() - 1, options.reference_limit / reference_row_bytes(vocab));
  std::optional<ReferenceWriter> saved;
  std::optional<ReferenceReader> compared;
  if (!options.save_reference.empty()) {
    if (header.rows == 0)
      throw Error(ErrorCode::invalid_argument, "a reference of " + std::to_string(options.reference_limit) +
                                                   " bytes holds no prediction of " + std::to_string(vocab) +
                                                   " tokens; raise its limit");
    files::check_output({options.save_reference, files::OutputKind::file, "the reference to be saved"},
                        {options.compare_reference});
    saved.emplace(options.save_reference, header);
  }
  if (!options.compare_reference.empty()) compared.emplace(options.compare_reference, header);

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
      if (compared)
        if (const auto kl = compared->divergence(row)) result.kl += *kl, ++result.kl_predictions;
      if (saved) saved->add(row);
      ++result.predicted;
    }
    next = end;
  }
  if (saved) saved->finish();
  report(options.progress, 1, "evaluated");
  return result;
}

}  // namespace nibble::llama
