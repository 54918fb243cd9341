#include "attention.h"

#include "needs.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

/// Queries of a strip: with the heads of most groups their rows fill one part of a sum over queries.
constexpr std::size_t kStripQueries = 32;
/// Keys that a task adds the gradients of.
constexpr std::size_t kTaskKeys = 64;

struct Gradients {
  MatrixView<float> queries, keys, values;
};

/// Adds the first `width` columns of a tile [rows, kPanelWidth].
void add_tile(const float* tile, std::size_t rows, std::size_t width, float* to, std::size_t stride) {
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < width; ++c) to[r * stride + c] += tile[r * kPanelWidth + c];
}

/// A document's gradient, strip by strip. Each strip has two steps: by heads, the weights, their slopes and the
/// queries' gradients; then by keys, which take what all heads of theirs have found. Within a step tasks touch nothing
/// of each other's.
class DocumentGradient {
 public:
  DocumentGradient(const KernelTable& isa, const Attention& a, MatrixView<const float> out,
                   MatrixView<const float> grad_out, const Gradients& to)
      : isa_(isa),
        a_(a),
        out_(out),
        grad_out_(grad_out),
        to_(to),
        dim_(a.head_dim),
        group_(a.heads() / a.kv_heads()),
        panels_(round_up(a.keys.rows, kPanelWidth) / kPanelWidth),
        column_panels_(round_up(dim_, kPanelWidth) / kPanelWidth),
        turned_keys_(panels_ * kPanelWidth * a.keys.cols),
        turned_values_(turned_keys_.size()),
        key_panels_(a.keys.rows * a.kv_heads() * column_panels_ * kPanelWidth) {}

  /// What is to be done before the first strip: panel p of the keys and values of every head.
  [[nodiscard]] std::size_t panels() const { return panels_; }
  void prepare(std::size_t p) {
    const std::size_t first = p * kPanelWidth, count = std::min(kPanelWidth, a_.keys.rows - first);
    for (std::size_t g = 0; g < a_.kv_heads(); ++g) {
      isa_.transpose(&a_.keys(first, g * dim_), a_.keys.stride, count, dim_, turned(turned_keys_, g, p), kPanelWidth);
      isa_.transpose(&a_.values(first, g * dim_), a_.values.stride, count, dim_, turned(turned_values_, g, p),
                     kPanelWidth);
      for (std::size_t c = 0; c < column_panels_; ++c)
        copy_panel(&a_.keys(first, g * dim_ + c * kPanelWidth), a_.keys.stride, count, columns(c),
                   key_panel(g, c) + first * kPanelWidth);
    }
  }

  [[nodiscard]] std::size_t strips() const { return (a_.queries.rows + kStripQueries - 1) / kStripQueries; }
  void begin(std::size_t strip) {
    const std::size_t first = strip * kStripQueries;
    strip_ = Strip(a_, first, std::min(kStripQueries, a_.queries.rows - first));
    weights_.resize(a_.heads() * strip_.count * strip_.stride());
    slopes_.resize(weights_.size());
  }
  [[nodiscard]] std::size_t heads() const { return a_.heads(); }
  void of_head(std::size_t h) {
    multiply_keys_and_values(h);
    std::vector<float> score_slopes(a_.cap != 0 ? strip_.stride() : 0);
    for (std::size_t t = 0; t < strip_.count; ++t) find_slopes(h, t, score_slopes);
    add_query_gradients(h);
  }
  [[nodiscard]] std::size_t key_tasks() const { return a_.kv_heads() * parts(); }
  void of_keys(std::size_t task) const {
    const std::size_t g = task / parts(), first = task % parts() * kTaskKeys;
    const std::size_t count = std::min(kTaskKeys, strip_.keys - first);
    add_gradients(g, first, count, weights_, grad_out_, to_.values);
    add_gradients(g, first, count, slopes_, a_.queries, to_.keys);
  }

 private:
  [[nodiscard]] std::size_t parts() const { return (strip_.keys + kTaskKeys - 1) / kTaskKeys; }
  /// Columns of a head in its panel c.
  [[nodiscard]] std::size_t columns(std::size_t c) const { return std::min(kPanelWidth, dim_ - c * kPanelWidth); }
  /// [head_dim][kPanelWidth], of the keys from p·kPanelWidth on.
  [[nodiscard]] float* turned(std::vector<float>& all, std::size_t g, std::size_t p) const {
    return all.data() + (g * panels_ + p) * dim_ * kPanelWidth;
  }
  /// [keys][kPanelWidth]
  [[nodiscard]] float* key_panel(std::size_t g, std::size_t c) {
    return key_panels_.data() + (g * column_panels_ + c) * a_.keys.rows * kPanelWidth;
  }
  /// The strip's rows of a head, in weights_ or slopes_.
  [[nodiscard]] std::size_t rows_of(std::size_t h) const { return h * strip_.count * strip_.stride(); }

  void multiply_keys_and_values(std::size_t h) {
    const std::size_t g = h / group_, stride = strip_.stride();
    for (std::size_t j = 0; j < strip_.keys; j += kPanelWidth) {
      const std::size_t p = (strip_.key + j) / kPanelWidth;
      multiply(isa_, &a_.queries(strip_.first, h * dim_), a_.queries.stride, strip_.count, turned(turned_keys_, g, p),
               dim_, weights_.data() + rows_of(h) + j, stride);
      multiply(isa_, &grad_out_(strip_.first, h * dim_), grad_out_.stride, strip_.count, turned(turned_values_, g, p),
               dim_, slopes_.data() + rows_of(h) + j, stride);
    }
  }

  /// Makes of products of query t the weights, and d loss / d (query·key): weight·(grad_out·value − Σ weight·(grad_out·
  /// value))·d score / d product, where that sum is grad_out·out.
  void find_slopes(std::size_t h, std::size_t t, std::vector<float>& score_slopes) {
    const std::size_t query = strip_.first + t;
    float *weights = weights_.data() + rows_of(h) + t * strip_.stride(),
          *slopes = slopes_.data() + rows_of(h) + t * strip_.stride();
    const float share = 1 / weigh(isa_, a_, strip_, query, weights, score_slopes.data());
    double sum = 0;
    for (std::size_t d = 0; d < dim_; ++d)
      sum += static_cast<double>(grad_out_(query, h * dim_ + d)) * static_cast<double>(out_(query, h * dim_ + d));
    const auto mean = static_cast<float>(sum);
    for (std::size_t j = 0; j < strip_.stride(); ++j) {
      weights[j] *= share;
      slopes[j] = weights[j] * (slopes[j] - mean) * a_.scale;
    }
    if (a_.cap == 0) return;
    for (std::size_t j = 0; j < strip_.keys; ++j) slopes[j] *= score_slopes[j];
  }

  void add_query_gradients(std::size_t h) {
    float tile[kStripQueries * kPanelWidth];
    for (std::size_t c = 0; c < column_panels_; ++c) {
      multiply(isa_, slopes_.data() + rows_of(h), strip_.stride(), strip_.count,
               key_panel(h / group_, c) + strip_.key * kPanelWidth, strip_.keys, tile, kPanelWidth);
      add_tile(tile, strip_.count, columns(c), &to_.queries(strip_.first, h * dim_ + c * kPanelWidth),
               to_.queries.stride);
    }
  }

  /// to [keys] += Σ over the strip's queries, of all heads that have these keys, of factor·row.
  void add_gradients(std::size_t g, std::size_t first, std::size_t count, const std::vector<float>& factors,
                     MatrixView<const float> rows, MatrixView<float> to) const {
    const std::size_t depth = group_ * strip_.count;
    std::vector<float> turned(kTaskKeys * depth), panel(depth * kPanelWidth);
    for (std::size_t i = 0; i < group_; ++i)
      isa_.transpose(factors.data() + rows_of(g * group_ + i) + first, strip_.stride(), strip_.count, count,
                     turned.data() + i * strip_.count, depth);
    float tile[kTaskKeys * kPanelWidth];
    for (std::size_t c = 0; c < column_panels_; ++c) {
      for (std::size_t i = 0; i < group_; ++i)
        copy_panel(&rows(strip_.first, (g * group_ + i) * dim_ + c * kPanelWidth), rows.stride, strip_.count,
                   columns(c), panel.data() + i * strip_.count * kPanelWidth);
      multiply(isa_, turned.data(), depth, count, panel.data(), depth, tile, kPanelWidth);
      add_tile(tile, count, columns(c), &to(strip_.key + first, g * dim_ + c * kPanelWidth), to.stride);
    }
  }

  const KernelTable& isa_;
  Attention a_;
  MatrixView<const float> out_, grad_out_;
  Gradients to_;
  std::size_t dim_, group_, panels_, column_panels_;
  std::vector<float> turned_keys_, turned_values_, key_panels_;
  Strip strip_{a_, 0, 1};
  std::vector<float> weights_, slopes_;  ///< Of the strip: [head][query][key]
};

/// What is to be done for several documents in one go: body(document, item) for as many items as each has.
template <class Body>
void for_each_item(std::span<DocumentGradient*> documents, Executor& executor,
                   std::size_t (DocumentGradient::*items)() const, Body body) {
  std::vector<std::size_t> ends;
  for (const DocumentGradient* document : documents)
    ends.push_back((ends.empty() ? 0 : ends.back()) + (document->*items)());
  parallel_for(executor, ends.back(), 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const auto d = static_cast<std::size_t>(std::ranges::upper_bound(ends, i) - ends.begin());
      body(*documents[d], d == 0 ? i : i - ends[d - 1]);
    }
  });
}

}  // namespace

void attention_gradient(const Attention& a, MatrixView<const float> out, MatrixView<const float> grad_out,
                        MatrixView<float> grad_queries, MatrixView<float> grad_keys, MatrixView<float> grad_values,
                        Executor& executor, const Backend* backend) {
  a.validate();
  const char* const name = "attention's gradient";
  need_shape(name, "out", out, a.queries.rows, a.queries.cols);
  need_shape(name, "grad_out", grad_out, a.queries.rows, a.queries.cols);
  need_shape(name, "grad_queries", grad_queries, a.queries.rows, a.queries.cols);
  need_shape(name, "grad_keys", grad_keys, a.keys.rows, a.keys.cols);
  need_shape(name, "grad_values", grad_values, a.keys.rows, a.keys.cols);
  if (a.queries.rows == 0) return;
  std::vector<DocumentGradient> gradients;
  for (const Document& document : documents_of(a)) {
    const std::size_t queries = document.part.queries.rows, keys = document.part.keys.rows;
    gradients.emplace_back(
        kernels_of(backend), document.part, out.row_range(document.first_query, queries),
        grad_out.row_range(document.first_query, queries),
        Gradients{grad_queries.row_range(document.first_query, queries), grad_keys.row_range(document.first_key, keys),
                  grad_values.row_range(document.first_key, keys)});
  }
  std::vector<DocumentGradient*> left;
  for (DocumentGradient& g : gradients) left.push_back(&g);
  for_each_item(left, executor, &DocumentGradient::panels, [](DocumentGradient& g, std::size_t p) { g.prepare(p); });
  for (std::size_t strip = 0; !left.empty(); ++strip) {
    for (DocumentGradient* g : left) g->begin(strip);
    for_each_item(left, executor, &DocumentGradient::heads, [](DocumentGradient& g, std::size_t h) { g.of_head(h); });
    for_each_item(left, executor, &DocumentGradient::key_tasks,
                  [](DocumentGradient& g, std::size_t task) { g.of_keys(task); });
    std::erase_if(left, [&](const DocumentGradient* g) { return g->strips() <= strip + 1; });
  }
}

}  // namespace nibble::inline NIBBLE_ABI::engine
