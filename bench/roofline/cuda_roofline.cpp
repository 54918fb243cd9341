// The roofline sheet: what each CUDA kernel cannot be faster than, and what the compiler made of it.
//
//   cuda_roofline [--gpu H100] [--rows 4096] [--cols 4096,14336] [--tokens 1,8,16,64,512] [--table products]
//                 [--markdown | --csv]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <filesystem>
#include <map>
#include <string>

#include "bench/roofline/roofline.h"
#include "bench/roofline/table.h"

namespace nibble::roofline {

namespace {

using cuda_static::count_of;
using cuda_static::Gpu;
using cuda_static::InstructionCounts;

constexpr const char* kTables[] = {"products", "passes", "kernels"};

struct Options {
  std::string gpu;
  std::size_t rows = 4096;
  std::vector<std::size_t> cols{4096, 14336};
  std::vector<std::size_t> tokens{1, 8, 16, 64, 512};
  std::vector<std::string> tables{std::begin(kTables), std::end(kTables)};
  Style style = Style::text;

  [[nodiscard]] bool wants(const char* table) const {
    return std::find(tables.begin(), tables.end(), table) != tables.end();
  }
};

std::filesystem::path cubins(const Gpu& gpu) {
  return std::filesystem::path(NIBBLE_CUBINS) / fmt::format("sm_{}", 10 * gpu.major + gpu.minor);
}

/// The time that issuing a product's inner loop takes; "" without a kernel of ours.
std::string issue_text(const Loop& loop, const Gpu& gpu) {
  if (loop.file == nullptr) return "";
  static std::map<std::string, std::map<std::string, std::vector<InstructionCounts>>> known;
  const std::string path = (cubins(gpu) / loop.file).string() + ".cubin";
  if (!known.contains(path)) known[path] = cuda_static::count_loops(path, loop.operation);
  for (const auto& [name, loops] : known[path])
    if (name.find(loop.kernel) != std::string::npos)
      return fmt::format("{:.2f}", issue_seconds(loop, count_of(loops.front()), gpu) * 1e6);
  throw std::runtime_error(path + " holds no loop of " + loop.kernel);
}

Table product_table(const Options& o, const Gpu& gpu) {
  Table table(3, {"gpu", "product", "weights", "tokens", "MB moved", "Gop", "op/byte", "floor us", "bound by",
                  "x of fp16", "crossover", "issue us"});
  for (const std::size_t cols : o.cols)
    for (const Tier& tier : products())
      for (const std::size_t n : o.tokens) {
        if (tier.most_tokens != 0 && n > tier.most_tokens) continue;
        const Floor f = floor_of(tier, gpu, o.rows, cols, n);
        const double fp16 = floor_of(products()[0], gpu, o.rows, cols, n).seconds();
        table.add({gpu.name, tier.name, fmt::format("{}x{}", o.rows, cols), std::to_string(n),
                   fmt::format("{:.2f}", f.bytes / 1e6), fmt::format("{:.2f}", f.operations / 1e9),
                   fmt::format("{:.1f}", f.operations / f.bytes), fmt::format("{:.2f}", f.seconds() * 1e6),
                   f.is_memory_bound() ? "memory" : "compute", fmt::format("{:.2f}", fp16 / f.seconds()),
                   std::to_string(crossover(tier, gpu, o.rows, cols)),
                   issue_text(loop_of(tier, o.rows, cols, n), gpu)});
      }
  return table;
}

Table pass_table(const Options& o, const Gpu& gpu) {
  Table table(3, {"gpu", "pass", "weights", "MB moved", "Gop", "floor us", "bound by", "Gelem/s"});
  for (const std::size_t cols : o.cols)
    for (const Tier& tier : streams()) {
      const Floor f = floor_of(tier, gpu, o.rows, cols, 0);
      const double elements = static_cast<double>(o.rows) * static_cast<double>(cols);
      table.add({gpu.name, tier.name, fmt::format("{}x{}", o.rows, cols), fmt::format("{:.2f}", f.bytes / 1e6),
                 fmt::format("{:.2f}", f.operations / 1e9), fmt::format("{:.2f}", f.seconds() * 1e6),
                 f.is_memory_bound() ? "memory" : "compute", fmt::format("{:.0f}", elements / f.seconds() / 1e9)});
    }
  return table;
}

/// The loop that does a kernel's work: the shortest innermost one with products of the tensor cores, or else of the
/// CUDA cores.
struct Work {
  std::size_t products = 0, instructions = 0;
};
std::map<std::string, Work> work_of(const std::string& cubin) {
  std::map<std::string, Work> out;
  for (const char* operation : {"HMMA", "IMMA", "FFMA"})
    for (const auto& [name, loops] : cuda_static::count_loops(cubin, operation))
      out.try_emplace(name, Work{count_of(loops.front(), {operation}), count_of(loops.front())});
  return out;
}

/// A row for each kernel: registers, occupancy by gates.txt's launch, the instructions in its machine code, and those
/// of its inner loop.
Table kernel_table(const Gpu& gpu) {
  Table table(2, {"gpu", "kernel (a part of its mangled name)", "regs", "blk/SM", "warps", "tensor", "ldmatr", "cpasyn",
                  "memory", "fp", "all", "loop", "products in it"});
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(cubins(gpu)))
    if (entry.path().extension() == ".cubin") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  const auto gates = cuda_static::read_gates(NIBBLE_STATIC_GATES);
  for (const auto& file : files) {
    auto resources = file;
    resources.replace_extension(".resources.txt");
    const auto used = cuda_static::read_resources(resources);
    const auto work = work_of(file);
    for (const auto& [name, counts] : cuda_static::count_instructions(file)) {
      const cuda_static::Gate* gate = cuda_static::gate_of(gates, name);
      if (gate == nullptr || !used.contains(name)) continue;
      const int blocks =
          cuda_static::blocks_per_multiprocessor(gpu, used.at(name), gate->threads, gate->dynamic_shared_bytes);
      const std::string shown = name.substr(std::min(name.size(), std::string("_ZN6nibble4v0_14cuda17").size()));
      const auto number = [](auto n) { return std::to_string(n); };
      const Work loop = work.contains(name) ? work.at(name) : Work{};
      table.add({gpu.name, shown.substr(0, 58), number(used.at(name).registers), number(blocks),
                 number(blocks * gate->threads / 32), number(count_of(counts, {"HMMA", "IMMA"})),
                 number(count_of(counts, {"LDSM"})), number(count_of(counts, {"LDGSTS"})),
                 number(count_of(counts, {"LDG", "STG", "LDS", "STS"})),
                 number(count_of(counts, {"FFMA", "FADD", "FMUL", "HFMA2", "HADD2", "HMUL2"})),
                 number(count_of(counts)), loop.products == 0 ? "" : number(loop.instructions),
                 loop.products == 0 ? "" : number(loop.products)});
    }
  }
  return table;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& line : lines) out += line + "\n";
  return out;
}
const std::string kLegend = joined(
    {"A prediction, not a measurement (bench/README.md has what an H100 took). A floor is the longer of bytes over "
     "bandwidth and",
     "operations over peak; crossover is the number of tokens from which arithmetic is the longer. issue: what the",
     "schedulers take for the kernel's inner loop at one instruction a clock, code for scales of other types included:",
     "an estimate from above of that limit, and no floor. loop: the instructions of the innermost loop with "
     "products."});

std::string described(const Gpu& gpu) {
  return fmt::format("{}: {:.2f} TB/s, {:.0f} Tflop/s fp32, {:.0f} fp16 and {:.0f} Top/s int8 on tensor cores",
                     gpu.name, gpu.memory_bandwidth / 1e12, gpu.float_peak / 1e12, gpu.half_tensor_peak / 1e12,
                     gpu.int8_tensor_peak / 1e12);
}

int run(const Options& o) {
  const bool has_text = o.style != Style::csv;
  if (has_text) fmt::print("{}", kLegend);
  bool found = false;
  for (const Gpu& gpu : cuda_static::gpus()) {
    if (!o.gpu.empty() && o.gpu != gpu.name) continue;
    if (has_text) fmt::print("\n{}{}\n", o.style == Style::markdown ? "## " : "== ", described(gpu));
    const auto print = [&](const Table& table) {
      const std::string text = table.written(o.style);
      const std::size_t header = has_text || !found ? 0 : text.find('\n') + 1;  // values have one header for all
      fmt::print("{}{}", has_text ? "\n" : "", text.substr(header));
    };
    if (o.wants("products")) print(product_table(o, gpu));
    if (o.wants("passes")) print(pass_table(o, gpu));
    if (o.wants("kernels")) print(kernel_table(gpu));
    found = true;
  }
  if (!found) fmt::print(stderr, "no GPU '{}' here: A100, RTX 4090 or H100\n", o.gpu);
  return found ? 0 : 1;
}

}  // namespace

}  // namespace nibble::roofline

int main(int argc, char** argv) {
  using namespace nibble::roofline;
  Options o;
  CLI::App app(
      "What the CUDA kernels cannot be faster than, by bytes and operations, and what the compiler made of them.\n"
      "No GPU is asked: a prediction.");
  app.add_option("--gpu", o.gpu, "A100, RTX 4090 or H100 (default: all)");
  app.add_option("--rows", o.rows, "Outputs of the weight")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--cols", o.cols, "Inputs of the weight")
      ->capture_default_str()
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--tokens", o.tokens, "Numbers of tokens")
      ->capture_default_str()
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  auto* tables = app.add_option("--table", o.tables, "products, passes, kernels (default: all; of CSV: products)")
                     ->delimiter(',')
                     ->check(CLI::IsMember(std::vector<std::string>(std::begin(kTables), std::end(kTables))));
  bool is_markdown = false, is_csv = false;
  auto* markdown = app.add_flag("--markdown", is_markdown, "Tables in Markdown");
  app.add_flag("--csv", is_csv, "One table as comma-separated values, and nothing else")->excludes(markdown);
  CLI11_PARSE(app, argc, argv);
  if (is_markdown) o.style = Style::markdown;
  if (is_csv) {
    o.style = Style::csv;
    if (tables->count() == 0) o.tables = {"products"};
    if (o.tables.size() != 1) {
      fmt::print(stderr, "cuda_roofline: --csv writes one table; choose it with --table\n");
      return 2;
    }
  }
  try {
    return run(o);
  } catch (const std::exception& e) {
    fmt::print(stderr, "cuda_roofline: {}\n", e.what());
    return 1;
  }
}
