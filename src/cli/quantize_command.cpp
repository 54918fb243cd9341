#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "calibration_text.h"
#include "commands.h"
#include "core/files.h"
#include "methods.h"
#include "model/layer_report_json.h"
#include "nibble/core/error.h"
#include "nibble/engine/calibrate.h"
#include "nibble/model/quantize.h"
#include "progress_bar.h"
#include "table.h"

namespace nibble::cli {

namespace {

struct Options {
  std::string model, output, method = "nf4";
  int bits = 0;
  std::size_t group_size = 0;
  bool quiet = false;
  // GPTQ and AWQ only
  CalibrationText text;
  std::string layout, report, imatrix;
  std::vector<std::string> modules, skip, only;
  double damp_percent = 0.01;
  bool lm_head = false, at_once = false, resume = false;
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

model::ModuleRule rule_of(const std::string& text) {
  const std::size_t at = text.rfind('=');
  if (at == std::string::npos || at == 0 || at + 1 == text.size())
    throw Error(ErrorCode::invalid_argument,
                "--modules '" + text + "': pattern=method is needed, for example 'down_proj=gptq-8-g128'");
  return {text.substr(0, at), model::CalibratedMethod::parse(std::string_view(text).substr(at + 1))};
}

model::CalibrateOptions calibrate_options(const Options& o, const model::CalibratedMethod& method) {
  model::CalibrateOptions out;
  out.method = method;
  out.skip = o.skip;
  out.only = o.only;
  for (const std::string& text : o.modules) out.rules.push_back(rule_of(text));
  out.lm_head = o.lm_head;
  if (!o.layout.empty()) out.layout = parse_checkpoint_layout(o.layout);
  out.samples = o.text.samples;
  out.sample_tokens = o.text.sample_tokens;
  out.damp_percent = o.damp_percent;
  out.true_sequential = !o.at_once;
  out.cache_bytes = o.text.cache_memory;
  out.resume = o.resume;
  out.backend = chosen_backend();
  return out;
}

/// What is wrong or unusual about a layer, in a few words.
std::string remarks(const model::LayerReport& r) {
  std::vector<std::string> out;
  if (!r.fallback.empty()) out.emplace_back("ROUNDED TO NEAREST");
  if (!r.recovery.empty()) out.push_back(r.recovery.back());
  if (r.dead_channels > 0) out.push_back(fmt::format("{} dead channels", r.dead_channels));
  return fmt::format("{}", fmt::join(out, "; "));
}

void print_layers(const model::CalibrateReport& report, bool awq) {
  Table table({"layer", "method", "loss", "rounding's", "of it", awq ? "ratio" : "damp", "coverage", ""});
  for (const model::LayerReport& r : report.layers)
    table.row({r.layer, r.method, fmt::format("{:.4g}", r.loss), fmt::format("{:.4g}", r.rounding_loss),
               r.rounding_loss > 0 ? fmt::format("{:.1f} %", 100 * r.loss / r.rounding_loss) : "",
               fmt::format("{:.2f}", awq ? r.ratio : r.damp_percent), fmt::format("{:.1f} %", 100 * r.coverage),
               remarks(r)});
  fmt::print("{}", table.text());
}

void save_report(const model::CalibrateReport& report, const Options& o) {
  using Json = nlohmann::ordered_json;
  save_text(o.report, Json{{"method", o.method},
                           {"format", name_of(report.layout)},
                           {"samples", report.samples},
                           {"tokens", report.tokens},
                           {"resumed_blocks", report.resumed},
                           {"bits_per_weight", report.bits_per_weight},
                           {"file_bytes", report.file_bytes},
                           {"layers", report.layers}}
                              .dump(2) +
                          "\n");
}

/// Said even if quiet: what went other than asked for.
void warn(const model::CalibrateReport& report, const Options& o) {
  for (const std::string& text : report.notes) note(text);
  for (const model::LayerReport& r : report.layers) warn_of(r);
  if (!report.complete_before && !o.quiet) o.text.note_if_short(report.samples);
}

/// Of everything that is written, before minutes of work.
void check_places(const Options& o, const std::filesystem::path& text) {
  namespace fs = std::filesystem;
  using enum files::OutputKind;
  std::vector<files::Output> outputs{{o.output, o.resume ? folder : new_folder}};
  if (!o.report.empty()) outputs.push_back({o.report, file, "--report"});
  files::check_outputs(outputs, {o.model, text});
  const fs::path report(o.report), name = report.filename();
  const bool inside = files::parent_of(report) == files::without_slash(o.output);
  if (inside && (files::exists(fs::path(o.model) / name) || name.extension() == ".safetensors" ||
                 name.string().ends_with("config.json")))
    throw Error(ErrorCode::invalid_argument,
                "--report '" + o.report + "' is the name of a file of the quantized model; choose another one");
}

void run_calibrated(const Options& o, const model::CalibratedMethod& method) {
  model::CalibrateOptions options = calibrate_options(o, method);
  const std::filesystem::path text = o.text.path();
  check_places(o, text);
  ProgressBar bar("quantizing", o.quiet);
  options.progress = bar.callback();
  const auto ids = read_tokens(o.model, text);
  const auto report = resumable(o.output, [&] { return engine::quantize_calibrated(o.model, o.output, ids, options); });
  warn(report, o);
  if (!o.report.empty() && !report.complete_before) save_report(report, o);
  if (o.quiet) return;
  if (report.complete_before) {
    fmt::print("{} is complete already\n", o.output);
    return;
  }
  note_left_out(report.left_out);
  print_layers(report, method.kind == model::CalibratedMethod::Kind::awq);
  fmt::print(
      "{}: {} linear layers by {} at {:.3f} bits per weight, calibrated on {} × {} tokens, in the layout {}; "
      "model.safetensors is {}\n",
      o.output, report.layers.size(), method.to_string(), report.bits_per_weight, report.samples,
      report.tokens / report.samples, name_of(report.layout), megabytes(report.file_bytes));
}

/// Options that would do nothing are a mistake of the caller's, not to be passed over.
void refuse_calibration_options(const Options& o) {
  const Options none;
  const auto refuse = [&](bool given, const char* option) {
    if (given)
      throw Error(ErrorCode::invalid_argument, fmt::format("{} goes with GPTQ and AWQ; '{}' looks at every "
                                                           "layer's weights alone, without calibration",
                                                           option, o.method));
  };
  refuse(!o.text.file.empty(), "--calibration");
  refuse(!o.layout.empty(), "--format");
  refuse(!o.report.empty(), "--report");
  refuse(!o.modules.empty(), "--modules");
  refuse(o.text.samples != none.text.samples, "--samples");
  refuse(o.text.sample_tokens != none.text.sample_tokens, "--sample-tokens");
  refuse(o.text.cache_memory != none.text.cache_memory, "--cache-memory");
  refuse(o.damp_percent != none.damp_percent, "--damp-percent");
  refuse(o.at_once, "--at-once");
  refuse(o.resume, "--resume");
}

void run(const Options& o) {
  const Method method = method_of(o);
  if (!method.gguf.empty())
    throw Error(ErrorCode::invalid_argument, fmt::format("'{}' is of a GGUF file: nibble export-gguf {} OUT.gguf {}",
                                                         method.name, o.model, fmt::join(method.gguf, " ")));
  if (method.int8_activations)
    throw Error(ErrorCode::invalid_argument, "'" + method.name +
                                                 "': +a8 says how to multiply, not what to store; leave it out, "
                                                 "and give it to eval or compare");
  if (!o.imatrix.empty() && (method.calibrated || !method.spec))
    throw Error(ErrorCode::invalid_argument,
                fmt::format("--imatrix weighs the errors of methods that need no text; '{}' {}", method.name,
                            method.calibrated ? "measures its calibration text itself" : "rounds no layer"));
  if (method.calibrated) return run_calibrated(o, *method.calibrated);
  refuse_calibration_options(o);
  model::QuantizeModelOptions options;
  options.spec = method.spec;
  options.skip = o.skip;
  options.only = o.only;
  options.lm_head = o.lm_head;
  options.backend = chosen_backend();
  if (!method.spec && (o.lm_head || !o.skip.empty() || !o.only.empty()))
    throw Error(ErrorCode::invalid_argument,
                fmt::format("--skip, --only and --lm-head say which layers are quantized; '{}' converts every tensor",
                            method.name));
  if (!method.spec) options.convert_to = method.dense;
  std::optional<ImportanceMatrix> importance;
  if (!o.imatrix.empty()) options.importance = &importance.emplace(ImportanceMatrix::read(o.imatrix));
  if (method.hqq)
    options.solver = [hqq = *method.hqq](const FloatMatrix& weights, const std::string& name,
                                         std::span<const float> counts) mutable {
      hqq.name = name;
      hqq.importance = counts;
      return hqq::solve(weights, hqq).matrix;
    };
  ProgressBar bar("quantizing", o.quiet);
  options.progress = bar.callback();
  const auto report = model::quantize_model(o.model, o.output, options);
  for (const std::string& text : report.notes) note(text);
  if (o.quiet) return;
  note_left_out(report.left_out);
  if (method.spec)
    fmt::print("{}: {} linear layers as {} at {:.3f} bits per weight; model.safetensors is {}\n", o.output,
               report.layers, method.hqq ? method.name : method.spec->to_string(), report.bits_per_weight,
               megabytes(report.file_bytes));
  else
    fmt::print("{}: converted to {}; model.safetensors is {}\n", o.output, method.name, megabytes(report.file_bytes));
}

void add_calibration_options(CLI::App& c, Options& o) {
  const std::string group = "With gptq-… and awq-…";
  const auto add = [&](const char* name, auto& value, const char* help) {
    return c.add_option(name, value, help)->group(group);
  };
  o.text.add_to(c, group, std::string("Text that the layers are calibrated on") + kByDefault);
  add("--damp-percent,--damp", o.damp_percent, "GPTQ: share of the mean of the Hessian's diagonal that is added to it")
      ->capture_default_str();
  add("--format", o.layout,
      "Layout to write: gptq, gptq-v2, awq, awq-gemv, compressed-tensors, nibble (default: the "
      "method's own, where it has room for the layers)");
  add("--modules", o.modules,
      "pattern=method: layers whose name holds the regular expression get another method (down_proj=gptq-8-g128, "
      "layers\\.0\\.=int8); may be given again, the first that matches holds; after --skip and --only");
  c.add_flag("--at-once", o.at_once,
             "GPTQ: all layers of a block see the block as it was, not what those before them give once quantized")
      ->group(group);
  c.add_flag("--resume", o.resume, "Go on where an earlier run with the same options was ended")->group(group);
  add("--report", o.report, "Write the report on each layer as JSON")->check(kNamed);
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("quantize", "Write a quantized copy of a model");
  c->add_option("model", o->model, "Model directory (config.json and safetensors) or GGUF file")->required();
  c->add_option("-o,--output", o->output, "Directory to write; must not exist")->required();
  c->add_option(
       "--method", o->method,
       "nf4, nf4-dq, fp4, int8, llm-int8, fp8, nvfp4, mxfp4, int4-g128-sym, … or sym | asym with the two options "
       "below; fp32, fp16, bf16 convert; hqq-<bits>-g<size> solves for "
       "scales and real zero points, with -asym for integer ones; gptq-<bits>-g<size>[-act][-gptaq|-qronos] and "
       "awq-<bits>-g<size> are "
       "calibrated on a text")
      ->capture_default_str();
  c->add_option("--bits", o->bits, "With sym or asym: bits of a code")->check(CLI::Range(2, 8));
  c->add_option("--group-size", o->group_size,
                "With sym or asym: columns that share a scale (none: a row); with nf4, fp4: the block size");
  c->add_option(
      "--skip", o->skip,
      "Layers that stay as they are: a name or a part of it (down_proj, layers.0), a glob (layers.[0-3].*), or "
      "re: and a regular expression; may be given again");
  c->add_option("--only", o->only, "Quantize only these layers, said the same way; --skip comes first");
  c->add_flag("--lm-head", o->lm_head, "Quantize lm_head too");
  c->add_option(
       "--imatrix", o->imatrix,
       "With methods that need no text: importance matrix of the model, by `nibble imatrix` or llama.cpp, by which "
       "the range of each group is chosen, or HQQ weighs errors")
      ->check(kNamed);
  c->add_flag("--quiet", o->quiet, "Print nothing on success");
  add_calibration_options(*c, *o);
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
