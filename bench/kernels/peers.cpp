#include "bench/kernels/peers.h"

#include <memory>

#if defined(NIBBLE_WITH_OPENBLAS)
#include <cblas.h>
#endif
#if defined(NIBBLE_WITH_ONEDNN)
#include <cstdlib>
#include <oneapi/dnnl/dnnl.hpp>
#endif

namespace nibble::peers {

namespace {

#if defined(NIBBLE_WITH_OPENBLAS)
/// Told nothing, OpenBLAS may take a kernel of another CPU: OPENBLAS_CORETYPE=SkylakeX names one with AVX-512.
std::function<void()> openblas(std::size_t rows, std::size_t cols, std::size_t tokens, std::size_t bytes) {
  struct Data {
    std::vector<std::vector<float>> w;
    std::vector<float> x, y;
    std::size_t turn = 0;
  };
  auto d = std::make_shared<Data>();
  while (d->w.empty() || d->w.size() * rows * cols * sizeof(float) < bytes) d->w.emplace_back(rows * cols, 0.5f);
  d->x.assign(tokens * cols, 0.25f);
  d->y.resize(tokens * rows);
  openblas_set_num_threads(1);
  const auto m = static_cast<blasint>(tokens), n = static_cast<blasint>(rows), k = static_cast<blasint>(cols);
  return [=] {
    const float* w = d->w[d->turn++ % d->w.size()].data();
    if (m == 1) cblas_sgemv(CblasRowMajor, CblasNoTrans, n, k, 1, w, k, d->x.data(), 1, 0, d->y.data(), 1);
    else cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, d->x.data(), k, w, k, 0, d->y.data(), n);
  };
}
#endif

#if defined(NIBBLE_WITH_ONEDNN)
const dnnl::engine& one_threaded_engine() {
  static const bool told = setenv("OMP_NUM_THREADS", "1", 0) == 0;
  static_cast<void>(told);
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

/// What one product needs from call to call.
struct OneDnn {
  dnnl::stream stream{one_threaded_engine()};
  dnnl::matmul product;
  std::vector<dnnl::memory> w;
  dnnl::memory x, y;
  std::size_t turn = 0;
};

/// Activations × weights with weights in the layout that oneDNN chooses; sums leave as they are.
template <class Value>
std::function<void()> onednn(dnnl::memory::data_type type, dnnl::memory::data_type sum, std::size_t rows,
                             std::size_t cols, std::size_t tokens, std::size_t bytes) {
  using dnnl::memory;
  using Tag = memory::format_tag;
  const dnnl::engine& engine = one_threaded_engine();
  const auto m = static_cast<memory::dim>(tokens), n = static_cast<memory::dim>(rows),
             k = static_cast<memory::dim>(cols);
  const memory::desc x({m, k}, type, Tag::ab), any({k, n}, type, Tag::any), plain({k, n}, type, Tag::ba),
      y({m, n}, sum, Tag::ab);
#if DNNL_VERSION_MAJOR < 3
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(x, any, y), engine);
#else
  const dnnl::matmul::primitive_desc description(engine, x, any, y);
#endif
  auto d = std::make_shared<OneDnn>();
  d->product = dnnl::matmul(description);
  d->x = memory(x, engine);
  d->y = memory(y, engine);
  const auto fill = [](const memory& at, std::size_t count) {
    auto* values = static_cast<Value*>(at.get_data_handle());
    for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<Value>(static_cast<int>(i % 13) - 6);
  };
  fill(d->x, tokens * cols);
  memory unpacked(plain, engine);
  fill(unpacked, rows * cols);
  while (d->w.empty() || d->w.size() * rows * cols * sizeof(Value) < bytes) {
    d->w.emplace_back(description.weights_desc(), engine);
    dnnl::reorder(unpacked, d->w.back()).execute(d->stream, unpacked, d->w.back());
  }
  return [d] {
    const memory& w = d->w[d->turn++ % d->w.size()];
    d->product.execute(d->stream, {{DNNL_ARG_SRC, d->x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, d->y}});
    d->stream.wait();
  };
}
#endif

}  // namespace

std::vector<Peer> all() {
  std::vector<Peer> out;
#if defined(NIBBLE_WITH_OPENBLAS)
  out.push_back({"openblas/f32xf32", 4, openblas});
#endif
#if defined(NIBBLE_WITH_ONEDNN)
  using Type = dnnl::memory::data_type;
  out.push_back({"onednn/f32xf32", 4, std::bind_front(onednn<float>, Type::f32, Type::f32)});
  out.push_back({"onednn/i8xi8", 1, std::bind_front(onednn<std::int8_t>, Type::s8, Type::s32)});
#endif
  return out;
}

}  // namespace nibble::peers
