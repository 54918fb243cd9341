// Products on a CUDA device, timed by the device: what cuda_matmul_bench and cuda_tier_table share.
//
// Each product of a run has a copy of the weights of its own, and the copies together are larger than the L2 cache, so
// that weights come from memory, as a model's do. The run is one CUDA graph between two events of a stream: what the
// host takes to launch kernels is not timed, and an engine that cares about it uses graphs, too.
#pragma once

#include <cuda_runtime_api.h>

#include <optional>
#include <string>
#include <vector>

#include "nibble/cuda/device.h"

namespace nibble::bench {

struct LayerShape {
  std::size_t rows, cols;
};

/// A device and a stream. Error{unsupported} says what is missing.
class BenchDevice {
 public:
  BenchDevice();
  ~BenchDevice();
  BenchDevice(const BenchDevice&) = delete;
  BenchDevice& operator=(const BenchDevice&) = delete;

  [[nodiscard]] const cuda::Context& context() const { return context_; }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  /// Bytes a second that a read of the device's memory reads (read_memory.h), and that a copy within it reads and
  /// writes: the best of several, of 1 GiB each. The read is what products are held against.
  [[nodiscard]] double read_rate() const;
  [[nodiscard]] double copy_rate() const;

 private:
  cuda::Context context_;
  cudaStream_t stream_ = nullptr;
};

/// Work that was captured from a stream, to be run again and again.
class Graph {
 public:
  /// `work` puts on the device's stream what is captured.
  template <class Work>
  Graph(const BenchDevice& device, const Work& work) : device_(&device) {
    begin();
    work();
    end();
  }
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  /// Runs it once, waits, and says how long the device took.
  [[nodiscard]] double seconds() const;

 private:
  void begin() const;
  void end();
  const BenchDevice* device_;
  cudaGraphExec_t work_ = nullptr;
  cudaEvent_t begun_ = nullptr, ended_ = nullptr;
};

/// Copies of one layer's weights, random, three times as large as the L2 cache in all, and two at least.
class Layer {
 public:
  /// Of a spec, in both layouts where it has two. No spec: unquantized, in f16.
  Layer(const BenchDevice& device, const std::string& spec, LayerShape shape);
  [[nodiscard]] const std::vector<cuda::MatrixPtr>& copies() const { return copies_; }
  /// What one product reads of it.
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  std::vector<cuda::MatrixPtr> copies_;
  std::size_t bytes_ = 0;
};

/// How a product is made: by a tier of matmul(), or by matmul_int8().
enum class Path { gemv, tensor_core, blas, int8 };
const char* name_of(Path path);

/// One product of f16 activations with each copy of a layer, y in f16.
class Products {
 public:
  /// Error{unsupported} where the path cannot serve. The device and the layer must outlive it.
  Products(const BenchDevice& device, const Layer& layer, Path path, std::size_t tokens);
  /// Of one product, in one run over all copies.
  [[nodiscard]] double seconds() const { return graph_->seconds() / static_cast<double>(count_); }

 private:
  std::size_t count_;
  cuda::DeviceBuffer x_, y_, workspace_;
  std::optional<Graph> graph_;
};

}  // namespace nibble::bench
