#!/usr/bin/env bash
# check_includes.sh fails on each kind of breach, in trees that hold nothing else.
set -euo pipefail
check=$(cd "$(dirname "$0")/../../cmake" && pwd)/check_includes.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
reset() { rm -rf "${tree:?}"/* && mkdir -p "$tree"/{include/nibble/core,src/core,kernels/cpu}; }

refused() {  # FILE INCLUDE: that file with that line is a breach
  reset
  mkdir -p "$tree/$(dirname "$1")"
  echo "#include \"$2\"" >"$tree/$1"
  if bash "$check" "$tree" >"$tree/said"; then
    echo "$1 may include $2, the check says"
    exit 1
  fi
  grep -q "^$1:1: " "$tree/said" || { cat "$tree/said"; echo "the check does not say where"; exit 1; }
}
taken() {  # FILE INCLUDE
  reset
  mkdir -p "$tree/$(dirname "$1")"
  echo "#include \"$2\"" >"$tree/$1"
  bash "$check" "$tree"
}

refused include/nibble/core/a.h nibble/scheme/b.h     # a public header, upwards
refused src/format/a.cpp nibble/backend/b.h           # a source
refused src/matrix/a.cpp format/b.h                   # a private header
refused src/text/a.cpp model/b.h
refused src/model/a.cpp engine/b.h
refused src/solver/a.cpp backend/cuda/b.h             # what needs CUDA
refused include/nibble/backend/a.h kernels/cpu/b.h    # a public header that sees kernels
refused include/nibble/backend/a.h core/b.h           # … or src/
refused include/nibble/core/a.h nibble/core/impl/b_inl.h  # … or what is private
refused kernels/cpu/a.cpp format/b.h
refused kernels/cuda/a.cuh tests/cuda_emulation/b.h
refused src/new_room/a.cpp nibble/core/b.h            # a room that the list does not know
taken include/nibble/scheme/a.h nibble/core/b.h
taken include/nibble/scheme/impl/a_inl.h nibble/core/impl/b.h
taken kernels/cpu/a.cpp nibble/backend/impl/cpu/b.h
taken src/engine/a.cpp model/b.h
taken src/solver/cuda/a.cpp backend/cuda/b.h
taken kernels/cpu/a.cpp b.h
reset
printf '#if defined(NIBBLE_HEADER_ONLY)\n#include "nibble/core/impl/b_inl.h"\n#endif\n' >"$tree/include/nibble/core/a.h"
bash "$check" "$tree"
echo 'namespace {' >"$tree/include/nibble/core/a.h"
if bash "$check" "$tree" >/dev/null; then
  echo "a header's namespace without a name is taken"
  exit 1
fi
for line in 'for (auto& e : fs::directory_iterator(x)) {}' 'fs::remove_all(x, error);' '#if NIBBLE_MUTANT == 1'; do
  reset
  echo "$line" >"$tree/src/core/a.cpp"
  if bash "$check" "$tree" >/dev/null; then
    echo "'$line' is taken"
    exit 1
  fi
done
