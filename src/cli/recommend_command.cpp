#include <fmt/format.h>

#include <memory>

#include "commands.h"
#include "nibble/core/error.h"
#include "nibble/matrix/quant_spec.h"
#include "table.h"

namespace nibble::cli {

namespace {

struct Options {
  std::string purpose = "memory";
  double params = 7e9, memory = 0;
};

/// A method, from the best quality to the smallest size.
struct Candidate {
  const char* method;
  const char* why;
};

/// Ordered by the rise in perplexity that `nibble compare` shows on the embedded model.
constexpr Candidate kByQuality[] = {
    {"int8", "8 bits per row: indistinguishable from fp32 in practice"},
    {"int4-g32-asym", "4 bits with a scale and zero point per 32 weights: the best 4-bit quality here"},
    {"nf4", "4 bits spaced for normally distributed weights"},
    {"nf4-dq", "NF4 with its scales quantized too: the smallest 4-bit form that keeps NF4's quality"},
    {"int4-g128-sym", "4 bits with one f16 scale per 128 weights: the smallest plain integer form"},
};

/// GB of weights; LLaMA-like matrices of 4096 columns stand for all.
double gigabytes(const char* method, double params) {
  return QuantSpec::parse(method).bits_per_weight(4096, 4096) * params / 8 / 1e9;
}

Candidate by_purpose(const std::string& purpose) {
  if (purpose == "prototype") return {"int8", "no calibration, no choice to regret: within 0.5 % of fp32's perplexity"};
  if (purpose == "finetune")
    return {"nf4-dq", "QLoRA's format: 4.127 bits per weight, and adapters train on top of it"};
  if (purpose == "speed") return {"int4-g128-sym", "the fewest bytes to read per token, and the simplest decoding"};
  if (purpose == "quality") return kByQuality[0];
  if (purpose == "production") return {"int4-g32-asym", "the best 4-bit quality without calibration data"};
  return {"nf4-dq", "near the smallest, with less loss than plain int4 at the same size"};
}

void run(const Options& o) {
  Candidate choice = by_purpose(o.purpose);
  Table table({"method", "weights", "fits"});
  const double room = o.memory * 0.85;  // the rest is for the KV cache, activations and the program
  bool found = o.memory == 0 || gigabytes(choice.method, o.params) <= room;
  for (const Candidate& c : kByQuality) {
    const double size = gigabytes(c.method, o.params);
    const bool fits = o.memory == 0 || size <= room;
    if (fits && !found) {
      choice = c;
      found = true;
    }
    table.row({c.method, fmt::format("{:.2f} GB", size), o.memory == 0 ? "-" : fits ? "yes" : "no"});
  }
  fmt::print("{}\n", table.text());
  if (!found)
    throw Error(ErrorCode::unsupported, fmt::format("{:.1f} billion parameters do not fit {:.1f} GB at 4 bits (15 % is "
                                                    "kept for the KV cache); use a smaller model or more memory",
                                                    o.params / 1e9, o.memory));
  fmt::print(
      "Use {}: {}.\n\n    nibble quantize MODEL -o OUT --method {}\n    nibble compare MODEL --methods fp32,{}      # "
      "to see what it costs this model\n",
      choice.method, choice.why, choice.method, choice.method);
}

}  // namespace

void add_recommend_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c =
      app.add_subcommand("recommend", "Which method to use: constraints in, method and flags out, with the reason");
  c->add_option("--purpose", o->purpose, "prototype, memory, production, finetune, speed or quality")
      ->capture_default_str()
      ->check(CLI::IsMember({"prototype", "memory", "production", "finetune", "speed", "quality"}));
  c->add_option("--params", o->params, "Parameters, with a suffix: 7b, 500m")
      ->capture_default_str()
      ->transform(CLI::AsNumberWithUnit(std::map<std::string, double>{{"k", 1e3}, {"m", 1e6}, {"b", 1e9}}));
  c->add_option("--memory", o->memory, "Memory there is, in GB (0: no limit)")->capture_default_str();
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
