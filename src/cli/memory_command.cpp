#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "methods.h"
#include "nibble/model/config.h"
#include "table.h"

namespace nibble::cli {

namespace {

struct Options {
  std::string model, json;
  std::size_t layers = 32, hidden = 4096, ffn = 16384, heads = 32, kv_heads = 0, vocab = 0, context = 4096, batch = 1;
  std::vector<std::string> methods{"fp32", "fp16", "int8", "int4-g128-sym", "int4-g32-asym", "nf4", "nf4-dq"};
};

struct Matrix {
  std::size_t rows, cols;
};

struct Shape {
  std::size_t layers = 0;
  std::vector<Matrix> attention, ffn;  ///< Of one layer.
  std::size_t other = 0;               ///< Embedding and head weights, which stay in 16 bits (32 for fp32).
  std::size_t kv_width = 0;            ///< Keys and values of one token in one layer, in elements.
};

Shape shape_of(const model::Config& c) {
  Shape out;
  out.layers = c.layers;
  for (const model::Module& m : c.architecture().linears()) {
    const bool attends = m.input == model::Input::attention || m.input == model::Input::heads;
    (attends ? out.attention : out.ffn).push_back({c.elements(m.out), c.elements(m.in)});
  }
  out.other = (c.tied_embeddings ? 1 : 2) * c.vocab * c.hidden;
  out.kv_width = 2 * c.kv_heads * c.head_dim;
  return out;
}

Shape shape_of(const Options& o) {
  if (o.model.empty()) {
    const std::size_t kv = o.kv_heads == 0 ? o.hidden : o.hidden / o.heads * o.kv_heads;
    model::Config c;
    c.model_type = "llama";  // whose layers the options shape
    c.layers = o.layers;
    c.hidden = o.hidden;
    c.intermediate = o.ffn;
    c.heads = o.hidden;  // of one value each: only the widths count here
    c.kv_heads = kv;
    c.head_dim = 1;
    c.vocab = o.vocab;
    return shape_of(c);
  }
  return shape_of(model::Config::load(o.model));
}

double bytes_of(const std::vector<Matrix>& matrices, const Method& method) {
  double bytes = 0;
  for (const Matrix& m : matrices) {
    const double bits =
        method.spec ? method.spec->bits_per_weight(m.rows, m.cols) : 8.0 * static_cast<double>(size_of(method.dense));
    bytes += static_cast<double>(m.rows) * static_cast<double>(m.cols) * bits / 8;
  }
  return bytes;
}

void run(const Options& o) {
  check_given_outputs({{o.json, files::OutputKind::file, "--json"}}, {o.model});
  constexpr double mib = 1 << 20, gib = 1 << 30;
  const Shape shape = shape_of(o);
  // Of numbers from the command line: as integers the product could wrap.
  const double kv = 2.0 * static_cast<double>(shape.layers) * static_cast<double>(shape.kv_width) *
                    static_cast<double>(o.context) * static_cast<double>(o.batch);
  Table table({"method", "bits/weight", "attention/layer", "FFN/layer", "layers", "embeddings", "KV cache", "total"});
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const auto& name : o.methods) {
    const Method method = parse_method(name);
    const double attention = bytes_of(shape.attention, method), ffn = bytes_of(shape.ffn, method);
    const double layers = (attention + ffn) * static_cast<double>(shape.layers);
    const double other =
        static_cast<double>(shape.other) * (method.spec ? 2 : static_cast<double>(size_of(method.dense)));
    double weights = 0;
    for (const auto* list : {&shape.attention, &shape.ffn})
      for (const Matrix& m : *list) weights += static_cast<double>(m.rows * m.cols);
    const double bits = 8 * (attention + ffn) / weights;
    table.row({name, fmt::format("{:.3f}", bits), fmt::format("{:.2f} MiB", attention / mib),
               fmt::format("{:.2f} MiB", ffn / mib), fmt::format("{:.2f} GiB", layers / gib),
               fmt::format("{:.2f} GiB", other / gib), fmt::format("{:.2f} GiB", kv / gib),
               fmt::format("{:.2f} GiB", (layers + other + kv) / gib)});
    rows.push_back({{"method", name},
                    {"bits_per_weight", bits},
                    {"attention_bytes_per_layer", attention},
                    {"ffn_bytes_per_layer", ffn},
                    {"layers_bytes", layers},
                    {"embedding_bytes", other},
                    {"kv_cache_bytes", kv}});
  }
  fmt::print("{}\nKV cache: fp16, {} tokens, batch {}. MiB and GiB are 2^20 and 2^30 bytes.\n", table.text(), o.context,
             o.batch);
  if (!o.json.empty()) save_text(o.json, nlohmann::ordered_json{{"rows", rows}}.dump(2) + "\n");
}

}  // namespace

void add_memory_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("memory", "Memory of a model per layer and in all, before downloading anything");
  c->add_option("model", o->model, "Model directory: only its config.json is read (default: the shape below)");
  c->add_option("--layers", o->layers, "Layers")->capture_default_str()->check(CLI::PositiveNumber);
  c->add_option("--hidden", o->hidden, "Hidden size")->capture_default_str()->check(CLI::PositiveNumber);
  c->add_option("--ffn", o->ffn, "Intermediate size; a layer has gate, up and down")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  c->add_option("--heads", o->heads, "Attention heads")->capture_default_str()->check(CLI::PositiveNumber);
  c->add_option("--kv-heads", o->kv_heads, "Key-value heads (0: as many as heads)")->capture_default_str();
  c->add_option("--vocab", o->vocab, "Vocabulary, for embeddings and head (0: leave them out)")->capture_default_str();
  c->add_option("--context", o->context, "Tokens in the KV cache")->capture_default_str();
  c->add_option("--batch", o->batch, "Sequences at once")->capture_default_str();
  c->add_option("--methods", o->methods, "Comma-separated methods")->delimiter(',')->capture_default_str();
  c->add_option("--json", o->json, "Write the rows as JSON")->check(kNamed);
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
