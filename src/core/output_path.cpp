#include "output_path.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "core/files.h"

namespace nibble::inline NIBBLE_ABI::files {

namespace {

namespace fs = std::filesystem;

using Identity = std::pair<dev_t, ino_t>;

/// What a path reaches, through links.
std::optional<struct stat> look_at(const fs::path& path) {
  struct stat status {};
  if (path.native().find('\0') != std::string::npos || ::stat(path.c_str(), &status) != 0) return std::nullopt;
  return status;
}

Identity identity(const struct stat& status) { return {status.st_dev, status.st_ino}; }

std::string quoted(const fs::path& path) { return "'" + path.string() + "'"; }

[[noreturn]] void refuse(const Output& output, const std::string& why) {
  throw Error(ErrorCode::invalid_argument, output.called + " " + quoted(output.path) + " " + why);
}

/// The path itself, else the nearest folder above it that is there.
fs::path existing(fs::path path) {
  while (!look_at(path) && path != parent_of(path)) path = parent_of(path);
  return path;
}

/// All inputs, by what they are on the disk.
class Inputs {
 public:
  explicit Inputs(const std::vector<fs::path>& paths) {
    for (const fs::path& path : paths) {
      const auto status = path.empty() ? std::nullopt : look_at(path);
      if (!status) continue;
      roots_.push_back(path);
      found_.emplace(identity(*status), path);
      if (S_ISDIR(status->st_mode)) add_folder(path);
      else add_siblings(path);
    }
  }

  /// Refuses an output that is one of them, lies inside one or holds one.
  void check(const Output& output) const {
    std::error_code error;
    const fs::path path = without_slash(output.path);
    if (const auto status = look_at(path)) {
      if (const auto it = found_.find(identity(*status)); it != found_.end())
        refuse(output, "is the input " + quoted(it->second) + "; choose another name");
      for (const fs::path& root : roots_)
        for (const Identity& above : folders_above(root))
          if (above == identity(*status)) refuse(output, "holds the input " + quoted(root) + "; choose another name");
    }
    for (const Identity& above : folders_above(path))
      if (const auto it = found_.find(above); it != found_.end())
        refuse(output, "lies inside the input " + quoted(it->second) + "; choose a name outside it");
  }

 private:
  static std::vector<Identity> folders_above(const fs::path& path) {
    std::error_code error;
    std::vector<Identity> out;
    fs::path p = fs::weakly_canonical(path, error);
    if (error) p = fs::absolute(path, error);
    while (p != p.parent_path()) {
      p = p.parent_path();
      if (const auto status = look_at(p)) out.push_back(identity(*status));
    }
    return out;
  }

  void add(const fs::path& path) {
    if (const auto status = look_at(path)) found_.emplace(identity(*status), path);
  }
  void add_folder(const fs::path& path) {
    std::error_code error;
    for (const fs::path& entry : list_folder(path, error)) {
      add(entry);
      struct stat status {};
      if (::lstat(entry.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) add_folder(entry);
    }
  }
  /// What is read with a file of a model's folder: its shards, its index, its configuration.
  void add_siblings(const fs::path& path) {
    const auto read_with = [](const fs::path& p) {
      return p.extension() == ".safetensors" || p.string().ends_with(".safetensors.index.json");
    };
    if (!read_with(path)) return;
    std::error_code error;
    for (const fs::path& entry : list_folder(parent_of(path), error))
      if (read_with(entry)) add(entry);
    for (const char* name : {"config.json", "quantize_config.json", "quant_config.json"}) add(parent_of(path) / name);
  }

  std::vector<fs::path> roots_;
  std::map<Identity, fs::path> found_;
};

void check_length(const Output& output) {
  // Room behind the path for temporary names, and for the names of files in a folder.
  const std::size_t room = output.kind == OutputKind::file ? 32 : 128;
  if (output.path.native().size() + room >= PATH_MAX)
    refuse(output, "is too long a path: " + std::to_string(output.path.native().size()) + " bytes, and " +
                       std::to_string(PATH_MAX - 1 - room) + " are the most");
  const std::size_t most = longest_name(output.path);
  for (const fs::path& part : output.path)
    if (part.native().size() > most)
      refuse(output, "has a name of " + std::to_string(part.native().size()) + " bytes in it; this file system takes " +
                         std::to_string(most));
}

void check_place(const Output& output, const std::vector<Output>& all) {
  const fs::path path = without_slash(output.path);
  struct stat link {};
  const bool is_there = ::lstat(path.c_str(), &link) == 0;
  const auto there = look_at(path);
  if (output.kind == OutputKind::new_folder && is_there)
    refuse(output, "exists already; remove it or choose another name");
  if (output.kind == OutputKind::file && there && !S_ISREG(there->st_mode))
    refuse(output, S_ISDIR(there->st_mode) ? "is a folder; a file's name is needed"
                                           : "is a pipe or a device; a file's name is needed");
  if (output.kind == OutputKind::file && output.path.filename().empty())
    refuse(output, "names a folder; a file's name is needed");
  if (output.kind == OutputKind::folder && is_there && (S_ISLNK(link.st_mode) || !S_ISDIR(link.st_mode)))
    refuse(output, "exists already, and is no folder; remove it or choose another name");
  const bool parent_is_made =
      std::any_of(all.begin(), all.end(), [&](const Output& o) { return without_slash(o.path) == parent_of(path); });
  if (output.kind == OutputKind::file && !parent_is_made && !look_at(parent_of(path)))
    refuse(output, "cannot be written: there is no folder " + quoted(parent_of(path)) + "; make it first");
  const fs::path folder = existing(parent_of(path));
  const auto above = look_at(folder);
  if (!above || !S_ISDIR(above->st_mode)) refuse(output, "cannot be written: " + quoted(folder) + " is no folder");
  if (::faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) != 0) throw_system_error("write into", folder);
}

}  // namespace

fs::path without_slash(fs::path path) {
  while ((path.filename().empty() || path.filename() == ".") && path.has_relative_path() && path != ".")
    path = path.parent_path();
  return path;
}

fs::path parent_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

std::size_t longest_name(const fs::path& folder) {
  const long most = ::pathconf(existing(folder).c_str(), _PC_NAME_MAX);
  return most < 64 ? NAME_MAX : static_cast<std::size_t>(most);
}

void check_outputs(const std::vector<Output>& outputs, const std::vector<fs::path>& inputs) {
  const Inputs in(inputs);
  std::set<fs::path> names;
  for (const Output& output : outputs) {
    if (output.path.empty()) refuse(output, "is empty; a name is needed");
    if (output.path.native().find('\0') != std::string::npos) refuse(output, "holds a NUL, which no file's name does");
    check_length(output);
    in.check(output);
    check_place(output, outputs);
    std::error_code error;
    if (!names.insert(fs::weakly_canonical(without_slash(output.path), error)).second)
      refuse(output, "is named twice; each output needs a name of its own");
  }
}

}  // namespace nibble::inline NIBBLE_ABI::files
