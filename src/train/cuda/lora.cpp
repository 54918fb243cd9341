#include "nibble/cuda/lora.h"

#include <climits>
#include <sstream>
#include <vector>

#include "backend/cuda/grouped.h"
#include "backend/cuda/libraries.h"
#include "backend/cuda/matmul.h"
#include "backend/cuda/pieces.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

/// An operand as messages show it, and as it must be.
struct Operand {
  const char* name;
  DeviceMatrix matrix;
  std::size_t rows, cols;
  bool may_be_f32;  ///< Whatever x's type.
};

/// Throws unless every operand has its shape, x's type, and extents that cuBLAS counts.
void check_operands(const char* call, std::size_t index, DType type, std::initializer_list<Operand> operands) {
  std::ostringstream shapes;
  bool fits = true, has_types = type == DType::f32 || type == DType::f16 || type == DType::bf16, is_countable = true;
  for (const Operand& o : operands) {
    const DeviceMatrix& m = o.matrix;
    shapes << (shapes.tellp() > 0 ? ", " : "") << o.name << " is " << name_of(m.type) << " [" << m.rows << ", "
           << m.cols << "] with rows " << m.stride << " apart";
    fits = fits && m.rows == o.rows && m.cols == o.cols && m.stride >= m.cols;
    has_types = has_types && (m.type == type || (o.may_be_f32 && m.type == DType::f32));
    is_countable = is_countable && m.rows <= INT_MAX && m.stride <= INT_MAX;
  }
  if (fits && has_types && is_countable) return;
  std::ostringstream message;
  message << call << ": product " << index << ": " << shapes.str();
  if (!fits) throw Error(ErrorCode::shape_mismatch, message.str() + "; they do not fit each other");
  if (!has_types)
    throw Error(
        ErrorCode::unsupported,
        message.str() + "; x must be F32, F16 or BF16, the others of its type, what is added to of that or F32");
  throw Error(ErrorCode::invalid_argument, message.str() + "; cuBLAS takes extents up to 2147483647");
}

void check(const LoraProduct& p, std::size_t index) {
  const std::size_t n = p.x.rows, in = p.x.cols, r = p.a.rows, out = p.b.rows;
  check_operands(
      "add_lora", index, p.x.type,
      {{"x", p.x, n, in, false}, {"A", p.a, r, in, false}, {"B", p.b, out, r, false}, {"y", p.y, n, out, true}});
}

void check(const LoraGradient& g, std::size_t index) {
  const std::size_t n = g.x.rows, in = g.x.cols, r = g.a.rows, out = g.b.rows;
  const auto wanted = [&](const char* name, const MutableDeviceMatrix& m, std::size_t rows, std::size_t cols) {
    return m.data != nullptr ? Operand{name, m, rows, cols, true} : Operand{name, {nullptr, g.x.type}, 0, 0, true};
  };
  check_operands("add_lora_gradients", index, g.x.type,
                 {{"x", g.x, n, in, false},
                  {"A", g.a, r, in, false},
                  {"B", g.b, out, r, false},
                  {"grad_y", g.grad_y, n, out, false},
                  wanted("grad_x", g.grad_x, n, in),
                  wanted("grad_a", g.grad_a, r, in),
                  wanted("grad_b", g.grad_b, out, r)});
}

/// Whether there is anything to add.
template <class T>
bool is_empty(const T& p) {
  return p.x.rows == 0 || p.x.cols == 0 || p.a.rows == 0 || p.b.rows == 0;
}

/// The parts of a workspace. Without one, it counts.
template <class T>
struct LoraWorkspace {
  /// `each` intermediates [n, r] of each product, `most` products in one pass.
  LoraWorkspace(std::span<const T> products, std::size_t each, std::size_t most, DeviceSpan space = {}) {
    Pieces pieces(space);
    blas = {pieces.take<std::byte>(kBlasWorkspace), kBlasWorkspace};
    addresses = pieces.take<const void*>(kAddressesAProduct * most * products.size());
    for (const T& p : products)
      for (std::size_t i = 0; i < each; ++i) {
        const std::size_t rank = p.a.rows;
        between.push_back(
            {pieces.take<std::byte>(p.x.rows * rank * size_of(p.x.type)), p.x.type, p.x.rows, rank, rank});
      }
    bytes = pieces.used();
  }
  DeviceSpan blas;
  const void** addresses;
  std::vector<MutableDeviceMatrix> between;  ///< Of the first product, then of the second …
  std::size_t bytes;
};

LoraWorkspace<LoraProduct> workspace_of(std::span<const LoraProduct> products, DeviceSpan space = {}) {
  return {products, 1, 1, space};
}
LoraWorkspace<LoraGradient> workspace_of(std::span<const LoraGradient> gradients, DeviceSpan space = {}) {
  return {gradients, 2, 3, space};
}

/// Checks all, before anything is computed.
template <class T>
LoraWorkspace<T> begin(std::span<const T> products, DeviceSpan space) {
  for (std::size_t i = 0; i < products.size(); ++i) check(products[i], i);
  LoraWorkspace<T> out = workspace_of(products, space);
  check_workspace(space, out.bytes, out.bytes);
  return out;
}

}  // namespace

std::size_t lora_workspace(std::span<const LoraProduct> products) { return workspace_of(products).bytes; }

std::size_t lora_gradient_workspace(std::span<const LoraGradient> gradients) { return workspace_of(gradients).bytes; }

void add_lora(const Context& context, std::span<const LoraProduct> products, DeviceSpan workspace,
              cudaStream_t stream) {
  if (products.empty()) return;
  const auto space = begin(products, workspace);
  std::vector<GroupedProduct> down, up;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const LoraProduct& p = products[i];
    if (is_empty(p)) continue;
    down.push_back({p.x, p.a, false, true, space.between[i], 1, 0});
    up.push_back({space.between[i], p.b, false, true, p.y, p.scale, 1});
  }
  const DeviceScope scope(context.device().ordinal);
  gemm_grouped(context, down, space.blas, space.addresses, "add_lora: x·Aᵀ", stream);
  gemm_grouped(context, up, space.blas, space.addresses, "add_lora: (x·Aᵀ)·Bᵀ", stream);
}

void add_lora_gradients(const Context& context, std::span<const LoraGradient> gradients, DeviceSpan workspace,
                        cudaStream_t stream) {
  if (gradients.empty()) return;
  const auto space = begin(gradients, workspace);
  std::vector<GroupedProduct> first, second;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const LoraGradient& g = gradients[i];
    if (is_empty(g)) continue;
    const MutableDeviceMatrix &hidden = space.between[2 * i], &grad_hidden = space.between[2 * i + 1];
    if (g.grad_b.data != nullptr) {
      first.push_back({g.x, g.a, false, true, hidden, 1, 0});
      second.push_back({g.grad_y, hidden, true, false, g.grad_b, g.scale, 1});
    }
    if (g.grad_a.data != nullptr || g.grad_x.data != nullptr)
      first.push_back({g.grad_y, g.b, false, false, grad_hidden, g.scale, 0});
    if (g.grad_a.data != nullptr) second.push_back({grad_hidden, g.x, true, false, g.grad_a, 1, 1});
    if (g.grad_x.data != nullptr) second.push_back({grad_hidden, g.a, false, false, g.grad_x, 1, 1});
  }
  const DeviceScope scope(context.device().ordinal);
  gemm_grouped(context, first, space.blas, space.addresses, "add_lora_gradients: through the rank", stream);
  gemm_grouped(context, second, space.blas, space.addresses, "add_lora_gradients: to the operands", stream);
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
