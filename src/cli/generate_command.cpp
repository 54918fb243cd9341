#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "commands.h"
#include "interrupt.h"
#include "methods.h"
#include "nibble/core/error.h"
#include "nibble/engine/generate.h"
#include "nibble/text/records.h"
#include "nibble/text/tokenizer.h"

namespace nibble::cli {

namespace {

struct Options {
  std::string model, prompt = "It is a truth universally acknowledged, ", method, adapter, instruction, input,
                     template_name = "alpaca";
  std::size_t tokens = 200;
  bool int8_activations = false;
  engine::SamplerOptions sampler;
};

/// What the model is asked with: an instruction as `finetune` puts it, or any text.
std::string prompt_of(const Options& o) {
  if (o.instruction.empty()) return o.prompt;
  return text::instruction_prompt(text::find_prompt_template(o.template_name), o.instruction, o.input);
}

void run(const Options& o) {
  const std::string model_path = o.model.empty() ? (example_data() / "austen-5m").string() : o.model;
  engine::LoadOptions load;
  load.backend = chosen_backend();
  if (!o.method.empty()) {
    const Method method = parse_loading_method(o.method);
    load.quantize = method.spec;
    load.int8_activations = method.int8_activations;
  }
  load.int8_activations = load.int8_activations || o.int8_activations;
  const engine::Model model = with_adapter(engine::Model::load(model_path, load), o.adapter);
  for (const std::string& note : model.config().notes) fmt::print(stderr, "nibble: note: {}\n", printable(note));
  const auto tokenizer = text::load_tokenizer(model_path);
  const std::string asked = prompt_of(o);
  const auto prompt = tokenizer->encode(asked, true, [](double, std::string_view) { return !interrupted(); });
  if (prompt.empty()) throw Error(ErrorCode::invalid_argument, "the prompt is empty; give some text with --prompt");
  engine::KvCache cache(model.config(), prompt.size() + o.tokens);
  engine::Sampler sampler(o.sampler);
  text::TextStream stream(*tokenizer, prompt);
  // What a model writes is as little to be trusted as its file; a pipe gets every byte as it is.
  const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  fmt::print("{}", asked);
  engine::generate(model, cache, prompt, o.tokens, sampler, [&](std::int32_t token) {
    std::string text = stream.next(token);
    if (terminal) text = printable(text, TextKind::prose);
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    return !interrupted();
  });
  fmt::print("\n");
  if (interrupted()) throw Error(ErrorCode::cancelled, "interrupted");
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("generate", "Continue a text");
  c->add_option("model", o->model, "Model directory (default: the embedded model)");
  CLI::Option* prompt = c->add_option("--prompt", o->prompt, "Text to continue")->capture_default_str();
  CLI::Option* instruction =
      c->add_option("--instruction", o->instruction, "Ask this instead, by the template that finetune trained with")
          ->excludes(prompt);
  c->add_option("--input", o->input, "What the instruction is about")->needs(instruction);
  c->add_option("--template", o->template_name, "alpaca, alpaca-preamble, chatml or plain")
      ->capture_default_str()
      ->needs(instruction);
  c->add_option("--tokens", o->tokens, "Tokens to draw at most")->capture_default_str();
  c->add_flag("--int8-activations", o->int8_activations,
              "Multiply quantized layers by activations in 8 bits: faster, at a loss");
  c->add_option("--method", o->method, "Quantize while loading, for example nf4-dq");
  c->add_option("--adapter", o->adapter, "LoRA adapter over the model: a PEFT folder or a GGUF file");
  c->add_option("--temperature", o->sampler.temperature, "0: the most likely token; 0.7 or so: varied text")
      ->capture_default_str();
  c->add_option("--top-k", o->sampler.top_k, "Draw from the k most likely (0: all)")->capture_default_str();
  c->add_option("--top-p", o->sampler.top_p, "Draw from the likeliest that make up this share")->capture_default_str();
  c->add_option("--seed", o->sampler.seed, "The same seed gives the same text")->capture_default_str();
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
