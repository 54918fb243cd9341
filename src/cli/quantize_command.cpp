#include <fmt/format.h>

#include <memory>

#include "commands.h"
#include "methods.h"
#include "nibble/core/error.h"
#include "nibble/llama/quantize_model.h"
#include "progress_bar.h"

namespace nibble::cli {

namespace {

struct Options {
  std::string model, output, method = "nf4";
  int bits = 0;
  std::size_t group_size = 0;
  bool quiet = false;
};

/// "int" or "sym"/"asym" with --bits and --group-size, or a whole method name.
Method method_of(const Options& o) {
  if (o.bits == 0 && o.group_size == 0) return parse_method(o.method);
  std::string name = o.method;
  const bool blockwise = name.starts_with("nf4") || name.starts_with("fp4");
  if (name == "sym" || name == "asym" || name == "int") {
    name = fmt::format("int{}-{}-{}", o.bits == 0 ? 4 : o.bits,
                       o.group_size == 0 ? "channel" : fmt::format("g{}", o.group_size), name == "int" ? "sym" : name);
  } else if (blockwise && o.bits == 0) {
    name += fmt::format("-b{}", o.group_size);
  } else {
    throw Error(
        ErrorCode::invalid_argument,
        "--bits and --group-size go with --method sym or asym (nf4 and fp4 take --group-size as the block size); '" +
            name + "' says them itself");
  }
  return parse_method(name);
}

void run(const Options& o) {
  const Method method = method_of(o);
  if (method.int8_activations)
    throw Error(ErrorCode::invalid_argument, "'" + method.name +
                                                 "': +a8 says how to multiply, not what to store; leave it out, "
                                                 "and give it to eval or compare");
  llama::QuantizeModelOptions options;
  options.spec = method.spec;
  if (!method.spec) options.convert_to = method.dense;
  ProgressBar bar("quantizing", o.quiet);
  options.progress = bar.callback();
  const auto report = llama::quantize_model(o.model, o.output, options);
  if (o.quiet) return;
  if (method.spec)
    fmt::print("{}: {} linear layers as {} at {:.3f} bits per weight; model.safetensors is {}\n", o.output,
               report.layers, method.spec->to_string(), report.bits_per_weight, megabytes(report.file_bytes));
  else
    fmt::print("{}: converted to {}; model.safetensors is {}\n", o.output, method.name, megabytes(report.file_bytes));
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("quantize", "Write a quantized copy of a model");
  c->add_option("model", o->model, "Model directory (config.json and safetensors)")->required();
  c->add_option("-o,--output", o->output, "Directory to write; must not exist")->required();
  c->add_option("--method", o->method,
                "nf4, nf4-dq, fp4, int8, llm-int8, int4-g128-sym, … or sym | asym with the two options below; fp32, "
                "fp16, bf16 convert")
      ->capture_default_str();
  c->add_option("--bits", o->bits, "With sym or asym: bits of a code")->check(CLI::Range(2, 8));
  c->add_option("--group-size", o->group_size,
                "With sym or asym: columns that share a scale (none: a row); with nf4, fp4: the block size");
  c->add_flag("--quiet", o->quiet, "Print nothing on success");
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
