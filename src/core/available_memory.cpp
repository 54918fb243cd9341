#include "available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace nibble::inline NIBBLE_ABI {

namespace {

namespace fs = std::filesystem;

/// The number behind `key`, in a file of lines "key number"; nothing where there is none.
std::optional<std::size_t> find_number(const fs::path& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string word; in >> word;) {
    std::size_t number = 0;
    if (word == key && in >> number) return number;
    in.clear();
    in.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::nullopt;
}

/// A file of one number; "max", which is no limit, is nothing.
std::optional<std::size_t> read_number(const fs::path& file) {
  std::ifstream in(file);
  std::size_t number = 0;
  return in >> number ? std::optional(number) : std::nullopt;
}

/// The group's path below /sys/fs/cgroup: the line "0::/path".
std::string control_group(const fs::path& root) {
  std::ifstream in(root / "proc/self/cgroup");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("0::/")) return line.substr(4);
  return {};
}

/// What a group's limit leaves, if it has one.
std::optional<std::size_t> left_in_group(const fs::path& group) {
  const auto limit = read_number(group / "memory.max"), used = read_number(group / "memory.current");
  if (!limit || !used) return std::nullopt;
  const std::size_t droppable = find_number(group / "memory.stat", "inactive_file").value_or(0);
  const std::size_t held = *used - std::min(*used, droppable);
  return *limit - std::min(*limit, held);
}

}  // namespace

std::size_t available_memory(const fs::path& root) {
  const auto kilobytes = find_number(root / "proc/meminfo", "MemAvailable:");
  if (!kilobytes) return 0;
  std::size_t left = *kilobytes * 1024;
  const fs::path top = root / "sys/fs/cgroup";
  for (fs::path group = control_group(root);; group = group.parent_path()) {  // each above may hold a lower limit
    if (const auto found = left_in_group(top / group)) left = std::min(left, *found);
    if (group.empty() || group == group.parent_path()) return left;
  }
}

}  // namespace nibble::inline NIBBLE_ABI
