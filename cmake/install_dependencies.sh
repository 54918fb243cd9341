#!/usr/bin/env bash
# Installs what the build needs and the machine lacks (Debian 12, Ubuntu). Touches no network when nothing is missing.
# usage: install_dependencies.sh [--checks]    --checks adds the compilers and linters of the full check
set -euo pipefail
packages=(g++ cmake ninja-build pkg-config libeigen3-dev nlohmann-json3-dev libcli11-dev libfmt-dev libicu-dev
  libgtest-dev libbenchmark-dev patch python3 python3-venv)
[ "${1:-}" = --checks ] && packages+=(clang clang-format clang-tidy libclang-rt-dev g++-aarch64-linux-gnu qemu-user)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "installing: ${missing[*]}"
run=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install these packages as root first: ${missing[*]}" >&2; exit 1; }
  run=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${run[@]}" apt-get update -qq
"${run[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
