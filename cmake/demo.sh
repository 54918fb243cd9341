#!/usr/bin/env bash
# Installs what is missing, builds, and runs the main job: what each quantization costs the embedded model.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash cmake/install_dependencies.sh
cmake --preset release
cmake --build --preset release --target nibble_cli
build/release/bin/nibble compare --plot build/compare.svg --json build/compare.json
