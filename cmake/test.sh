#!/usr/bin/env bash
# Installs what is missing, builds and runs all tests, or those of some rooms and what they need.
# usage: test.sh [PRESET [ROOM|ROOM…]]   (release, debug, asan, tsan, clang, aarch64)   test.sh aarch64 'core|backend'
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:-release} rooms=${2:-}
case $preset in
  asan | clang | aarch64) bash cmake/install_dependencies.sh --checks ;;
  *) bash cmake/install_dependencies.sh ;;
esac
cmake --preset "$preset"
chosen=()
if [ -n "$rooms" ]; then
  mapfile -t programs < <(ninja -C "build/$preset" -t targets all | sed -nE "s/^(($rooms)_[a-z0-9_]+): phony$/\1/p")
  [ ${#programs[@]} -gt 0 ] || { echo "no test belongs to '$rooms'; rooms are the folders of tests/" >&2; exit 1; }
  cmake --build --preset "$preset" --target "${programs[@]}"
  chosen=(-R "^($rooms)\.")
else
  cmake --build --preset "$preset"
fi
ctest --preset "$preset" -j "$(nproc)" "${chosen[@]}"
