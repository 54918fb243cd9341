#!/usr/bin/env bash
# Quantizes the embedded model and has an independent Python decoder dequantize it: equal to ours, value for value.
# usage: check.sh NIBBLE MODEL WORK-FOLDER     exit 77: skipped, numpy and safetensors cannot be had
set -euo pipefail
nibble=$1 model=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"
python=python3
if ! $python -c 'import numpy, safetensors' 2>/dev/null; then
  python=$work/venv/bin/python
  if ! "$python" -c 'import numpy, safetensors' 2>/dev/null; then
    { python3 -m venv "$work/venv" && "$python" -m pip install -q numpy safetensors; } >"$work/pip.log" 2>&1 ||
      { echo "skipped: Python's numpy and safetensors are neither installed nor to be had"; exit 77; }
  fi
fi

# equal NAME: the weights nibble decoded, and those the independent decoder found.
equal() {
  "$python" - "$work/decoded/model.safetensors" "$work/independent.safetensors" "$1" <<'PYTHON'
import sys
from safetensors.numpy import load_file
ours, theirs = load_file(sys.argv[1]), load_file(sys.argv[2])
assert len(theirs) == 42, len(theirs)
for name, values in theirs.items():
    assert values.tobytes() == ours[name].tobytes(), f"{sys.argv[3]}: {name} differs"
print(f"{sys.argv[3]}: {len(theirs)} tensors are equal, bit for bit")
PYTHON
}
for method in nf4 nf4-dq fp4; do
  rm -rf "$work/quantized" "$work/decoded"
  "$nibble" quantize "$model" -o "$work/quantized" --method $method --quiet
  "$nibble" quantize "$work/quantized" -o "$work/decoded" --method fp32 --quiet
  "$python" "$here/dequantize_bnb4.py" "$work/quantized/model.safetensors" "$work/independent.safetensors"
  equal $method
done
while read -r method layout; do
  rm -rf "$work/quantized" "$work/converted" "$work/decoded"
  "$nibble" quantize "$model" -o "$work/quantized" --method "$method" --quiet
  "$nibble" convert "$work/quantized" "$work/converted" --to "$layout" --quiet
  "$nibble" quantize "$work/converted" -o "$work/decoded" --method fp32 --quiet
  "$python" "$here/dequantize_layouts.py" "$work/converted" "$work/independent.safetensors"
  equal "$method in $layout"
done <<'CASES'
int4-g64-sym gptq
int3-g32-asym gptq-v2
int2-g32-asym gptq-v2
int8-g128-sym gptq
int4-g32-asym awq
int4-g64-asym awq-gemv
int4-channel-sym-f16 awq
int4-g128-asym compressed-tensors
int3-g32-asym compressed-tensors
int8 compressed-tensors
CASES
