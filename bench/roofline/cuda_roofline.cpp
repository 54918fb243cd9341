// The roofline sheet: what each CUDA kernel cannot be faster than, and what the compiler made of it.
//
//   cuda_roofline [--gpu H100] [--rows 4096] [--cols 4096] [--tokens 1,8,16,64,512] [--csv]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "bench/roofline/roofline.h"

namespace nibble::roofline {

namespace {

using cuda_static::Gpu;

struct Options {
  std::string gpu;
  std::size_t rows = 4096, cols = 4096;
  std::vector<std::size_t> tokens{1, 8, 16, 64, 512};
  bool csv = false;
};

void print_products(const Options& o, const Gpu& gpu) {
  if (!o.csv)
    fmt::print("{:20} {:>6} {:>10} {:>9} {:>8} {:>11} {:>8} {:>9} {:>9}\n", "product", "tokens", "MB moved", "Gop",
               "op/byte", "floor in us", "bound by", "x of fp16", "crossover");
  for (const Tier& tier : products())
    for (const std::size_t n : o.tokens) {
      if (tier.most_tokens != 0 && n > tier.most_tokens) continue;
      const Floor f = floor_of(tier, gpu, o.rows, o.cols, n);
      const double fp16 = floor_of(products()[0], gpu, o.rows, o.cols, n).seconds();
      const std::size_t at = crossover(tier, gpu, o.rows, o.cols);
      const char* line = o.csv ? "{},{},{:.6f},{:.6f},{:.4f},{:.4f},{},{:.4f},{}\n"
                               : "{:20} {:>6} {:>10.2f} {:>9.2f} {:>8.1f} {:>11.2f} {:>8} {:>9.2f} {:>9}\n";
      const std::string name = o.csv ? fmt::format("{},{}", gpu.name, tier.name) : tier.name;
      fmt::print(fmt::runtime(line), name, n, f.bytes / 1e6, f.operations / 1e9, f.operations / f.bytes,
                 f.seconds() * 1e6, f.is_memory_bound() ? "memory" : "compute", fp16 / f.seconds(), at);
    }
}

void print_streams(const Options& o, const Gpu& gpu) {
  fmt::print("\n{:30} {:>10} {:>11} {:>9}\n", "pass", "MB moved", "floor in us", "Gelem/s");
  for (const Tier& tier : streams()) {
    const Floor f = floor_of(tier, gpu, o.rows, o.cols, 0);
    const double elements = static_cast<double>(o.rows) * static_cast<double>(o.cols);
    fmt::print("{:30} {:>10.2f} {:>11.2f} {:>9.0f}\n", tier.name, f.bytes / 1e6, f.seconds() * 1e6,
               elements / f.seconds() / 1e9);
  }
}

std::size_t count_of(const cuda_static::InstructionCounts& counts, std::initializer_list<const char*> names) {
  std::size_t n = 0;
  for (const char* name : names)
    for (const auto& [found, count] : counts)
      if (found == name || found.starts_with(std::string(name) + ".")) n += count;
  return n;
}

/// One line for each kernel: registers, occupancy by gates.txt's launch, and the instructions in its machine code.
void print_kernels(const Gpu& gpu) {
  const std::filesystem::path folder =
      std::filesystem::path(NIBBLE_CUBINS) / fmt::format("sm_{}", 10 * gpu.major + gpu.minor);
  fmt::print("\n{:58} {:>4} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}\n", "kernel (a part of its mangled name)",
             "regs", "blk/SM", "warps", "tensor", "ldmatr", "cpasyn", "memory", "fp", "all");
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".cubin") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  const auto gates = cuda_static::read_gates(NIBBLE_STATIC_GATES);
  for (const auto& file : files) {
    auto resources = file;
    resources.replace_extension(".resources.txt");
    const auto used = cuda_static::read_resources(resources);
    for (const auto& [name, counts] : cuda_static::count_instructions(file)) {
      const cuda_static::Gate* gate = cuda_static::gate_of(gates, name);
      if (gate == nullptr || !used.contains(name)) continue;
      const int blocks =
          cuda_static::blocks_per_multiprocessor(gpu, used.at(name), gate->threads, gate->dynamic_shared_bytes);
      std::size_t all = 0;
      for (const auto& [operation, count] : counts) all += count;
      std::string shown = name.substr(std::min<std::size_t>(name.size(), std::string("_ZN6nibble4cuda17").size()));
      fmt::print("{:58} {:>4} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}\n", shown.substr(0, 58),
                 used.at(name).registers, blocks, blocks * gate->threads / 32, count_of(counts, {"HMMA", "IMMA"}),
                 count_of(counts, {"LDSM"}), count_of(counts, {"LDGSTS"}),
                 count_of(counts, {"LDG", "STG", "LDS", "STS"}),
                 count_of(counts, {"FFMA", "FADD", "FMUL", "HFMA2", "HADD2", "HMUL2"}), all);
    }
  }
}

int run(const Options& o) {
  if (o.csv) fmt::print("gpu,product,tokens,mb_moved,gop,op_per_byte,floor_us,bound_by,times_fp16,crossover\n");
  else
    fmt::print(
        "A prediction, not a measurement: no GPU has run these kernels. A floor is the longer of bytes over "
        "bandwidth and operations over peak;\ncrossover is the number of tokens from which arithmetic is the "
        "longer.\n");
  bool found = false;
  for (const Gpu& gpu : cuda_static::gpus()) {
    if (!o.gpu.empty() && o.gpu != gpu.name) continue;
    found = true;
    if (!o.csv)
      fmt::print(
          "\n== {}: {:.2f} TB/s, {:.0f} Tflop/s fp32, {:.0f} fp16 and {:.0f} Top/s int8 on tensor cores; weights {} x "
          "{}\n\n",
          gpu.name, gpu.memory_bandwidth / 1e12, gpu.float_peak / 1e12, gpu.half_tensor_peak / 1e12,
          gpu.int8_tensor_peak / 1e12, o.rows, o.cols);
    print_products(o, gpu);
    if (o.csv) continue;
    print_streams(o, gpu);
    print_kernels(gpu);
  }
  if (!found) fmt::print(stderr, "no GPU '{}' here: A100, RTX 4090 or H100\n", o.gpu);
  return found ? 0 : 1;
}

}  // namespace

}  // namespace nibble::roofline

int main(int argc, char** argv) {
  nibble::roofline::Options o;
  CLI::App app(
      "What the CUDA kernels cannot be faster than, by bytes and operations, and what the compiler made of them");
  app.add_option("--gpu", o.gpu, "A100, RTX 4090 or H100 (default: all)");
  app.add_option("--rows", o.rows, "Outputs of the weight")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--cols", o.cols, "Inputs of the weight")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--tokens", o.tokens, "Numbers of tokens")
      ->capture_default_str()
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_flag("--csv", o.csv, "The products' table as CSV");
  CLI11_PARSE(app, argc, argv);
  try {
    return nibble::roofline::run(o);
  } catch (const std::exception& e) {
    fmt::print(stderr, "cuda_roofline: {}\n", e.what());
    return 1;
  }
}
