#include "checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <vector>

#include "core/files.h"
#include "core/pending.h"
#include "nibble/core/error.h"
#include "nibble/core/printable.h"
#include "nibble/format/safetensors.h"

namespace nibble::inline NIBBLE_ABI::train {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "checkpoint-";
constexpr const char *kFile = "training_state.safetensors", *kKind = "nibble_training_state", *kVersion = "1";

/// FNV-1a, of which another value means other data.
class Hash {
 public:
  template <class T>
  void add(std::span<const T> values) {
    for (const std::byte b : std::as_bytes(values)) {
      value_ ^= std::to_integer<std::uint64_t>(b);
      value_ *= 0x100000001b3;
    }
    add_size(values.size());
  }
  [[nodiscard]] std::string text() const {
    char digits[17] = {};
    const auto end = std::to_chars(digits, digits + 16, value_, 16).ptr;
    return {digits, end};
  }

 private:
  void add_size(std::uint64_t n) {
    for (int i = 0; i < 8; ++i) {
      value_ ^= n >> (8 * i) & 0xff;
      value_ *= 0x100000001b3;
    }
  }
  std::uint64_t value_ = 0xcbf29ce484222325;
};

/// The shortest digits that are this number again.
std::string text_of(double value) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
}

/// A tensor of a checkpoint, and the memory that it is of.
struct Piece {
  TensorInfo info;
  std::span<std::byte> bytes;
};

std::vector<Piece> pieces_of(std::span<const Parameter> parameters, Optimizer& optimizer) {
  std::vector<Piece> out;
  const auto add = [&](const std::string& name, DType type, std::span<std::byte> bytes) {
    out.push_back({{.name = name, .type = type, .shape = {bytes.size() / size_of(type)}}, bytes});
  };
  for (const Parameter& p : parameters) add("parameters." + p.name, DType::f32, std::as_writable_bytes(p.values));
  for (const StateTensor& s : optimizer.state()) add("optimizer." + s.name, s.codes ? DType::u8 : DType::f32, s.bytes);
  return out;
}

/// The step of "checkpoint-<step>".
std::optional<std::size_t> step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::size_t step = 0;
  const char *first = name.data() + kPrefix.size(), *last = name.data() + name.size();
  const auto [end, error] = std::from_chars(first, last, step);
  return error == std::errc() && end == last && first != last ? std::optional(step) : std::nullopt;
}

/// By falling step.
std::vector<fs::path> checkpoints_in(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> out;
  for (const fs::path& path : files::list_folder(folder, error))
    if (step_of(path)) out.push_back(path);
  std::ranges::sort(out, std::greater(), [](const fs::path& p) { return *step_of(p); });
  return out;
}

void check_run(const std::map<std::string, std::string>& metadata, const RunDescription& run, const std::string& name) {
  const auto value = [&](const std::string& key) -> std::string {
    const auto found = metadata.find(key);
    return found == metadata.end() ? "not stated" : found->second;
  };
  if (value(kKind) != kVersion)
    throw Error(ErrorCode::corrupt_file, name + " is no state of a training of this version: its '" + kKind + "' is " +
                                             value(kKind) + ", and " + kVersion + " is read");
  for (const auto& [key, wanted] : run)
    if (value(key) != wanted)
      throw Error(ErrorCode::invalid_argument, name + " is of another run: its " + key + " is " + value(key) +
                                                   ", and here it is " + wanted +
                                                   "; go on with the same, or begin in another folder");
}

}  // namespace

RunDescription describe_run(const FinetuneOptions& o, std::span<const Row> rows,
                            std::span<const Parameter> parameters) {
  Hash data, tensors;
  for (const Row& row : rows) {
    data.add(std::span<const std::int32_t>(row.ids));
    data.add(std::span<const std::uint8_t>(row.trained));
    data.add(std::span<const std::size_t>(row.starts));
  }
  for (const Parameter& p : parameters) {
    tensors.add(std::span<const char>(p.name));
    const std::size_t size[] = {p.values.size()};
    tensors.add(std::span<const std::size_t>(size));
    if (p.rate != 1) tensors.add(std::span<const double>(&p.rate, 1));
  }
  RunDescription out{{"epochs", text_of(o.epochs)},
                     {"max_steps", std::to_string(o.max_steps)},
                     {"batch", std::to_string(o.batch)},
                     {"accumulation", std::to_string(o.accumulation)},
                     {"learning_rate", text_of(o.learning_rate)},
                     {"warmup", text_of(o.warmup)},
                     {"decay", std::string(name_of(o.decay))},
                     {"seed", std::to_string(o.seed)},
                     {"state_bits", std::to_string(o.optimizer.state_bits)},
                     {"max_grad_norm", text_of(o.optimizer.max_grad_norm)},
                     {"optimizer", std::holds_alternative<AdamOptions>(o.optimizer.rule) ? "AdamW" : "Lion"},
                     {"rows", std::to_string(rows.size()) + ", hash " + data.text()},
                     {"parameters", std::to_string(parameters.size()) + ", hash " + tensors.text()}};
  std::visit(
      [&](const auto& rule) {
        out["beta1"] = text_of(rule.beta1);
        out["beta2"] = text_of(rule.beta2);
        out["weight_decay"] = text_of(rule.weight_decay);
      },
      o.optimizer.rule);
  return out;
}

std::optional<fs::path> last_checkpoint(const fs::path& folder) {
  const std::vector<fs::path> all = checkpoints_in(folder);
  return all.empty() ? std::nullopt : std::optional(all.front());
}

fs::path write_checkpoint(const FinetuneOptions& options, const RunDescription& run,
                          std::span<const Parameter> parameters, Optimizer& optimizer, const Trainable& model) {
  const std::size_t step = optimizer.steps();
  fs::path path = options.checkpoints / (std::string(kPrefix) + std::to_string(step));
  std::error_code ignored;
  if (fs::exists(path, ignored)) return path;
  files::PendingDirectory pending(path);
  const std::vector<Piece> pieces = pieces_of(parameters, optimizer);
  std::vector<TensorInfo> infos;
  for (const Piece& p : pieces) infos.push_back(p.info);
  std::map<std::string, std::string> metadata(run);
  metadata[kKind] = kVersion;
  metadata["step"] = std::to_string(step);
  SafetensorsWriter writer(pending.path() / kFile, std::move(infos), metadata);
  for (const Piece& p : pieces) writer.write(p.info.name, p.bytes);
  writer.finish();
  model.save(pending.path());
  pending.commit();
  return path;
}

std::size_t read_checkpoint(const fs::path& checkpoint, const RunDescription& run,
                            std::span<const Parameter> parameters, Optimizer& optimizer) {
  const fs::path path = checkpoint / kFile;
  const SafetensorsFile file(path);
  const std::string name = "'" + path.string() + "'";
  check_run(file.metadata(), run, name);
  std::size_t step = 0;
  const auto stated = file.metadata().find("step");
  const std::string text = stated == file.metadata().end() ? "" : stated->second;
  if (std::from_chars(text.data(), text.data() + text.size(), step).ptr != text.data() + text.size() || text.empty())
    throw Error(ErrorCode::corrupt_file, name + ": its step is '" + text + "', which is no number");
  std::map<std::string_view, const TensorInfo*> stored;
  for (const TensorInfo& t : file.tensors()) stored[t.name] = &t;
  const std::vector<Piece> pieces = pieces_of(parameters, optimizer);
  std::vector<Buffer> found;
  for (const Piece& p : pieces) {
    const auto at = stored.find(p.info.name);
    if (at == stored.end() || at->second->type != p.info.type || at->second->shape != p.info.shape)
      throw Error(ErrorCode::corrupt_file, name + ": the tensor '" + p.info.name + "' is " +
                                               (at == stored.end() ? "not there" : "of another type or shape") +
                                               "; remove that checkpoint to go on from the one before");
    found.push_back(file.data(*at->second));
  }
  file.require_intact();
  for (std::size_t i = 0; i < pieces.size(); ++i)
    if (!pieces[i].bytes.empty()) std::memcpy(pieces[i].bytes.data(), found[i].data(), pieces[i].bytes.size());
  optimizer.set_steps(step);
  return step;
}

void prune_checkpoints(const fs::path& folder, std::size_t keep) {
  const std::vector<fs::path> all = checkpoints_in(folder);
  for (std::size_t i = keep; i < all.size(); ++i) files::remove_quietly(all[i]);
}

}  // namespace nibble::inline NIBBLE_ABI::train
