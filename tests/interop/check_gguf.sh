#!/usr/bin/env bash
# Exports the embedded model in every type and has the real gguf package open and dequantize the files.
# usage: check_gguf.sh NIBBLE MODEL WORK-FOLDER     exit 77: skipped, the package cannot be had
set -euo pipefail
nibble=$1 model=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"
python=python3
if ! $python -c 'import gguf' 2>/dev/null; then
  python=$work/venv-gguf/bin/python
  if ! "$python" -c 'import gguf' 2>/dev/null; then
    { python3 -m venv "$work/venv-gguf" && "$python" -m pip install -q gguf==0.19.0; } >"$work/pip-gguf.log" 2>&1 ||
      { echo "skipped: Python's gguf is neither installed nor to be had"; exit 77; }
  fi
fi
"$nibble" export-gguf "$model" "$work/f32.gguf" --type f32 --quiet --force
# The limits are twice the error of rounding a normal variable to so many bits in groups of 32.
while read -r type limit; do
  "$nibble" export-gguf "$model" "$work/$type.gguf" --type "$type" --quiet --force
  echo -n "$type: "
  "$python" "$here/check_gguf.py" "$work/$type.gguf" "$work/f32.gguf" "$limit"
done <<'TYPES'
f32 0
bf16 0
f16 0.0005
q8_0 0.012
q6_k 0.04
q5_1 0.09
q5_0 0.09
q4_1 0.18
q4_0 0.18
q4_k 0.16
TYPES
