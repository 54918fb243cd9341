// Quantizers, packing, products and activations, by whichever nibble the flags give it; solver_results.cpp the solvers.
#include "results.h"

#include "nibble/matrix/block_matrix.h"
#include "nibble/quantize/activation.h"
#include "nibble/quantize/quantize.h"

namespace {

using nibble::MatrixView;

constexpr std::size_t kRows = 80, kCols = 448, kTokens = 37;

template <class T>
std::vector<T> downcast(const std::vector<float>& x) {
  std::vector<T> out;
  for (const float v : x) out.push_back(T(v));
  return out;
}

void add_matrix(results::Line& line, const nibble::QuantizedMatrix& q) {
  line.add(q.codes.data(), q.codes.size());
  line.add(q.scales.data(), q.scales.size());
  line.add(q.zero_points.data(), q.zero_points.size());
  line.add(q.nested.absmax);
  line.add(q.codebook);
}

/// Every product that there is of `w`, for few tokens and for many.
void multiply(const nibble::Backend& backend, const nibble::PackedMatrix& w, const std::string& name) {
  const std::vector<float> x = results::bell(kTokens * w.cols(), 3), bias = results::bell(w.rows(), 4);
  const std::vector<nibble::f16> halves = downcast<nibble::f16>(x);
  const std::vector<nibble::bf16> brains = downcast<nibble::bf16>(x);
  nibble::Executor& executor = nibble::default_executor();
  results::Line line(name);
  for (const std::size_t tokens : {std::size_t{1}, std::size_t{3}, kTokens}) {
    std::vector<float> y(tokens * w.rows());
    const MatrixView<float> to(y.data(), tokens, w.rows());
    const MatrixView<const float> from(x.data(), tokens, w.cols());
    backend.matmul(from, w, to, executor);
    line.add(y);
    backend.matmul(MatrixView<const nibble::f16>(halves.data(), tokens, w.cols()), w, to, executor);
    line.add(y);
    backend.matmul(MatrixView<const nibble::bf16>(brains.data(), tokens, w.cols()), w, to, executor);
    line.add(y);
    const nibble::Projection projection{&w, to, bias};
    for (const auto activations :
         {nibble::Activations::fp32, nibble::Activations::int8, nibble::Activations::int8_group}) {
      backend.matmul_fused(from, {&projection, 1}, activations, executor);
      line.add(y);
    }
    for (const auto gate :
         {nibble::GatedActivation::silu, nibble::GatedActivation::gelu_tanh, nibble::GatedActivation::gelu}) {
      backend.matmul_gated(from, w, w, gate, to, nibble::Activations::fp32, executor);
      line.add(y);
    }
    std::vector<float> gradient(tokens * w.cols());
    backend.matmul_transposed(to, w, {gradient.data(), tokens, w.cols()}, executor);
    line.add(gradient);
  }
  const std::int32_t rows[] = {0, 41, static_cast<std::int32_t>(w.rows()) - 1};
  std::vector<float> gathered(std::size(rows) * w.cols());
  backend.gather_rows(w, rows, {gathered.data(), std::size(rows), w.cols()}, executor);
  line.add(gathered);
}

void run(const std::string& spec) {
  const std::vector<float> x = results::bell(kRows * kCols, 1);
  const nibble::QuantizedMatrix q = nibble::quantize(MatrixView<const float>(x.data(), kRows, kCols), spec);
  {
    results::Line line(spec);
    add_matrix(line, q);
    const auto halves = downcast<nibble::f16>(x);
    add_matrix(line, nibble::quantize(MatrixView<const nibble::f16>(halves.data(), kRows, kCols), spec));
    const auto brains = downcast<nibble::bf16>(x);
    add_matrix(line, nibble::quantize(MatrixView<const nibble::bf16>(brains.data(), kRows, kCols), spec));
    std::vector<float> wide(x.size());
    std::vector<nibble::f16> half(x.size());
    std::vector<nibble::bf16> brain(x.size());
    nibble::Executor& executor = nibble::default_executor();
    nibble::default_backend().dequantize(q, 0, {wide.data(), kRows, kCols}, executor);
    nibble::default_backend().dequantize_to(q, 0, MatrixView<nibble::f16>(half.data(), kRows, kCols), executor);
    nibble::default_backend().dequantize_to(q, 0, MatrixView<nibble::bf16>(brain.data(), kRows, kCols), executor);
    line.add(wide);
    line.add(half);
    line.add(brain);
  }
  const auto multiply_by = [&](const nibble::Backend& backend, const char* name) {
    const nibble::PackedMatrixPtr packed = backend.pack(q);
    multiply(backend, *packed, spec + name);
    results::Line line(spec + "/unpacked");
    add_matrix(line, backend.unpack(*packed));
  };
  multiply_by(nibble::default_backend(), "/products");
  multiply_by(nibble::find_backend("scalar"), "/reference");
}

void run_blocks(nibble::BlockType type) {
  const std::string name(nibble::name_of(type));
  constexpr std::size_t cols = 512;
  const std::vector<float> x = results::bell(kRows * cols, 2);
  auto m = nibble::BlockMatrix::encode(MatrixView<const float>(x.data(), kRows, cols), type, name,
                                       nibble::default_executor());
  std::vector<float> decoded(x.size());
  for (std::size_t r = 0; r < kRows; ++r) m.decode_row(r, decoded.data() + r * cols);
  {
    results::Line line(name);
    line.add(m.blocks.data(), m.blocks.size());
    line.add(decoded);
  }
  const nibble::PackedMatrixPtr packed = nibble::default_backend().pack(std::move(m));
  multiply(nibble::default_backend(), *packed, name + "/products");
}

void observe() {
  const std::vector<float> x = results::bell(8192, 5);
  for (const auto method : {nibble::RangeMethod::min_max, nibble::RangeMethod::percentile, nibble::RangeMethod::mse}) {
    results::Line line("activations/" + std::to_string(static_cast<int>(method)));
    nibble::RangeObserver observer({.method = method, .percentile = 0.99});
    observer.observe(std::span(x).first(1000));
    observer.observe(x);
    const nibble::AffineParams p = observer.params();
    line.add(static_cast<double>(observer.range().min));
    line.add(static_cast<double>(observer.range().max));
    line.add(nibble::quantize_static({x.data(), 8, 1024}, p, 8).codes);
    line.add(nibble::quantize_dynamic({x.data(), 8, 1024}, 7, false).codes);
    std::vector<float> out(x.size()), gradient(x.size());
    nibble::fake_quantize(x, p, 8, out);
    nibble::fake_quantize_gradient(x, p, 8, x, gradient);
    line.add(out);
    line.add(gradient);
  }
}

}  // namespace

int main() {
  for (const char* spec :
       {"int2-g32-sym",      "int2-g16-asym",     "int3-g32-asym",    "int3-g64-sym-bf16", "int4-g128-sym",
        "int4-g32-asym-f32", "int4-g32-asymraw",  "int4-channel-sym", "int4-b50-asym",     "int5-g32-sym",
        "int6-g64-asym",     "int7-channel-asym", "int8-channel-sym", "int8-tensor-sym",   "int8-g32-asym",
        "nf4-b64",           "nf4-b64-dq",        "fp4-b64",          "fp4-b50-dq",        "dynamic8-b256",
        "llm-int8-t1",       "llm-int8-t0"})
    run(spec);
  for (const nibble::BlockType type : nibble::kBlockTypes)
    if (nibble::can_encode(type)) run_blocks(type);
  observe();
  results::solve();
  return 0;
}
