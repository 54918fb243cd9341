#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include "calibration_text.h"
#include "commands.h"
#include "core/files.h"
#include "nibble/core/error.h"
#include "nibble/engine/calibrate.h"
#include "nibble/engine/type_choices.h"
#include "nibble/model/adapter.h"
#include "nibble/model/export_gguf.h"
#include "progress_bar.h"
#include "table.h"

namespace nibble::cli {

namespace {

struct Options {
  std::string model, output, type = "f16", mix, plan, save_plan, adapter, imatrix;
  double target_size = 0, target_bits = 0, part_size = 0;
  CalibrationText text;
  double damp_percent = model::CalibrateOptions().damp_percent;
  bool gptq = false, gptaq = false, qronos = false, resume = false, force = false, quiet = false;

  [[nodiscard]] bool plans() const { return target_size != 0 || target_bits != 0; }
};

/// Of the model, as llama.cpp's --lora takes it beside the model's own file.
void export_adapter(const Options& o, BlockType type) {
  constexpr std::pair<BlockType, DType> kFloats[] = {
      {BlockType::f32, DType::f32}, {BlockType::f16, DType::f16}, {BlockType::bf16, DType::bf16}};
  const auto* const found = std::ranges::find(kFloats, type, &std::pair<BlockType, DType>::first);
  if (found == std::end(kFloats))
    throw Error(ErrorCode::invalid_argument, "'" + o.type + "': an adapter is written as f32, f16 or bf16");
  const model::Config config = model::Config::load(o.model);
  const model::Adapter adapter = model::Adapter::load(o.adapter, &config);
  adapter.save_gguf(o.output, config, found->second);
  if (!o.quiet)
    fmt::print("{}: the adapter of {} layers, {}\n", o.output, adapter.layers.size(), megabytes(files::size(o.output)));
}

/// Of options that would do nothing, or that do not go together. `floats`: the name of a type without codes, or
/// nothing.
void check_together(const Options& o, bool mixes, const std::string& floats) {
  const auto refuse = [](bool given, const std::string& why) {
    if (given) throw Error(ErrorCode::invalid_argument, why);
  };
  const bool weighs = !o.imatrix.empty() || !o.text.file.empty() || o.gptq;
  refuse(
      !o.adapter.empty() && (weighs || mixes || o.plans() || !o.plan.empty()),
      "--adapter writes f32, f16 or bf16, which nothing is weighed for; leave --imatrix, --calibration, --gptq, mixes "
      "and plans out");
  refuse(!floats.empty() && weighs, fmt::format("--imatrix, --calibration and --gptq weigh the errors of codes, and {} "
                                                "has none: choose another --type, q4_k say",
                                                floats));
  refuse(!o.imatrix.empty() && o.gptq,
         "--gptq measures more than an importance matrix holds, on the --calibration text; leave --imatrix out");
  refuse(!o.imatrix.empty() && !o.text.file.empty(),
         "--imatrix has the importance of each channel already; leave --calibration out, or make one file of both by "
         "`nibble imatrix --add`");
  refuse(!o.save_plan.empty() && !o.plans(), "--save-plan keeps what --target-size or --target-bits found");
  refuse(o.resume && !o.gptq, "--resume goes on with a run of --gptq; a file is written at once otherwise");
  const Options none;
  refuse(o.damp_percent != none.damp_percent && !o.gptq, "--damp-percent goes with --gptq");
  refuse((o.gptaq || o.qronos) && !o.gptq, "--gptaq and --qronos go with --gptq");
  refuse((o.text.samples != none.text.samples || o.text.sample_tokens != none.text.sample_tokens ||
          o.text.cache_memory != none.text.cache_memory) &&
             o.text.file.empty() && !o.gptq && !o.plans(),
         "--samples, --sample-tokens and --cache-memory go with --calibration, --gptq and --target-…");
}

/// Of a file, or of a text that the model is run on now; nothing where nothing asks for it. (GPTQ measures its own, but
/// for the types of a plan.)
std::optional<ImportanceMatrix> importance_of(const Options& o) {
  if (!o.imatrix.empty()) return ImportanceMatrix::read(o.imatrix);
  if (!o.plans() && (o.gptq || o.text.file.empty())) return std::nullopt;
  ProgressBar bar("observing", o.quiet);
  ImportanceMatrix out = observed(o.model, o.text, bar.callback());
  if (!o.quiet) o.text.note_if_short(out.chunk_count);
  return out;
}

/// Says which types the blocks' tensors of each name have.
void tell_plan(const model::TypePlan& plan) {
  std::map<std::string, std::map<BlockType, std::size_t>> kinds;
  for (const auto& [name, type] : plan.types) {
    const std::size_t begin = name.starts_with("blk.") ? name.find('.', 4) + 1 : 0;
    ++kinds[name.substr(begin, name.rfind('.') - begin)][type];
  }
  Table table({"tensors", "types"});
  for (const auto& [kind, types] : kinds) {
    std::vector<std::string> shown;
    for (const auto& [type, count] : types)
      shown.push_back(count == 1 && types.size() == 1 ? std::string(name_of(type))
                                                      : fmt::format("{} {}", count, name_of(type)));
    table.row({kind, fmt::format("{}", fmt::join(shown, ", "))});
  }
  fmt::print("{}", table.text());
}

/// The types with which the file has the size that was asked for.
model::TypePlan planned(const Options& o, const model::ExportGgufOptions& options) {
  const auto ids = read_tokens(o.model, o.text.path());
  ProgressBar bar("measuring", o.quiet);
  engine::TypeChoicesOptions measure;
  measure.importance = options.importance;
  measure.backend = options.backend;
  measure.progress = bar.callback();
  const std::vector<model::TensorChoices> choices = engine::type_choices(o.model, ids, measure);
  const auto size_of = [&](const model::TypePlan& plan) {
    model::ExportGgufOptions file = options;
    file.plan = &plan;
    return model::gguf_file_bytes(o.model, file);
  };
  std::size_t smallest = 0, halves = 0;  // F16: two bytes a weight
  for (const model::TensorChoices& t : choices) {
    smallest += std::ranges::min_element(t.choices, {}, &model::TypeChoice::bytes)->bytes;
    halves += std::ranges::max_element(t.choices, {}, &model::TypeChoice::bytes)->bytes;
  }
  if (o.target_bits != 0)
    return allot(choices, static_cast<std::size_t>(o.target_bits * static_cast<double>(halves) / 16));
  const std::size_t least = size_of(allot(choices, smallest)), others = least - smallest;
  const auto target = static_cast<std::size_t>(std::min(o.target_size, 1e18));
  if (target < least)
    throw Error(ErrorCode::invalid_argument, fmt::format("--target-size {}: the smallest file of this model has {}",
                                                         megabytes(target), megabytes(least)));
  std::size_t budget = target - others;
  for (;;) {  // tensors begin at multiples of the alignment: a few bytes more than they have
    model::TypePlan plan = allot(choices, budget);
    const std::size_t size = size_of(plan);
    if (size <= target) return plan;
    budget -= std::min(budget - smallest, size - target);
  }
}

/// Says what is unusual about a layer that GPTQ solved, even if quiet; and what it gained.
void tell_layers(const Options& o, const std::vector<model::LayerReport>& layers) {
  double loss = 0, rounding_loss = 0;
  for (const model::LayerReport& r : layers) {
    warn_of(r);
    loss += r.loss;
    rounding_loss += r.rounding_loss;
  }
  if (!o.quiet && !layers.empty())
    fmt::print("{} layers by GPTQ: of rounding's loss, summed over them, {:.1f} % is left\n", layers.size(),
               100 * loss / rounding_loss);
}

model::ExportGgufReport write(const Options& o, model::ExportGgufOptions& options) {
  const std::optional<ImportanceMatrix> importance = importance_of(o);
  if (importance) options.importance = &*importance;
  options.importance_name = o.imatrix;
  std::optional<model::TypePlan> plan;
  if (!o.plan.empty()) plan = model::TypePlan::read(o.plan);
  if (o.plans()) plan = planned(o, options);
  if (plan) {
    options.plan = &*plan;
    if (!o.quiet) tell_plan(*plan);
    if (!o.quiet && o.plan.empty())
      fmt::print("{} in these; {:.5f} nats of KL if each tensor's, measured alone, add up\n", megabytes(plan->bytes),
                 plan->loss);
    if (!o.save_plan.empty()) plan->write(o.save_plan);
  }
  ProgressBar bar("exporting", o.quiet);
  options.progress = bar.callback();
  if (!o.gptq) return model::export_gguf(o.model, o.output, options);
  model::CalibrateOptions calibration;
  calibration.samples = o.text.samples;
  calibration.sample_tokens = o.text.sample_tokens;
  calibration.cache_bytes = o.text.cache_memory;
  calibration.damp_percent = o.damp_percent;
  calibration.method.gptaq = o.gptaq;
  calibration.method.qronos = o.qronos;
  calibration.resume = o.resume;
  calibration.backend = options.backend;
  ProgressBar solving("solving", o.quiet);
  calibration.progress = solving.callback();
  return resumable(o.output, [&] {
    return engine::export_gguf_calibrated(o.model, o.output, read_tokens(o.model, o.text.path()), options, calibration);
  });
}

/// --type may name a mix, too, that no type is called like.
void choose_types(const Options& o, model::ExportGgufOptions& options) {
  const std::string& name = o.mix.empty() ? o.type : o.mix;
  if (o.mix.empty())
    if (const auto type = parse_block_type(name); type && can_encode(*type)) {
      options.type = *type;
      return;
    }
  options.mix = model::find_gguf_mix(name);
  if (options.mix != nullptr) return;
  std::vector<std::string_view> types, mixes;
  for (const BlockType t : kBlockTypes)
    if (can_encode(t)) types.push_back(name_of(t));
  for (const model::GgufMix& m : model::gguf_mixes()) mixes.push_back(m.name);
  if (!o.mix.empty())
    throw Error(ErrorCode::invalid_argument, fmt::format("'{}' is no mix; there are {}", name, fmt::join(mixes, ", ")));
  throw Error(ErrorCode::invalid_argument, fmt::format("'{}' is no type to write; there are {}; and the mixes {}", name,
                                                       fmt::join(types, ", "), fmt::join(mixes, ", ")));
}

/// The file, or parts of it, whose number is not known yet.
void refuse_existing(const Options& o) {
  std::vector<std::filesystem::path> there{o.output};
  std::error_code none;
  const std::filesystem::path whole(o.output);
  if (o.part_size != 0)
    for (const std::filesystem::path& p : files::list_folder(files::parent_of(whole), none)) {
      const std::string name = p.filename().string(), stem = whole.stem().string();
      if (name.starts_with(stem + "-0") && name.ends_with(".gguf") && name.find("-of-", stem.size()) != name.npos)
        there.push_back(p);
    }
  for (const std::filesystem::path& p : there)
    if (files::exists(p))
      throw Error(ErrorCode::invalid_argument, "'" + p.string() + "' exists already; --force replaces it");
}

void run(const Options& o) {
  model::ExportGgufOptions options;
  choose_types(o, options);
  const bool mixes = options.mix != nullptr, floats = !mixes && is_float(options.type) && o.plan.empty() && !o.plans();
  check_together(o, mixes, floats ? std::string(name_of(options.type)) : "");
  files::check_output({o.output, files::OutputKind::file}, {o.model, o.adapter, o.imatrix, o.text.file, o.plan});
  if (!o.save_plan.empty())
    files::check_outputs({{o.output, files::OutputKind::file}, {o.save_plan, files::OutputKind::file, "--save-plan"}},
                         {o.model, o.imatrix, o.text.file});
  if (!o.force) refuse_existing(o);
  if (!o.adapter.empty()) return export_adapter(o, options.type);
  options.backend = chosen_backend();
  options.part_bytes = static_cast<std::size_t>(std::min(o.part_size, 1e18));
  const auto report = write(o, options);
  tell_layers(o, report.layers);
  if (o.quiet) return;
  for (const std::string& text : report.notes) note(text);
  Table table({"type", "tensors", "size", ""});
  for (const auto& share : report.types)
    table.row({std::string(name_of(share.type)), std::to_string(share.tensors), megabytes(share.bytes), share.why});
  const std::string more = report.files.size() == 1 ? "" : fmt::format(" and {} files more", report.files.size() - 1);
  fmt::print("{}{}{}: {}, linear layers at {:.3f} bits per weight\n", table.text(), report.files.front().string(), more,
             megabytes(report.file_bytes), report.bits_per_weight);
}

/// Of files, as file managers count them.
CLI::Validator file_size() {
  const std::map<std::string, double> units{{"b", 1},         {"kb", 1e3}, {"kib", 1024},   {"mb", 1e6},
                                            {"mib", 1 << 20}, {"gb", 1e9}, {"gib", 1 << 30}};
  return CLI::AsNumberWithUnit(units);
}

void add_plan_options(CLI::App& c, Options& o) {
  const std::string group = "A size instead of a type";
  CLI::Option* size = c.add_option("--target-size", o.target_size,
                                   "The file is to have at most so many bytes (90MB): each tensor, embedding and head "
                                   "too, gets the type with which the model loses least, measured on the text of "
                                   "--calibration (default: the embedded one)")
                          ->transform(file_size())
                          ->check(CLI::Range(1.0, 1e15))
                          ->group(group);
  CLI::Option* bits =
      c.add_option("--target-bits", o.target_bits, "The same, so many bits a weight on average, all matrices counted")
          ->check(CLI::Range(1.0, 16.0))
          ->group(group);
  CLI::Option* plan = c.add_option("--plan", o.plan, "The types that --save-plan kept")->check(kNamed)->group(group);
  c.add_option("--save-plan", o.save_plan, "Keep the types chosen, as JSON")->check(kNamed)->group(group);
  size->excludes(bits)->excludes(plan);
  bits->excludes(plan);
  for (const char* other : {"--type", "--mix"})
    for (CLI::Option* option : {size, bits, plan}) option->excludes(c.get_option(other));
}

}  // namespace

void add_export_gguf_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("export-gguf", "Write a model as a GGUF file for llama.cpp");
  c->add_option("model", o->model, "Model directory, dense or quantized")->required();
  c->add_option("output", o->output, "The .gguf file to write")->required();
  c->add_option("--type", o->type,
                "Of the blocks' linear layers: f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k … q6_k, iq4_nl or "
                "iq4_xs. Norms and biases are F32; the embedding and the head are Q8_0, or the type itself if it is a "
                "float. Rows that are no whole blocks get the next larger type of 32, else F16, and the table of types "
                "says so")
      ->capture_default_str();
  c->add_option("--mix", o->mix,
                "The types that llama.cpp gives the tensors of a file of this name: Q2_K_S, Q2_K, Q3_K_S, Q3_K_M, "
                "Q3_K_L, Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M, Q6_K, IQ4_XS, IQ4_NL, Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0. (--type "
                "takes those that are no type's name, too.)")
      ->excludes(c->get_option("--type"));
  add_plan_options(*c, *o);
  const std::string group = "Codes that count what the channels carry";
  c->add_option("--imatrix", o->imatrix, "Importance matrix of the model, by `nibble imatrix` or llama.cpp")
      ->check(kNamed)
      ->group(group);
  o->text.add_to(*c, group, "Measure it now instead, on this text; best like what the model will read");
  const auto add_flag = [&](const char* name, bool& value, const char* help) {
    c->add_flag(name, value, help)->group(group);
  };
  add_flag("--gptq", o->gptq,
           "Solve the linear layers by GPTQ on the --calibration text instead (default: the embedded one): slower, and "
           "closer to the model");
  add_flag(
      "--qronos", o->qronos,
      "With --gptq: make up for all that the layers quantized before have changed in a layer's input; the model in "
      "full precision runs beside, which takes twice the time or more, and is worth it at 4 bits and below");
  add_flag("--gptaq", o->gptaq, "The same for a quarter of it");
  c->get_option("--gptaq")->excludes("--qronos");
  c->add_option("--damp-percent", o->damp_percent,
                "With --gptq: share of the mean of the Hessian's diagonal that is added to it")
      ->capture_default_str()
      ->group(group);
  add_flag("--resume", o->resume, "With --gptq: go on where an earlier run with the same options was ended");
  c->add_option("--adapter", o->adapter,
                "Write this LoRA adapter of the model instead, for llama.cpp's --lora (as f32, f16 or bf16)");
  c->add_option("--split-max-size", o->part_size,
                "Split a larger file over several of at most so many bytes (2GB), as llama.cpp reads them: "
                "OUTPUT-00001-of-00003.gguf and so on")
      ->transform(file_size())
      ->check(CLI::Range(1.0, 1e15));
  c->add_flag("--force", o->force, "Replace the file if it exists");
  c->add_flag("--quiet", o->quiet, "Print nothing on success");
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
