#include "attention.h"

#include <cmath>
#include <string>

#include "needs.h"
#include "nibble/backend/impl/thread_scratch.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

/// Floats of a strip's products: with the keys and values that meet them they fit the second level of most caches.
constexpr std::size_t kStripFloats = std::size_t{1} << 17;
/// Queries of a strip at most, which bounds what is computed beyond the diagonal, and rows of products at least, on
/// which turning the keys is spent.
constexpr std::size_t kStripQueries = 64, kStripRows = 16;
/// Multiplications that are worth another thread's waking.
constexpr std::size_t kTaskProducts = std::size_t{1} << 20;

std::size_t queries_of_strip(const Attention& a) {
  const std::size_t group = a.heads() / a.kv_heads();
  const std::size_t fitting = kStripFloats / (round_up(a.keys.rows, kPanelWidth) * group);
  return std::clamp(fitting, (kStripRows + group - 1) / group, kStripQueries);
}

/// What a thread keeps from call to call.
struct Scratch {
  std::vector<float> products;  ///< [head of the group][query][stride]
  std::vector<float> sums;      ///< The same rows times the values: [head of the group][query][head_dim, whole panels]
  std::vector<float> panel;
};

float* room(std::vector<float>& memory, std::size_t n) {
  memory.resize(std::max(memory.size(), n));
  return memory.data();
}

/// One strip of the heads that share keys.
class StripForward {
 public:
  StripForward(const KernelTable& isa, const Attention& a, const Strip& strip, std::size_t kv_head, Scratch& scratch)
      : isa_(isa),
        a_(a),
        strip_(strip),
        kv_head_(kv_head),
        rows_(a.heads() / a.kv_heads() * strip.count),
        width_(round_up(a.head_dim, kPanelWidth)),
        products_(room(scratch.products, rows_ * strip.stride())),
        sums_(room(scratch.sums, rows_ * width_)),
        panel_(room(scratch.panel, std::max(kPanelDepth, a.head_dim) * kPanelWidth)) {}

  void run(MatrixView<float> out) {
    multiply_keys();
    const std::size_t group = rows_ / strip_.count;
    std::vector<float> totals(rows_);
    for (std::size_t r = 0; r < rows_; ++r)
      totals[r] = weigh(isa_, a_, strip_, strip_.first + r % strip_.count, products_ + r * strip_.stride(), nullptr);
    multiply_values();
    for (std::size_t r = 0; r < rows_; ++r) {
      float* to = &out(strip_.first + r % strip_.count, (kv_head_ * group + r / strip_.count) * a_.head_dim);
      for (std::size_t d = 0; d < a_.head_dim; ++d) to[d] = sums_[r * width_ + d] / totals[r];
    }
  }

 private:
  void multiply_keys() {
    const std::size_t dim = a_.head_dim, group = rows_ / strip_.count, stride = strip_.stride();
    std::fill_n(panel_, dim * kPanelWidth, 0.0f);
    for (std::size_t j = 0; j < strip_.keys; j += kPanelWidth) {
      isa_.transpose(&a_.keys(strip_.key + j, kv_head_ * dim), a_.keys.stride, std::min(kPanelWidth, strip_.keys - j),
                     dim, panel_, kPanelWidth);
      for (std::size_t h = 0; h < group; ++h)
        multiply(isa_, &a_.queries(strip_.first, (kv_head_ * group + h) * dim), a_.queries.stride, strip_.count, panel_,
                 dim, products_ + h * strip_.count * stride + j, stride);
    }
  }

  void multiply_values() {
    const std::size_t dim = a_.head_dim;
    for (std::size_t column = 0; column < dim; column += kPanelWidth)
      for (std::size_t j = 0; j < strip_.keys; j += kPanelDepth) {
        const std::size_t depth = std::min(kPanelDepth, strip_.keys - j), width = std::min(kPanelWidth, dim - column);
        const float* const values = &a_.values(strip_.key + j, kv_head_ * dim + column);
        const auto multiply_by = [&](const float* panel, std::size_t stride) {
          isa_.gemm_panel_add(products_ + j, strip_.stride(), rows_, panel, stride, depth, nullptr, j == 0,
                              sums_ + column, width_);
        };
        if (width == kPanelWidth && all_see(j, depth)) {
          multiply_by(values, a_.values.stride);
          continue;
        }
        copy_panel(values, a_.values.stride, depth, width, panel_);
        if (isa_.range(panel_, depth * kPanelWidth).finite) multiply_by(panel_, kPanelWidth);
        else multiply_seen(j, depth, sums_ + column);
      }
  }

  /// Whether every query of the strip sees keys [j, j + depth) of it.
  [[nodiscard]] bool all_see(std::size_t j, std::size_t depth) const {
    return a_.begin(strip_.first + strip_.count - 1) <= strip_.key + j &&
           a_.offset + strip_.first + 1 >= strip_.key + j + depth;
  }

  /// The same of a panel in which a value is not finite, row by row: 0 times that, where a query does not see it, would
  /// be no 0.
  void multiply_seen(std::size_t j, std::size_t depth, float* sums) {
    for (std::size_t r = 0; r < rows_; ++r) {
      const std::size_t t = strip_.first + r % strip_.count;
      const std::size_t seen = a_.begin(t) - strip_.key, first = std::clamp(seen, j, j + depth),
                        last = std::clamp(a_.offset + t + 1 - strip_.key, first, j + depth);
      isa_.gemm_panel_add(products_ + r * strip_.stride() + first, strip_.stride(), 1,
                          panel_ + (first - j) * kPanelWidth, kPanelWidth, last - first, nullptr, j == 0,
                          sums + r * width_, width_);
    }
  }

  const KernelTable& isa_;
  const Attention& a_;
  const Strip& strip_;
  std::size_t kv_head_, rows_, width_;
  float *products_, *sums_, *panel_;
};

}  // namespace

std::size_t Attention::begin(std::size_t t) const {
  const std::size_t last = offset + t + 1, seen = window != 0 && last > window ? last - window : 0;
  return first.empty() ? seen : std::max(seen, first[t]);
}

void Attention::validate() const {
  queries.validate("attention: queries");
  keys.validate("attention: keys");
  values.validate("attention: values");
  need("attention", "a head's remainder", head_dim == 0 ? 1 : (queries.cols % head_dim + keys.cols % head_dim), 0);
  need("attention", "the group's remainder", keys.cols == 0 ? 1 : heads() % kv_heads(), 0);
  need_shape("attention", "keys", keys, offset + queries.rows, keys.cols);
  need_shape("attention", "values", values, keys.rows, keys.cols);
  if (!(scale > 0))
    throw Error(ErrorCode::invalid_argument,
                "attention: the scale is " + std::to_string(scale) + "; it must be above 0");
  if (!first.empty()) need("attention", "first", first.size(), queries.rows);
  for (std::size_t t = 0; t < first.size(); ++t)
    if (first[t] > offset + t)
      throw Error(ErrorCode::invalid_argument, "attention: query " + std::to_string(t) +
                                                   " would see nothing, since it begins at key " +
                                                   std::to_string(first[t]));
}

std::vector<Document> documents_of(const Attention& a) {
  std::vector<Document> out;
  for (std::size_t t = 0; t < a.queries.rows;) {
    const std::size_t key = a.first.empty() ? 0 : a.first[t];
    std::size_t end = t;
    while (end < a.queries.rows && (a.first.empty() || a.first[end] == key)) ++end;
    Attention part = a;
    part.first = {};
    part.queries = a.queries.row_range(t, end - t);
    part.keys = a.keys.row_range(key, a.offset + end - key);
    part.values = a.values.row_range(key, a.offset + end - key);
    part.offset = a.offset + t - key;
    out.push_back({t, key, part});
    t = end;
  }
  return out;
}

Strip::Strip(const Attention& a, std::size_t first_query, std::size_t queries)
    : first(first_query),
      count(queries),
      key(a.begin(first_query) / kPanelDepth * kPanelDepth),
      keys(a.offset + first_query + queries - key) {}

float weigh(const KernelTable& isa, const Attention& a, const Strip& strip, std::size_t t, float* row, float* slopes) {
  const std::size_t begin = a.begin(t) - strip.key, end = a.offset + t + 1 - strip.key;
  float factor = a.scale;
  if (a.cap != 0) {
    factor = 1;
    for (std::size_t j = begin; j < end; ++j) {
      const float share = std::tanh(row[j] * a.scale / a.cap);
      row[j] = share * a.cap;
      if (slopes != nullptr) slopes[j] = 1 - share * share;
    }
  }
  const float most = isa.range(row + begin, end - begin).max;
  // Which of the sixteen sums a weight goes to is told by the key's place in its document.
  const std::size_t aligned = begin / kernels::kSumLanes * kernels::kSumLanes;
  std::fill(row + aligned, row + begin, -INFINITY);
  const float total = isa.exp_sum(row + aligned, end - aligned, factor, -(most * factor), row + aligned);
  std::fill(row, row + aligned, 0.0f);
  std::fill(row + end, row + strip.stride(), 0.0f);
  return total;
}

void attention(const Attention& a, MatrixView<float> out, Executor& executor, const Backend* backend) {
  a.validate();
  need_shape("attention", "out", out, a.queries.rows, a.queries.cols);
  struct Task {
    const Document* document;
    Strip strip;
    std::size_t kv_head;
  };
  const std::vector<Document> documents = documents_of(a);
  std::vector<Task> tasks;
  std::size_t products = 0;
  for (const Document& document : documents) {
    const Attention& part = document.part;
    const std::size_t queries = queries_of_strip(part);
    for (std::size_t t = 0; t < part.queries.rows; t += queries) {
      const Strip strip(part, t, std::min(queries, part.queries.rows - t));
      products += strip.count * strip.keys * a.queries.cols;
      for (std::size_t kv_head = 0; kv_head < a.kv_heads(); ++kv_head) tasks.push_back({&document, strip, kv_head});
    }
  }
  const std::size_t grain = 1 + kTaskProducts * tasks.size() / std::max<std::size_t>(1, products);
  const KernelTable& isa = kernels_of(backend);
  parallel_for(executor, tasks.size(), grain, [&](std::size_t begin, std::size_t end) {
    const ThreadScratch<Scratch> scratch;
    for (const Task& task : std::span(tasks).subspan(begin, end - begin)) {
      const Document& document = *task.document;
      StripForward(isa, document.part, task.strip, task.kv_head, *scratch)
          .run(out.row_range(document.first_query, document.part.queries.rows));
    }
  });
}

}  // namespace nibble::inline NIBBLE_ABI::engine
