#!/usr/bin/env bash
# Who may include whom (the arrows of the design), and what no file may use: prints every breach, and fails then.
# usage: check_includes.sh [TREE]
#
# The room of a file is the folder below include/nibble, src or kernels that it lies in; src/<room>/cuda is part of the
# room `cuda`. Public and private headers follow the same arrows. What lies in impl/ is private: a public header brings it
# only where the program has nibble by headers alone.
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"
{
  grep -rnE --include='*.h' --include='*.cpp' --include='*.cu' --include='*.cuh' '^ *#include "' include src kernels || true
} | awk -F: '
  BEGIN {
    ground = "core scheme matrix"
    may["core"] = "core"
    may["scheme"] = "core scheme"
    may["matrix"] = ground
    may["format"] = ground " format"
    may["backend"] = ground " backend"
    may["quantize"] = ground " backend quantize"
    may["nibble.h"] = "core scheme quantize"  # what works by headers alone
    may["solver"] = ground " backend quantize solver"
    may["train"] = ground " backend quantize format train"
    may["text"] = "core format train text"  # of train the samples, which are plain data
    may["model"] = ground " backend quantize solver format text model"
    may["engine"] = may["model"] " train engine"
    may["cuda"] = ground " backend quantize solver train cuda kernels"
    may["cli"] = may["engine"] " cuda cli"
    may["kernels"] = ground " backend solver train kernels"
  }
  function room_of(path,   part, n) {
    n = split(path, part, "/")
    if (part[1] == "include") return part[3]
    if (part[1] == "kernels") return "kernels"
    return n > 3 && part[3] == "cuda" ? "cuda" : part[2]
  }
  function target_of(include, here,   part, n) {
    n = split(include, part, "/")
    if (n == 1) return here  # beside the file
    if (part[1] == "nibble") return n == 2 ? "core" : part[2]
    if (part[1] == "src") return part[2]
    return n > 2 && part[2] == "cuda" && part[1] != "kernels" ? "cuda" : part[1]
  }
  {
    include = $0
    sub(/^[^"]*"/, "", include)
    sub(/".*/, "", include)
    here = room_of($1)
    target = target_of(include, here)
    if (!(here in may)) { print $1 ":" $2 ": the room \x27" here "\x27 is not in this list"; bad = 1; next }
    if (index(" " may[here] " ", " " target " ") == 0) {
      print $1 ":" $2 ": " here " may not include " target " (\"" include "\")"; bad = 1
    }
    if ($1 ~ /^include/ && include !~ /^nibble\//) {
      print $1 ":" $2 ": a public header sees public headers alone (\"" include "\")"; bad = 1
    }
  }
  END { exit bad }' || bad=1
find include -name '*.h' ! -path '*/impl/*' | sort | while read -r header; do
  awk -v file="$header" '
    /^#if defined\(NIBBLE_HEADER_ONLY\)$/ { alone = 1 }
    /^#(endif|else)/ { alone = 0 }
    /^ *#include "nibble\/.*\/impl\// && !alone && $0 !~ /core\/impl\/header_only\.h"$/ {
      print file ":" NR ": a public header brings what is in impl/ only #if defined(NIBBLE_HEADER_ONLY)"; bad = 1
    }
    END { exit bad }' "$header"
done || bad=1
# One entity in several units, of which each would have its own.
if grep -rnE '^namespace \{' include; then
  echo "a header has no namespace without a name: use detail"
  bad=1
fi
# The tests' emulation is found by the include path alone, and their seeded defects are patches.
if grep -rnE 'NIBBLE_MUTANT' include src kernels; then
  echo "the seeded defects are patches in tests/cuda_emulation/mutants"
  bad=1
fi
# The iterators of <filesystem> end the process when memory ends (src/core/files.h has what does not).
if grep -rnE 'directory_iterator|(fs|filesystem)::remove_all' include src; then
  echo "list_folder of src/core/files.h lists folders, and remove_quietly of src/core/pending.h removes them"
  bad=1
fi
# What of <filesystem> throws no Error of ours: a name too long, or a folder that may not be searched, is an input.
if grep -rnE '(fs|filesystem)::(exists|is_directory|is_regular_file|is_symlink|file_size)\(' src include |
  grep -vE '(error|ignored)\)|::[a-z_]+\((status|there|was)\)|fs::is_symlink\(fs::symlink_status\(entry, error\)\)'; then
  echo "exists, is_directory, is_regular_file, is_link and size of src/core/files.h throw an Error that names the file"
  bad=1
fi
exit "${bad:-0}"
