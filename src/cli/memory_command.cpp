#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "methods.h"
#include "model/linear_layers.h"
#include "nibble/format/checkpoint.h"
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
    auto& matrices = attends ? out.attention : out.ffn;
    matrices.insert(matrices.end(), m.is_expert() ? c.experts : 1, {c.elements(m.out), c.elements(m.in)});
  }
  out.other = (c.tied_embeddings ? 1 : 2) * c.vocab * c.hidden;
  out.kv_width = 2 * c.kv_heads * c.head_dim;
  return out;
}

/// That of the options.
model::Config config_of(const Options& o) {
  model::Config c;
  c.model_type = "llama";  // whose layers the options shape
  c.layers = o.layers;
  c.hidden = o.hidden;
  c.intermediate = o.ffn;
  c.heads = o.hidden;  // of one value each: only the widths count here
  c.kv_heads = o.kv_heads == 0 ? o.hidden : o.hidden / o.heads * o.kv_heads;
  c.head_dim = 1;
  c.vocab = o.vocab;
  return c;
}

double bytes_of(const std::vector<Matrix>& matrices, const Method& method) {
  if (!method.gguf.empty())
    throw Error(
        ErrorCode::invalid_argument,
        "'" + method.name + "' is of a GGUF file, whose tensors have types of their own: export-gguf says its size");
  double bytes = 0;
  for (const Matrix& m : matrices) {
    const double bits =
        method.spec ? method.spec->bits_per_weight(m.rows, m.cols) : 8.0 * static_cast<double>(size_of(method.dense));
    bytes += static_cast<double>(m.rows) * static_cast<double>(m.cols) * bits / 8;
  }
  return bytes;
}

void save_rows(const Options& o, const nlohmann::ordered_json& rows) {
  if (!o.json.empty()) save_text(o.json, nlohmann::ordered_json{{"rows", rows}}.dump(2) + "\n");
}

/// A model whose architecture is not known: what its tensors take, which are all that says how large it is.
void run_by_rule(const Options& o, const model::Outline& outline) {
  constexpr double gib = 1 << 30;
  const Checkpoint in = Checkpoint::open(o.model);
  const model::LinearLayers found = model::find_linear_layers(in, outline, o.model);
  model::require_linear_layers(found, outline, o.model);
  note(found.summary(outline));
  std::vector<Matrix> linears;
  double other = 0, weights = 0;
  for (const TensorInfo& t : in.tensors()) other += static_cast<double>(t.bytes) / static_cast<double>(size_of(t.type));
  for (const model::LinearTensor& l : found.linears) {
    const auto& shape = in.info(l.tensor).shape;
    linears.insert(linears.end(), l.layers().size(), {shape[shape.size() - 2], shape.back()});
  }
  for (const Matrix& l : linears) weights += static_cast<double>(l.rows) * static_cast<double>(l.cols);
  other -= weights;
  Table table({"method", "bits/weight", "linear layers", "other weights", "total"});
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const auto& name : o.methods) {
    const Method method = parse_method(name);
    const double layers = bytes_of(linears, method);
    const double rest = other * (method.spec ? 2 : static_cast<double>(size_of(method.dense)));
    table.row({name, fmt::format("{:.3f}", 8 * layers / weights), fmt::format("{:.2f} GiB", layers / gib),
               fmt::format("{:.2f} GiB", rest / gib), fmt::format("{:.2f} GiB", (layers + rest) / gib)});
    rows.push_back(
        {{"method", name}, {"bits_per_weight", 8 * layers / weights}, {"layers_bytes", layers}, {"other_bytes", rest}});
  }
  fmt::print("{}\nThe KV cache depends on the architecture, and is not counted. GiB are 2^30 bytes.\n", table.text());
  save_rows(o, rows);
}

void run_of_shape(const Options& o, const Shape& shape) {
  constexpr double mib = 1 << 20, gib = 1 << 30;
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
  save_rows(o, rows);
}

void run(const Options& o) {
  check_given_outputs({{o.json, files::OutputKind::file, "--json"}}, {o.model});
  if (o.model.empty()) return run_of_shape(o, shape_of(config_of(o)));
  const model::Outline outline = model::Outline::load(o.model);
  if (outline.config) run_of_shape(o, shape_of(*outline.config));
  else run_by_rule(o, outline);
}

}  // namespace

void add_memory_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("memory", "Memory of a model per layer and in all, before downloading anything");
  c->add_option(
      "model", o->model,
      "Model directory: only its config.json is read, and the headers of its weights if its architecture is not "
      "known (default: the shape below)");
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
