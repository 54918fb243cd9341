#!/usr/bin/env bash
# Builds and runs the consumer against an installed copy, the same copy moved, pkg-config, and the source tree; where the
# copy has nibble::cuda, a consumer of that, too.
# usage: check.sh SOURCE BUILD COMPILER
set -euo pipefail
source=$1 build=$2 compiler=$3
work=$build/consumer
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$work" && mkdir -p "$work"

consume() {  # NAME CMAKE-ARGUMENTS…
  local name=$1 program
  shift
  cmake -S "$here" -B "$work/$name" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Release "$@" >"$work/$name.log" 2>&1 &&
    cmake --build "$work/$name" >>"$work/$name.log" 2>&1 || { cat "$work/$name.log"; exit 1; }
  for program in consumer consumer_cuda; do
    [ ! -e "$work/$name/$program" ] || echo "$name: $("$work/$name/$program")"
  done
}

consume_package() {  # PACKAGE SOURCE: by pkg-config
  local -x PKG_CONFIG_PATH=$libs/pkgconfig
  # shellcheck disable=SC2046
  "$compiler" -std=c++20 -O1 "$here/$2" $(pkg-config --cflags --libs "$1") -o "$work/by-pkg-config"
  echo "pkg-config $1: $(LD_LIBRARY_PATH=$libs:$(pkg-config --variable=cudalibdir "$1") "$work/by-pkg-config")"
}

cmake --install "$build" --prefix "$work/prefix" >"$work/install.log"
consume installed -DCMAKE_PREFIX_PATH="$work/prefix"
mv "$work/prefix" "$work/elsewhere"
consume moved -DCMAKE_PREFIX_PATH="$work/elsewhere"
[ ! -e "$work/elsewhere/bin/nibble" ] || echo "the tool: $("$work/elsewhere/bin/nibble" --version)"
libs=$(dirname "$(find "$work/elsewhere" -name 'libnibble.*' -print -quit)")
has_cuda=$(find "$libs" -name 'libnibble_cuda.*' -print -quit)
if [ -n "$has_cuda" ] && [ ! -e "$work/moved/consumer_cuda" ]; then
  echo "the package has $has_cuda, but gave no nibble::cuda"
  exit 1
fi
if command -v pkg-config >/dev/null; then
  consume_package nibble main.cpp
  [ -z "$has_cuda" ] || consume_package nibble-cuda cuda.cpp
fi
consume subdirectory -DNIBBLE_SOURCE="$source"
