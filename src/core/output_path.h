// Where an output may go. Every writer passes through here before its work, so that no hours end in a name that cannot
// be written, and no output replaces, or grows inside, what it is made from.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::files {

enum class OutputKind {
  file,        ///< Made anew or replaced; the folder it goes into exists.
  new_folder,  ///< Must not exist; folders above it are made.
  folder,      ///< Made, or the one that is there goes on being used.
};

struct Output {
  std::filesystem::path path;
  OutputKind kind = OutputKind::file;
  std::string called = "the output";  ///< In messages: the option that named it.
};

/// Error{invalid_argument} unless each output has a name that can be written (not empty, not too long, of no pipe or
/// device, in a folder that takes it), is none of the inputs, neither lies inside one nor holds one, and shares its
/// name with no other output. Names are compared by what they reach: links, hard links and other spellings of an input
/// are the input. An input is a folder with all that is in it, or a file with the files of its folder that are read
/// with it; inputs that are empty or not there are not looked at. Error{io} where the system forbids writing.
void check_outputs(const std::vector<Output>& outputs, const std::vector<std::filesystem::path>& inputs);
inline void check_output(const Output& output, const std::vector<std::filesystem::path>& inputs) {
  check_outputs({output}, inputs);
}

/// "out/" means "out".
std::filesystem::path without_slash(std::filesystem::path path);
/// The folder that a path lies in: "." for a bare name.
std::filesystem::path parent_of(const std::filesystem::path& path);
/// Bytes that a file's name may have in a folder, or would have once it is made.
std::size_t longest_name(const std::filesystem::path& folder);

}  // namespace nibble::inline NIBBLE_ABI::files
