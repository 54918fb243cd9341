// Models and adapters to merge, and what merging is by its definition.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "nibble/format/checkpoint.h"
#include "nibble/model/merge.h"
#include "nibble/model/quantize.h"
#include "tests/support/random_data.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

namespace nibble::testing_support {

inline const std::string kQuery = "model.layers.0.self_attn.q_proj";

/// A dense model's layer, in double.
inline std::vector<double> doubles(const std::filesystem::path& model, const std::string& layer) {
  const auto values = Checkpoint::open(model).read_f32(layer + ".weight");
  return {values.begin(), values.end()};
}

/// The same of a quantized one, or of a dense one that `spec` quantizes.
inline std::vector<double> decoded(const std::filesystem::path& model, const std::string& layer,
                                   const char* spec = nullptr) {
  const Checkpoint in = Checkpoint::open(model);
  const QuantizedMatrix q =
      spec == nullptr
          ? *decode_quantized(in, layer)
          : default_backend().quantize(in.matrix(layer + ".weight"), QuantSpec::parse(spec), layer, default_executor());
  std::vector<double> out;
  for (std::size_t r = 0; r < q.rows; ++r)
    for (std::size_t c = 0; c < q.cols; ++c) out.push_back(static_cast<double>(q.value(r, c)));
  return out;
}

/// The definition of merging, element by element.
inline std::vector<double> merged(const model::AdapterLayer& l, std::vector<double> w) {
  for (std::size_t o = 0; o < l.out; ++o) {
    double squares = 0;
    for (std::size_t i = 0; i < l.in; ++i) {
      double delta = 0;
      for (std::size_t k = 0; k < l.rank; ++k)
        delta += static_cast<double>(l.b[o * l.rank + k]) * static_cast<double>(l.a[k * l.in + i]);
      w[o * l.in + i] += static_cast<double>(l.scale()) * delta;
      squares += w[o * l.in + i] * w[o * l.in + i];
    }
    for (std::size_t i = 0; i < l.in && !l.magnitude.empty(); ++i)
      w[o * l.in + i] *= static_cast<double>(l.magnitude[o]) / std::sqrt(squares);
  }
  return w;
}

inline double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += v * v;
  return std::sqrt(sum);
}

inline std::vector<double> minus(std::vector<double> a, const std::vector<double>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return a;
}

inline std::string text_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class MergeFixture : public testing::Test {
 protected:
  /// Every layer's change is this share of its weights' norm.
  static model::Adapter random_adapter(const std::filesystem::path& model, double share, bool dora = false) {
    model::AdapterOptions o;
    o.rank = 4, o.dora = dora;
    model::Adapter out = model::Adapter::make(model::Config::load(model), o);
    unsigned seed = 7;
    for (model::AdapterLayer& l : out.layers) {
      const auto w = doubles(model, l.name);
      l.b = normal(l.b.size(), ++seed, 1.0f);
      model::AdapterLayer plain = l;
      plain.magnitude.clear();
      const double change = norm(minus(merged(plain, w), w));
      for (float& b : l.b) b *= static_cast<float>(share * norm(w) / change);
      for (std::size_t r = 0; dora && r < l.out; ++r)  // near the rows' own norms, as training leaves them
        l.magnitude[r] = static_cast<float>(norm({w.begin() + static_cast<std::ptrdiff_t>(r * l.in),
                                                  w.begin() + static_cast<std::ptrdiff_t>((r + 1) * l.in)}) *
                                            (1 + share / 4));
    }
    return out;
  }
  /// 256 hidden values: enough of them for shares to be those of large models. Copied to the type.
  std::filesystem::path wide(DType type = DType::f32) {
    TinyModel m;
    m.hidden = 256, m.intermediate = 320, m.type = type;
    return write_model(folder_ / ("wide-" + std::string(nibble::name_of(type))), m);
  }
  std::filesystem::path quantized(const std::filesystem::path& from, const char* spec) {
    model::QuantizeModelOptions o;
    o.spec = QuantSpec::parse(spec);
    const std::filesystem::path to = folder_ / (from.filename().string() + spec);
    model::quantize_model(from, to, o);
    return to;
  }
  model::MergeReport merge(const std::filesystem::path& from, const model::Adapter& adapter, model::MergeOptions o) {
    std::filesystem::remove_all(out_);
    return model::merge_adapter(from, adapter, out_, o);
  }
  static model::MergeOptions into(model::MergeInto way, const char* base = nullptr, DType type = DType::f32,
                                  bool lossy = false) {
    model::MergeOptions o;
    o.into = way, o.type = type, o.lossy = lossy;
    if (base != nullptr) o.base = QuantSpec::parse(base);
    return o;
  }
  TemporaryFolder folder_;
  const std::filesystem::path out_ = folder_ / "out";
};

}  // namespace nibble::testing_support
