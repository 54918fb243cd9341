// hessian/<channels>/t<threads>: the rank-k update of calibration, 2048 tokens a call, against the peak of fused
// multiply-adds of this process. gptq/<case>/<size>/t<threads>: one square layer, factorisation and all.
//
//   solver_gptq_bench --layer DIR [size]     writes DIR/w.npy and DIR/h.npy and prints our time and loss, as JSON, for
//                                            peers/gptq_reference.py to be run on the same layer
#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <random>

#include "bench/support/limits.h"
#include "nibble/solver/gptq.h"

namespace nibble {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Exactly so many threads: the default pool has one per CPU.
class Threads final : public Executor {
 public:
  explicit Threads(int count) : count_(count) {}
  int concurrency() const noexcept override { return count_; }
  void run(std::size_t count, FunctionRef<void(std::size_t)> task) override {
    (count_ == 1 ? serial_executor() : default_executor()).run(count, task);
  }

 private:
  int count_;
};

MatrixView<const float> view(const Matrix& m) {
  return {m.data(), static_cast<std::size_t>(m.rows()), static_cast<std::size_t>(m.cols())};
}

Matrix normal(std::size_t rows, std::size_t cols, unsigned seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> distribution;
  return Matrix::NullaryExpr(static_cast<Eigen::Index>(rows), static_cast<Eigen::Index>(cols),
                             [&] { return distribution(random); });
}

/// Inputs as a transformer's linears see them: correlated, a few channels far larger than the rest.
Matrix activations(std::size_t tokens, std::size_t channels) {
  const Matrix mixed =
      normal(tokens, channels / 8, 1) * normal(channels / 8, channels, 2) / std::sqrt(static_cast<float>(channels / 8));
  Matrix x = mixed + 0.5f * normal(tokens, channels, 3);
  const Matrix spread = normal(1, channels, 4);
  for (Eigen::Index c = 0; c < x.cols(); ++c) x.col(c) *= std::exp(spread(0, c));
  return x;
}

struct Layer {
  Matrix weights;
  Hessian hessian;
};

const Layer& layer(std::size_t size) {
  static std::map<std::size_t, Layer> layers;
  auto found = layers.find(size);
  if (found == layers.end()) {
    Hessian h(size, "x");
    h.add(view(activations(2 * size, size)));
    found = layers.emplace(size, Layer{normal(size, size, 5) * 0.02f, std::move(h)}).first;
  }
  return found->second;
}

void run_hessian(benchmark::State& state, int threads) {
  const auto channels = static_cast<std::size_t>(state.range(0)), tokens = std::size_t{2048};
  const Matrix x = normal(tokens, channels, 1);
  Hessian h(channels);
  Threads executor(threads);
  for (auto _ : state) h.add(view(x), executor);
  const double flops = static_cast<double>(tokens) * static_cast<double>(channels) * static_cast<double>(channels + 1);
  state.counters["flops"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["of_limit"] =
      benchmark::Counter(flops / bench::fma_peak(threads), benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel("limit: fused multiply-adds");
}

void run_gptq(benchmark::State& state, gptq::Options options, int threads) {
  const Layer& l = layer(static_cast<std::size_t>(state.range(0)));
  Threads executor(threads);
  options.executor = &executor;
  double loss = 0;
  for (auto _ : state) loss = gptq::solve(view(l.weights), l.hessian, options).report.loss;
  state.counters["loss"] = loss;
}

const int registered = [] {
  const std::pair<const char*, gptq::Options> cases[] = {
      {"4-g128", {}},
      {"4-g128-act", {.act_order = true}},
      {"4-g128-asym-act", {.symmetric = false, .act_order = true}},
      {"4-g128-gar", {.act_group_aware = true}},
      {"4-g128-search", {.grid_search = true}},
      {"3-g128-act", {.bits = 3, .act_order = true}},
      {"2-g32-asym", {.bits = 2, .group_size = 32, .symmetric = false}},
      {"4-channel-act", {.group_size = -1, .act_order = true}}};
  for (int threads : {1, 2}) {
    const std::string suffix = "/t" + std::to_string(threads);
    for (std::int64_t channels : {1024, 4096})
      benchmark::RegisterBenchmark(("hessian/" + std::to_string(channels) + suffix).c_str(), run_hessian, threads)
          ->Arg(channels)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    for (const auto& [name, options] : cases)
      for (std::int64_t size : {1024, 4096})
        benchmark::RegisterBenchmark(
            (std::string("gptq/") + name + "/" + std::to_string(size) + "x" + std::to_string(size) + suffix).c_str(),
            run_gptq, options, threads)
            ->Arg(size)
            ->UseRealTime()
            ->Unit(benchmark::kMillisecond);
  }
  return 0;
}();

void write_npy(const std::string& path, const Matrix& m) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(m.rows()) + ", " +
                       std::to_string(m.cols()) + "), }";
  header.resize((10 + header.size() + 64) / 64 * 64 - 10 - 1, ' ');
  header += '\n';
  const char length[] = {static_cast<char>(header.size() % 256), static_cast<char>(header.size() / 256)};
  std::ofstream out(path, std::ios::binary);
  out.write("\x93NUMPY\x01\x00", 8).write(length, 2) << header;
  out.write(reinterpret_cast<const char*>(m.data()), static_cast<std::streamsize>(m.size() * 4));
  if (!out) throw Error(ErrorCode::io, "cannot write '" + path + "'");
}

int write_layer(const std::string& folder, std::size_t size) {
  const Layer& l = layer(size);
  Matrix h(l.weights.cols(), l.weights.cols());
  for (std::size_t i = 0; i < size; ++i)
    for (std::size_t j = 0; j < size; ++j)
      h(static_cast<Eigen::Index>(i), static_cast<Eigen::Index>(j)) =
          static_cast<float>(2 * l.hessian.sum(i, j) / static_cast<double>(l.hessian.tokens()));
  write_npy(folder + "/w.npy", l.weights);
  write_npy(folder + "/h.npy", h);
  double best = 0, loss = 0;
  for (int i = 0; i < 3; ++i) {
    const auto start = std::chrono::steady_clock::now();
    loss = gptq::solve(view(l.weights), l.hessian, {.act_order = true}).report.loss;
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = i == 0 ? seconds : std::min(best, seconds);
  }
  std::cout << "{\"solver\": \"nibble\", \"threads\": " << default_executor().concurrency() << ", \"size\": " << size
            << ", \"seconds\": " << best << ", \"loss\": " << loss << "}\n";
  return 0;
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  if (argc >= 3 && std::strcmp(argv[1], "--layer") == 0)
    return nibble::write_layer(argv[2], argc > 3 ? std::stoul(argv[3]) : 4096);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
