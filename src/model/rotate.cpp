#include "nibble/model/rotate.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/json.h"
#include "core/typed_buffer.h"
#include "rewrite.h"
#include "rotated_tensor.h"
#include "stored_weights.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;

[[noreturn]] void invalid(const std::string& why) { throw Error(ErrorCode::invalid_argument, why); }

void check_options(const RotateOptions& o) {
  if (!is_matrix_type(o.type))
    invalid("weights of " + std::string(name_of(o.type)) + " cannot be written; F32, F16 and BF16 can");
  if (!o.fold_norms && !o.r1 && !o.r2) invalid("neither norms to fold nor a rotation; nothing is left to do");
  if (o.r1 && !o.fold_norms)
    invalid("R1 needs the norms folded: between a norm's factors and the layers behind them it would change the model");
}

const Config& known_config(const Outline& outline) {
  if (outline.config) return *outline.config;
  (void)find_architecture(outline.model_type);  // says which are known
  throw Error(ErrorCode::unsupported, "the architecture is not known");
}

class Job {
 public:
  Job(const fs::path& from, const RotateOptions& options)
      : options_(options),
        out_(from, nullptr, options.executor),
        plan_(known_config(out_.outline), checked(from), options) {
    for (const TensorInfo& t : out_.in.tensors()) {
      out_.declare(t.name, is_float(t.type) ? options.type : t.type, t.shape);
      if (makes_head(t)) out_.declare(head(), options.type, t.shape);
    }
    report_.r1_order = plan_.r1_order();
    report_.r2_order = plan_.r2_order();
    report_.untied = plan_.unties();
    add_notes(from);
  }

  RotateReport write(const fs::path& path) {
    report_.file_bytes = out_.write(path, options_.progress,
                                    [&](const TensorInfo& t, SafetensorsWriter& writer) { write_tensor(t, writer); });
    return report_;
  }

  /// config.json with the type of the weights, and with the head that they have now.
  [[nodiscard]] std::string config(const fs::path& from) const {
    std::string text = config_with_dtype(from, options_.type);
    if (!plan_.unties()) return text;
    json::OrderedDocument config = json::parse_ordered(text, from.string());
    (*config)["tie_word_embeddings"] = false;
    return config->dump(2) + "\n";
  }

 private:
  /// The input, if it is what its configuration says and is not quantized.
  const Checkpoint& checked(const fs::path& from) const {
    if (const auto quantized = check_stored_weights(out_.in, known_config(out_.outline), from.string());
        !quantized.empty())
      invalid("'" + from.string() + "': layer '" + quantized.front() +
              "' is quantized already; a rotation comes before quantizing, of a floating-point model");
    return out_.in;
  }

  [[nodiscard]] const Architecture& architecture() const { return out_.outline.config->architecture(); }
  [[nodiscard]] std::string head() const { return std::string(architecture().head.name) + ".weight"; }
  [[nodiscard]] bool makes_head(const TensorInfo& t) const {
    return plan_.new_head() && t.name == std::string(architecture().embedding.name) + ".weight";
  }

  void write_change(const std::string& name, const std::vector<float>& values, const TensorChange& change,
                    SafetensorsWriter& writer) {
    std::vector<double> norm;
    if (!change.norm.empty()) norm = plan_.norm(change.norm);
    Rewrite::put(writer, name, rotated_tensor(values, change, norm, options_.type, name, out_.executor()));
    report_.rotated += change.rotates() && change.cols > 1 ? 1 : 0;
  }

  void write_tensor(const TensorInfo& t, SafetensorsWriter& writer) {
    const TensorChange* change = plan_.find(t.name);
    if (change == nullptr && !makes_head(t) && t.type == options_.type) return out_.copy(t, writer);
    if (!is_float(t.type)) return out_.copy(t, writer);
    std::vector<float> values = out_.in.read_f32(t.name);
    if (makes_head(t)) write_change(head(), values, *plan_.new_head(), writer);
    if (change != nullptr && !change->neutral_norm) return write_change(t.name, values, *change, writer);
    const std::size_t columns = t.shape.empty() ? 1 : std::max<std::size_t>(1, t.shape.back());
    if (change != nullptr) {
      check_downcast(values, DType::f32, t.name, columns);  // what it was multiplied into is no number either
      std::fill(values.begin(), values.end(), plan_.neutral_norm());
      ++report_.norms;
    }
    Rewrite::put(writer, t.name, typed_buffer(options_.type, values, t.name, columns));
  }

  void add_notes(const fs::path& from) {
    const Config& config = *out_.outline.config;
    report_.notes = config.notes;
    if (std::string note = requantization_note(from); !note.empty()) report_.notes.push_back(std::move(note));
    const auto by_blocks = [&](const char* what, std::size_t order, std::size_t size) {
      if (order != 0 && order != size)
        report_.notes.push_back(std::string(what) + " is made of blocks of " + std::to_string(order) +
                                ": no Hadamard " + "matrix of order " + std::to_string(size) +
                                " is constructible here");
    };
    by_blocks("R1", report_.r1_order, config.hidden);
    by_blocks("R2", report_.r2_order, config.head_dim);
  }

  const RotateOptions& options_;
  Rewrite out_;
  const RotatePlan plan_;
  RotateReport report_;
};

}  // namespace

RotateReport rotate_model(const fs::path& from, const fs::path& to, const RotateOptions& options) {
  check_options(options);
  files::check_output({to, files::OutputKind::new_folder}, {from});
  Job job(from, options);  // whatever is wrong with the input, before anything is written
  PendingDirectory out(to);
  RotateReport result = job.write(out.path() / "model.safetensors");
  files::write_file(out.path() / "config.json", job.config(from));
  add_side_files(from, out.path(), result);
  out.commit();
  return result;
}

}  // namespace nibble::inline NIBBLE_ABI::model
