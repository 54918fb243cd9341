#!/usr/bin/env bash
# An ISA unit may define only its table. A weak symbol in it could be the copy that the linker keeps for everyone, and
# fault on an older CPU.  usage: check_kernel_symbols.sh OBJECT[;OBJECT…]
set -euo pipefail
bad=0
IFS=';' read -ra objects <<<"$*"
for object in "${objects[@]}"; do
  symbols=$("${NM:-nm}" --defined-only --extern-only "$object" | awk '{print $NF}')
  others=$(grep -vE '^_ZN6nibble[0-9]+v[0-9]+_[0-9]+kernels[0-9]+[a-z0-9]+_kernelsE$' <<<"$symbols" || true)
  if [ -n "$others" ]; then
    echo "$object defines more than its table:"
    echo "$others"
    bad=1
  fi
done
exit $bad
