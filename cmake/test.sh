#!/usr/bin/env bash
# Installs what is missing, builds and runs all tests.  usage: test.sh [PRESET]   (release, debug, asan, tsan, clang, aarch64)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:-release}
case $preset in
  asan | clang | aarch64) bash cmake/install_dependencies.sh --checks ;;
  *) bash cmake/install_dependencies.sh ;;
esac
cmake --preset "$preset"
cmake --build --preset "$preset"
ctest --preset "$preset" -j "$(nproc)"
