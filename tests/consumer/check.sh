#!/usr/bin/env bash
# Builds and runs the consumer against an installed copy, the same copy moved, pkg-config, and the source tree.
# usage: check.sh SOURCE BUILD COMPILER
set -euo pipefail
source=$1 build=$2 compiler=$3
work=$build/consumer
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$work" && mkdir -p "$work"

consume() {  # NAME CMAKE-ARGUMENTS…
  local name=$1
  shift
  cmake -S "$here" -B "$work/$name" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Release "$@" >"$work/$name.log" 2>&1 &&
    cmake --build "$work/$name" >>"$work/$name.log" 2>&1 || { cat "$work/$name.log"; exit 1; }
  echo "$name: $("$work/$name/consumer")"
}

cmake --install "$build" --prefix "$work/prefix" >"$work/install.log"
consume installed -DCMAKE_PREFIX_PATH="$work/prefix"
mv "$work/prefix" "$work/moved"
consume moved -DCMAKE_PREFIX_PATH="$work/moved"
if command -v pkg-config >/dev/null; then
  pc=$(dirname "$(find "$work/moved" -name nibble.pc)")
  # shellcheck disable=SC2046
  "$compiler" -std=c++20 -O1 "$here/main.cpp" $(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs nibble) -o "$work/by-pkg-config"
  echo "pkg-config: $("$work/by-pkg-config")"
fi
consume subdirectory -DNIBBLE_SOURCE="$source"
