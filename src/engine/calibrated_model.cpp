// This engine's models as calibration sees them.
#include "calibrated_parts.h"
#include "nibble/core/error.h"
#include "nibble/engine/calibrate.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

/// The final norm and the head.
class EngineHead final : public model::CalibratedBlock {
 public:
  explicit EngineHead(CalibratedParts& shared)
      : norm_(shared.loader->norm()),
        pass_(shared.config, shared.loader->executor(), Activations::fp32, nullptr),
        weights_(shared.checkpoint) {
    groups_.front().layers.push_back(shared.layer(std::string(shared.architecture.head.name)));
  }

  std::span<const model::LayerGroup> groups() const override { return groups_; }
  FloatMatrix weights(model::LayerId) override { return weights_.lend(groups_.front().layers.front().name); }
  void run(MatrixView<float> x, Listener listen) override {
    normed_.resize(x.rows * x.cols);
    const MatrixView<float> y(normed_.data(), x.rows, x.cols);
    pass_.norm(x, norm_, y);
    listen(0, y);
  }
  void replace(model::LayerId, QuantizedMatrix) override {}  // nothing comes behind it

 private:
  std::vector<float> norm_;
  BlockPass pass_;
  std::vector<model::LayerGroup> groups_{1};
  LentWeights weights_;
  std::vector<float> normed_;
};

class EngineModel final : public model::CalibratedModel {
 public:
  EngineModel(const std::filesystem::path& path, const Backend* backend, Executor* executor)
      : shared_(path, backend, executor) {}

  std::size_t blocks() const override { return shared_.config.layers; }
  std::size_t width() const override { return shared_.config.hidden; }
  std::size_t vocabulary() const override { return shared_.config.vocab; }
  std::size_t context() const override { return shared_.config.context; }
  void embed(std::span<const std::int32_t> ids, MatrixView<float> states) override {
    if (!embedding_) embedding_ = shared_.loader->embedding();
    for (std::size_t t = 0; t < ids.size(); ++t)
      embedding_->decode_row(static_cast<std::size_t>(ids[t]), &states(t, 0));
    scale_embedded(shared_.config, states);
  }
  std::unique_ptr<model::CalibratedBlock> block(std::size_t index) override {
    embedding_.reset();  // all tokens are looked up by now
    return calibrated_block(shared_, index);
  }
  std::unique_ptr<model::CalibratedBlock> head() override {
    if (shared_.config.tied_embeddings)
      throw Error(ErrorCode::invalid_argument, std::string(shared_.architecture.head.name) +
                                                   " is tied to the embedding, which stays in floating point");
    return std::make_unique<EngineHead>(shared_);
  }
  std::vector<model::CalibratedLayer> layers(std::size_t index) override {
    std::vector<model::CalibratedLayer> out;
    for (const std::string& name : shared_.architecture.linear_names(index, shared_.config.experts))
      out.push_back(shared_.layer(name));
    return out;
  }

 private:
  CalibratedParts shared_;
  std::optional<BlockMatrix> embedding_;
};

}  // namespace

std::unique_ptr<model::CalibratedModel> calibrated_model(const std::filesystem::path& path, const Backend* backend,
                                                         Executor* executor) {
  return std::make_unique<EngineModel>(path, backend, executor);
}

model::CalibrateReport quantize_calibrated(const std::filesystem::path& from, const std::filesystem::path& to,
                                           std::span<const std::int32_t> ids, const model::CalibrateOptions& options) {
  const auto model = calibrated_model(from, options.backend, options.executor);
  return model::quantize_calibrated(from, to, *model, ids, options);
}

model::ExportGgufReport export_gguf_calibrated(const std::filesystem::path& from, const std::filesystem::path& to,
                                               std::span<const std::int32_t> ids,
                                               const model::ExportGgufOptions& options,
                                               const model::CalibrateOptions& calibration) {
  const auto model = calibrated_model(from, options.backend, options.executor);
  return model::export_gguf_calibrated(from, to, *model, ids, options, calibration);
}

ImportanceMatrix importance(const std::filesystem::path& path, std::span<const std::int32_t> ids,
                            model::ImportanceOptions options, const Backend* backend, Executor* executor) {
  EngineModel model(path, backend, executor);
  const model::Config config = model::Config::load(path);
  const model::Architecture& architecture = config.architecture();
  options.head = !config.tied_embeddings;
  options.place = [&](const std::string& layer) -> model::ImportancePlace {
    const std::string weight = layer + ".weight";
    const auto expert = architecture.expert_of(weight);
    return {architecture.gguf_name(weight), expert.value_or(0), expert ? config.experts : 1};
  };
  return model::importance(model, ids, options);
}

}  // namespace nibble::inline NIBBLE_ABI::engine
