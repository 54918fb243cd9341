#include "backend/cuda/tensor_core.h"

#include <algorithm>
#include <cstring>

#include "backend/cuda/layout.h"
#include "kernels/cuda/gather.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

/// `values` must live until the stream has been waited for.
template <class T>
DeviceBuffer uploaded(const Context& context, const std::vector<T>& values, cudaStream_t stream) {
  DeviceBuffer out(values.size() * sizeof(T), context.allocator(), stream);
  if (out.size() > 0)
    check(cudaMemcpyAsync(out.as<>(), values.data(), out.size(), cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync",
          "uploading weights");
  return out;
}

void pack_four_bits(const Context& context, const HostW4& host, const std::vector<std::int32_t>& places,
                    Matrix::Storage& s, cudaStream_t stream) {
  TensorCoreCodes& t = *s.tensor;
  t.codes = uploaded(context, host.codes, stream);
  t.scales = uploaded(context, host.scales, stream);
  t.zero_points = uploaded(context, host.zero_points, stream);
  t.column_order = uploaded(context, host.column_order, stream);
  t.column_places = uploaded(context, places, stream);
  t.w4 = {host.rows,       host.cols,       host.spec.is_codebook(),          t.codes.as<std::uint32_t>(), host.group,
          t.scales.as<>(), host.scale_type, t.zero_points.as<std::uint8_t>(), s.codebook.as<float>()};
  const DeviceInfo& device = context.device();
  for (const DType type : {DType::f16, DType::bf16}) {
    if (!has_gemm_w4a16(type, device.compute_capability)) continue;
    for (std::size_t i = 0; i < std::size(kW4Tiles); ++i) {
      int each = 0;
      check_kernel(w4a16_resident_blocks(kW4Tiles[i], type, t.w4.is_codebook, &each), "gemm_w4a16");
      t.blocks[type == DType::bf16][i] =
          static_cast<unsigned>(std::max(each, 1)) * static_cast<unsigned>(device.multiprocessors);
    }
  }
}

void pack_eight_bits(const Context& context, const HostInt8& host, Matrix::Storage& s, cudaStream_t stream) {
  TensorCoreCodes& t = *s.tensor;
  t.codes = uploaded(context, host.codes, stream);
  t.multipliers = uploaded(context, host.multipliers, stream);
  t.int8 = {host.rows, host.cols, t.codes.as<std::uint32_t>(), t.multipliers.as<float>()};
}

template <class T>
std::vector<T> downloaded(const DeviceBuffer& from, cudaStream_t stream) {
  std::vector<T> out(from.size() / sizeof(T));
  WaitOnError work(stream);
  if (from.size() > 0)
    check(cudaMemcpyAsync(out.data(), from.as<>(), from.size(), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync",
          "downloading weights");
  work.wait("downloading weights");
  return out;
}

bool is_whole_chunks(const DeviceMatrix& x) {
  return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0;
}

/// What gemm_w4a16 works in: its locks and sums, and x where its columns or rows lie otherwise than it takes them.
struct TensorCoreWorkspace {
  std::byte* sums;
  std::byte* x;
  std::size_t bytes;

  TensorCoreWorkspace(const GemmPlan& plan, std::size_t tokens, std::size_t cols, DeviceSpan space = {}) {
    Pieces pieces(space);
    sums = pieces.take<std::byte>(plan.workspace_bytes);
    x = pieces.take<std::byte>(tokens * cols * 2);
    bytes = pieces.used();
  }
};

}  // namespace

bool has_tensor_core_layout(const QuantizedMatrix& q) { return why_not_w4(q).empty() || why_not_int8(q).empty(); }

void pack_tensor_core(const Context& context, const QuantizedMatrix& q, Matrix::Storage& s, cudaStream_t stream) {
  s.tensor = std::make_unique<TensorCoreCodes>();
  HostW4 four;
  std::vector<std::int32_t> places;
  HostInt8 eight;
  WaitOnError work(stream);
  if (q.spec.bits == 4) {
    four = pack_w4(q);
    places = four.column_places();
    pack_four_bits(context, four, places, s, stream);
  } else {
    eight = pack_int8(q);
    pack_eight_bits(context, eight, s, stream);
  }
  if (s.codes.size() == 0) {
    s.view.tensor_codes = s.tensor->codes.as<std::uint32_t>();
    s.view.tensor_places = s.tensor->column_places.as<std::int32_t>();
  }
  work.wait("uploading weights");
}

void unpack_tensor_core(const Matrix::Storage& s, QuantizedMatrix& q, cudaStream_t stream) {
  std::vector<std::uint8_t> codes;
  if (q.spec.bits == 4) {
    HostW4 host;
    host.spec = q.spec;
    host.rows = q.rows;
    host.cols = q.cols;
    host.codes = downloaded<std::uint32_t>(s.tensor->codes, stream);
    host.column_order = downloaded<std::int32_t>(s.tensor->column_order, stream);
    codes = unpack_w4_codes(host);
  } else {
    HostInt8 host;
    host.rows = q.rows;
    host.cols = q.cols;
    host.codes = downloaded<std::uint32_t>(s.tensor->codes, stream);
    codes = unpack_int8_codes(host);
  }
  std::memcpy(q.codes.writable<std::byte>(), codes.data(), codes.size());
}

GemmPlan tensor_core_plan(const Matrix::Storage& s, std::size_t tokens, DType x_type) {
  if (s.tensor == nullptr || s.tensor->w4.rows == 0 || (x_type != DType::f16 && x_type != DType::bf16)) return {};
  const unsigned tile = w4a16_tile_tokens(tokens);
  const auto index = std::find(std::begin(kW4Tiles), std::end(kW4Tiles), tile) - std::begin(kW4Tiles);
  const unsigned blocks = s.tensor->blocks[x_type == DType::bf16][index];
  return blocks == 0 ? GemmPlan{} : plan_gemm_w4a16(tokens, s.view.rows, s.view.cols, blocks);
}

std::size_t tensor_core_workspace(const Matrix::Storage& s, std::size_t tokens, DType x_type) {
  return TensorCoreWorkspace(tensor_core_plan(s, tokens, x_type), tokens, s.view.cols).bytes;
}

void gemm_tensor_core(const Matrix::Storage& s, const DeviceMatrix& x, const MutableDeviceMatrix& y,
                      DeviceSpan workspace, cudaStream_t stream) {
  const TensorCoreCodes& t = *s.tensor;
  const GemmPlan plan = tensor_core_plan(s, x.rows, x.type);
  const TensorCoreWorkspace space(plan, x.rows, x.cols, workspace);
  const void* from = x.data;
  std::size_t stride = x.stride;
  if (t.column_order.size() > 0)
    check_kernel(gather_columns({x.data, x.type, x.rows, x.cols, x.stride}, t.column_order.as<std::int32_t>(), x.cols,
                                nullptr, space.x, x.cols, stream),
                 "gather_columns");
  else if (!is_whole_chunks(x))
    check(cudaMemcpy2DAsync(space.x, x.cols * 2, x.data, x.stride * 2, x.cols * 2, x.rows, cudaMemcpyDeviceToDevice,
                            stream),
          "cudaMemcpy2DAsync", "aligning x");
  if (t.column_order.size() > 0 || !is_whole_chunks(x)) {
    from = space.x;
    stride = x.cols;
  }
  if (plan.steps_a_block % plan.steps_a_tile != 0)  // blocks share a tile, and wait for each other
    check(cudaMemsetAsync(space.sums, 0, plan.lock_bytes, stream), "cudaMemsetAsync", "the locks of gemm_w4a16");
  check_kernel(gemm_w4a16(t.w4, from, x.type, stride, x.rows, y.data, y.type, y.stride, plan, space.sums, stream),
               "gemm_w4a16");
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
