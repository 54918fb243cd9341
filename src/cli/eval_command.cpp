#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "methods.h"
#include "nibble/engine/evaluate.h"
#include "progress_bar.h"

namespace nibble::cli {

namespace {

struct Options {
  std::string model, text, method, json, save_reference, reference, adapter, measure = "all";
  std::size_t window = 512, stride = 512, tokens = 0;
  bool quiet = false, int8_activations = false, head = false;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// A standard error, where there is one.
std::string plus_minus(const char* format, double error) {
  return error > 0 ? " ± " + fmt::format(fmt::runtime(format), error) : std::string();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

struct Speed {
  double prefill = 0, decode = 0;  ///< Tokens per second, medians of up to five runs.
};

/// In about five seconds, or one run of a model that takes longer.
Speed measure_speed(const engine::Model& model, std::span<const std::int32_t> ids) {
  const std::size_t prompt = std::min<std::size_t>(256, ids.size());
  const std::size_t most = std::min<std::size_t>(32, ids.size()), least = std::min<std::size_t>(4, most);
  engine::KvCache cache(model.config(), prompt + most);
  std::vector<double> prefill, decode;
  const auto begin = std::chrono::steady_clock::now();
  for (int run = 0; run == 0 || (run < 5 && seconds_since(begin) < 5); ++run) {
    cache.clear();
    auto start = std::chrono::steady_clock::now();
    (void)model.forward(ids.first(prompt), cache, true);
    prefill.push_back(static_cast<double>(prompt) / seconds_since(start));
    start = std::chrono::steady_clock::now();
    std::size_t done = 0;
    for (; done < least || (done < most && seconds_since(start) < 2); ++done)
      (void)model.forward(ids.subspan(done, 1), cache, true);
    decode.push_back(static_cast<double>(done) / seconds_since(start));
  }
  return {median(prefill), median(decode)};
}

engine::Evaluation evaluate(const Options& o, const engine::Model& model, std::span<const std::int32_t> ids) {
  ProgressBar bar("evaluating", o.quiet);
  engine::EvaluateOptions options;
  options.window = std::min(o.window, model.config().context);
  options.stride = std::min(o.stride, options.window);
  options.max_tokens = o.tokens;
  options.progress = bar.callback();
  options.save_reference = o.save_reference;
  options.compare_reference = o.reference;
  return engine::evaluate(model, ids, options);
}

void print_quality(const Options& o, const engine::Evaluation& e) {
  fmt::print("perplexity          {:.4f}{} per token ({:.4f} bits), over {} predicted tokens\n", e.perplexity(),
             plus_minus("{:.4f}", e.perplexity_error()), std::log2(e.perplexity()), e.predicted);
  if (!o.reference.empty()) {
    fmt::print("change of it        {:+.3f}{} %\n", 100 * e.perplexity_change(),
               plus_minus("{:.3f}", 100 * e.perplexity_change_error()));
    fmt::print("mean KL divergence  {:.6f}{} nats from the reference, over {} predictions\n", e.kl_mean(),
               plus_minus("{:.6f}", e.kl_error), e.kl_predictions);
  }
}

void run(const Options& o) {
  const std::filesystem::path text = o.text.empty() ? example_data() / "evaluation.txt" : std::filesystem::path(o.text);
  check_given_outputs(
      {{o.json, files::OutputKind::file, "--json"}, {o.save_reference, files::OutputKind::file, "--save-reference"}},
      {o.model, text, o.reference, o.adapter});
  engine::LoadOptions load;
  load.backend = chosen_backend();
  if (!o.method.empty()) {
    const Method method = parse_loading_method(o.method);
    load.quantize = method.spec;
    load.quantize_head = o.head;
    load.int8_activations = method.int8_activations;
  }
  load.int8_activations = load.int8_activations || o.int8_activations;
  const engine::Model model = with_adapter(engine::Model::load(o.model, load), o.adapter);
  for (const std::string& text : model.config().notes) note(text);
  const auto ids = read_tokens(o.model, text, o.tokens);
  const bool times = o.measure != "quality", evaluates = o.measure != "speed";
  nlohmann::ordered_json j{{"bits_per_weight", model.bits_per_weight()}, {"weight_bytes", model.weight_bytes()}};
  Speed speed;
  if (times) speed = measure_speed(model, ids);
  engine::Evaluation e;
  if (evaluates) {
    e = evaluate(o, model, ids);
    j["perplexity"] = e.perplexity();
    j["perplexity_error"] = e.perplexity_error();
    j["predicted_tokens"] = e.predicted;
    j["kl_mean"] = e.kl_mean();
    j["kl_error"] = e.kl_error;
    j["perplexity_change"] = e.perplexity_change();
    j["perplexity_change_error"] = e.perplexity_change_error();
    j["kl_predictions"] = e.kl_predictions;
  }
  if (times) {
    j["prefill_tokens_per_s"] = speed.prefill;
    j["decode_tokens_per_s"] = speed.decode;
  }
  j["peak_rss_bytes"] = peak_rss_bytes();
  if (!o.json.empty()) save_text(o.json, j.dump(2) + "\n");
  if (o.quiet) return;
  if (evaluates) print_quality(o, e);
  fmt::print("bits per weight     {:.3f} in the blocks' linear layers\n", model.bits_per_weight());
  if (times) fmt::print("speed               {:.0f} tokens/s prefill, {:.0f} decode\n", speed.prefill, speed.decode);
  fmt::print("memory              {} of weights, {} at the peak of the process\n", megabytes(model.weight_bytes()),
             megabytes(peak_rss_bytes()));
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("eval", "Perplexity, speed and memory of one model");
  c->add_option("model", o->model, "Model directory, dense or quantized")->required();
  c->add_option("--text", o->text, "Text to predict (default: the embedded evaluation text)");
  c->add_flag("--int8-activations", o->int8_activations,
              "Multiply quantized layers by activations in 8 bits: faster, at a loss");
  CLI::Option* method = c->add_option("--method", o->method, "Quantize while loading");
  c->add_flag("--lm-head", o->head, "Quantize the output head, too, and the embedding where it is tied to it")
      ->needs(method);
  c->add_option("--adapter", o->adapter, "LoRA adapter over the model: a PEFT folder or a GGUF file");
  c->add_option("--window", o->window, "Tokens in a window")->capture_default_str()->check(CLI::PositiveNumber);
  c->add_option("--stride", o->stride, "Tokens from one window to the next; smaller is slower and gives more context")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  c->add_option("--tokens", o->tokens, "Use only the first so many tokens (0: all)")->capture_default_str();
  c->add_option("--save-reference", o->save_reference, "Write this model's log-probabilities, to compare others with")
      ->check(kNamed);
  c->add_option("--reference", o->reference, "Measure KL divergence from log-probabilities saved before");
  c->add_option("--measure", o->measure, "quality (perplexity and divergence), speed, or all")
      ->capture_default_str()
      ->check(CLI::IsMember({"quality", "speed", "all"}));
  c->add_option("--json", o->json, "Write the figures as JSON")->check(kNamed);
  c->add_flag("--quiet", o->quiet, "Print nothing on success");
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
