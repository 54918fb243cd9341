#!/usr/bin/env bash
# Installs what is missing, builds and runs all tests.  usage: test.sh [PRESET]   (release, debug, asan, tsan, clang)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:-release}
if [ "$preset" = clang ]; then bash cmake/install_dependencies.sh --checks; else bash cmake/install_dependencies.sh; fi
cmake --preset "$preset"
cmake --build --preset "$preset"
ctest --preset "$preset" -j "$(nproc)"
