#include "bench/cuda/device_products.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "backend/cuda/matmul.h"
#include "bench/cuda/read_memory.h"
#include "bench/support/random.h"
#include "nibble/quantize/quantize.h"

namespace nibble::bench {

namespace {

using cuda::check;
using cuda::Tier;

std::vector<f16> halves(const std::vector<float>& values) {
  std::vector<f16> out;
  out.reserve(values.size());
  for (const float v : values) out.push_back(f16(v));
  return out;
}

constexpr std::size_t kBytes = std::size_t{1} << 30;  // of the measurements of memory

/// Activations of which one column in 512 is an outlier to LLM.int8, whose threshold is 6.
std::vector<f16> activations(std::size_t tokens, std::size_t cols) {
  auto x = random(tokens * cols, 2);
  for (std::size_t i = 0; i < x.size(); ++i)
    if (i % cols % 512 == 7) x[i] += 8;
  return halves(x);
}

Tier tier_of(Path path) {
  return path == Path::gemv ? Tier::gemv : path == Path::tensor_core ? Tier::tensor_core : Tier::blas;
}

void require_path(const cuda::Matrix& w, Path path, std::size_t tokens) {
  const bool serves =
      path == Path::int8 ? cuda::has_matmul_int8(w) : cuda::can_serve(w, tier_of(path), tokens, DType::f16);
  if (!serves)
    throw Error(ErrorCode::unsupported, std::string(name_of(path)) + " does not take " + std::to_string(tokens) +
                                            " tokens of " + w.spec().to_string());
}

}  // namespace

const char* name_of(Path path) {
  switch (path) {
    case Path::gemv: return "gemv";
    case Path::tensor_core: return "tensor_core";
    case Path::blas: return "blas";
    case Path::int8: break;
  }
  return "int8";
}

BenchDevice::BenchDevice() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

BenchDevice::~BenchDevice() { (void)cudaStreamDestroy(stream_); }

double BenchDevice::read_rate() const {
  const auto blocks = static_cast<unsigned>(8 * context_.device().multiprocessors);
  const cuda::DeviceBuffer from(kBytes, context_.allocator(), stream_);
  const cuda::DeviceBuffer sums(blocks * sizeof(std::uint32_t), context_.allocator(), stream_);
  check(cudaMemsetAsync(from.as<>(), 1, kBytes, stream_), "cudaMemsetAsync");
  const Graph read(*this, [&] {
    check(static_cast<cudaError_t>(read_memory(from.as<>(), kBytes, sums.as<std::uint32_t>(), blocks, stream_)),
          "read_memory");
  });
  double best = 1e30;
  for (int i = 0; i < 5; ++i) best = std::min(best, read.seconds());
  std::vector<std::uint32_t> of_blocks(blocks);
  check(cudaMemcpyAsync(of_blocks.data(), sums.as<>(), blocks * sizeof(std::uint32_t), cudaMemcpyDeviceToHost, stream_),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  const auto sum = std::accumulate(of_blocks.begin(), of_blocks.end(), std::uint32_t{0});
  if (sum != static_cast<std::uint32_t>(kBytes / 4 * 0x01010101u))
    throw Error(ErrorCode::device, "the read that is to be the limit did not read what is in memory");
  return kBytes / best;
}

double BenchDevice::copy_rate() const {
  const cuda::DeviceBuffer from(kBytes, context_.allocator(), stream_), to(kBytes, context_.allocator(), stream_);
  check(cudaMemsetAsync(from.as<>(), 1, kBytes, stream_), "cudaMemsetAsync");
  const Graph copy(*this, [&] {
    check(cudaMemcpyAsync(to.as<>(), from.as<>(), kBytes, cudaMemcpyDeviceToDevice, stream_), "cudaMemcpyAsync");
  });
  double best = 1e30;
  for (int i = 0; i < 5; ++i) best = std::min(best, copy.seconds());
  return 2.0 * kBytes / best;
}

void Graph::begin() const {
  check(cudaStreamBeginCapture(device_->stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
}

void Graph::end() {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(device_->stream(), &graph), "cudaStreamEndCapture");
  const cudaError_t status = cudaGraphInstantiateWithFlags(&work_, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiateWithFlags");
  check(cudaEventCreate(&begun_), "cudaEventCreate");
  check(cudaEventCreate(&ended_), "cudaEventCreate");
}

Graph::~Graph() {
  if (work_ != nullptr) (void)cudaGraphExecDestroy(work_);
  for (cudaEvent_t event : {begun_, ended_})
    if (event != nullptr) (void)cudaEventDestroy(event);
}

double Graph::seconds() const {
  const cudaStream_t stream = device_->stream();
  check(cudaEventRecord(begun_, stream), "cudaEventRecord");
  check(cudaGraphLaunch(work_, stream), "cudaGraphLaunch");
  check(cudaEventRecord(ended_, stream), "cudaEventRecord");
  check(cudaEventSynchronize(ended_), "cudaEventSynchronize");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, begun_, ended_), "cudaEventElapsedTime");
  return static_cast<double>(milliseconds) * 1e-3;
}

Layer::Layer(const BenchDevice& device, const std::string& spec, LayerShape shape) {
  const cuda::Context& context = device.context();
  const auto values = random(shape.rows * shape.cols, 1);
  const MatrixView<const float> w(values.data(), shape.rows, shape.cols);
  std::vector<f16> plain;
  QuantizedMatrix q;
  if (spec.empty()) plain = halves(values);
  else q = quantize(w, spec);
  bytes_ = spec.empty() ? plain.size() * sizeof(f16) : q.storage_bytes();
  while (copies_.size() < 2 || copies_.size() * bytes_ < 3 * context.device().l2_bytes)
    copies_.push_back(spec.empty() ? cuda::pack(context, FloatMatrix(MatrixView(plain.data(), shape.rows, shape.cols)),
                                                device.stream())
                                   : cuda::pack(context, q, device.stream(), cuda::CodeLayout::both));
}

Products::Products(const BenchDevice& device, const Layer& layer, Path path, std::size_t tokens)
    : count_(layer.copies().size()) {
  const cuda::Context& context = device.context();
  const cudaStream_t stream = device.stream();
  const cuda::Matrix& first = *layer.copies()[0];
  if (first.is_quantized() || path != Path::blas) require_path(first, path, tokens);
  const auto values = activations(tokens, first.cols());
  x_ = cuda::DeviceBuffer(values.size() * sizeof(f16), context.allocator(), stream);
  y_ = cuda::DeviceBuffer(tokens * first.rows() * sizeof(f16), context.allocator(), stream);
  workspace_ = cuda::DeviceBuffer(path == Path::int8 ? cuda::matmul_int8_workspace(first, tokens)
                                                     : cuda::tier_workspace(first, tier_of(path), tokens, DType::f16),
                                  context.allocator(), stream);
  check(cudaMemcpyAsync(x_.as<>(), values.data(), x_.size(), cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync",
        "uploading activations");
  const auto multiply = [&] {
    for (const cuda::MatrixPtr& w : layer.copies()) {
      const cuda::DeviceMatrix x{x_.as<>(), DType::f16, tokens, w->cols(), w->cols()};
      const cuda::MutableDeviceMatrix y{y_.as<>(), DType::f16, tokens, w->rows(), w->rows()};
      if (path == Path::int8) cuda::matmul_int8(context, x, *w, y, workspace_.span(), nullptr, stream);
      else cuda::matmul_by(tier_of(path), context, x, *w, y, workspace_.span(), stream);
    }
  };
  multiply();  // what is made at the first call, is made before the work is captured
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  graph_.emplace(device, multiply);
}

}  // namespace nibble::bench
