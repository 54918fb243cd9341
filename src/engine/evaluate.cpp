#include "nibble/engine/evaluate.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "core/output_path.h"
#include "log_softmax.h"
#include "nibble/scheme/rounding.h"
#include "reference.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

std::uint64_t fnv1a(std::span<const std::int32_t> ids) {
  std::uint64_t hash = 14695981039346656037u;
  for (std::byte b : std::as_bytes(ids)) hash = (hash ^ static_cast<std::uint64_t>(b)) * 1099511628211u;
  return hash;
}

/// A mean over predictions that come in windows, and how sure it is.
class WindowedMean {
 public:
  void add(double value) {
    sum_ += value;
    ++count_;
  }
  void end_window() {
    if (count_ > 0) windows_.push_back({sum_, static_cast<double>(count_)});
    sum_ = 0;
    count_ = 0;
  }
  [[nodiscard]] double mean() const {
    double sum = 0, count = 0;
    for (const auto& [s, n] : windows_) sum += s, count += n;
    return count == 0 ? 0 : sum / count;
  }
  /// Of a ratio of sums over windows (Cochran 1977, section 6.4).
  [[nodiscard]] double error() const {
    if (windows_.size() < 2) return 0;
    const double mean = this->mean();
    double squares = 0, count = 0;
    for (const auto& [s, n] : windows_) {
      squares += (s - mean * n) * (s - mean * n);
      count += n;
    }
    const auto k = static_cast<double>(windows_.size());
    return std::sqrt(squares * k / (k - 1)) / count;
  }

 private:
  double sum_ = 0;
  std::size_t count_ = 0;
  std::vector<std::pair<double, double>> windows_;
};

/// Throws Error{non_finite} for a forward pass over `ids` whose logits are no numbers: names the token, in the text
/// that they begin at `begin` of, and the first layer whose inputs are none. Runs the pass again to find them.
[[noreturn]] void refuse_logits(Model model, std::span<const std::int32_t> ids, std::size_t begin) {
  std::string where = "lm_head's weights, or the norm before it, make them so";
  std::size_t token = ids.size() - 1;
  bool found = false;
  model.set_linear_hook([&](std::string_view layer, MatrixView<const float> x) {
    for (std::size_t t = 0; t < x.rows && !found; ++t)
      if (const auto row = x.row(t); !std::all_of(row.begin(), row.end(), is_finite)) {
        found = true;
        token = t;
        where = "the first inputs to hold such a value are those of '" + std::string(layer) +
                "', so look at the weights before it";
      }
  });
  KvCache cache(model.config(), ids.size());
  (void)model.forward(ids, cache);
  throw Error(ErrorCode::non_finite, "the model's logits are NaN or infinite at token " +
                                         std::to_string(begin + token) + " of the text; " + where);
}

}  // namespace

double Evaluation::perplexity() const { return std::exp(nll / static_cast<double>(predicted)); }
double Evaluation::perplexity_change() const { return std::expm1(loss_change); }

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
  WindowedMean loss, divergence, change;
  KvCache cache(model.config(), std::min(options.window, ids.size()));
  std::size_t next = 1;  // the first token not yet predicted
  for (std::size_t begin = 0; next < ids.size() && begin + 1 < ids.size(); begin += options.stride) {
    report(options.progress, static_cast<double>(begin) / static_cast<double>(ids.size()), "evaluating");
    const std::size_t end = std::min(begin + options.window, ids.size());
    cache.clear();
    const auto given = ids.subspan(begin, end - begin);
    std::vector<float> logits = model.forward(given, cache);
    for (std::size_t target = std::max(next, begin + 1); target < end; ++target) {
      const std::span<float> row(logits.data() + (target - 1 - begin) * vocab, vocab);
      if (!log_softmax(row)) refuse_logits(model, given.first(target - begin), begin);
      const auto token = static_cast<std::size_t>(ids[target]);
      const auto log_probability = static_cast<double>(row[token]);
      result.nll -= log_probability;
      loss.add(-log_probability);
      if (compared) {
        if (const auto reference = compared->compare(row, token)) {
          result.kl += reference->kl;
          ++result.kl_predictions;
          divergence.add(reference->kl);
          change.add(reference->log_probability - log_probability);
        }
        if (!std::isfinite(result.kl))
          throw Error(ErrorCode::non_finite, "the divergence from the reference is no number at token " +
                                                 std::to_string(target) + " of the text: make the reference again");
      }
      if (saved) saved->add(row);
      ++result.predicted;
    }
    next = end;
    for (WindowedMean* m : {&loss, &divergence, &change}) m->end_window();
  }
  result.loss_error = loss.error();
  result.kl_error = divergence.error();
  result.loss_change = change.mean();
  result.loss_change_error = change.error();
  if (!std::isfinite(result.perplexity()))
    throw Error(ErrorCode::non_finite, "the mean loss is " +
                                           std::to_string(result.nll / static_cast<double>(result.predicted)) +
                                           " nats a token, too much for a perplexity: the weights are damaged, or not "
                                           "those of this configuration");
  if (saved) saved->finish();
  report(options.progress, 1, "evaluated");
  return result;
}

}  // namespace nibble::inline NIBBLE_ABI::engine
