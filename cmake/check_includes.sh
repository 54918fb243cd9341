#!/usr/bin/env bash
# Who may include whom (the arrows of the design), and what no file may use: prints every breach, and fails then.
set -euo pipefail
cd "$(dirname "$0")/.."
declare -A allowed=(
  [core]="core" [scheme]="core scheme" [matrix]="core scheme matrix" [backend]="core scheme matrix backend"
  [quantize]="core scheme matrix backend quantize" [solver]="core scheme matrix backend quantize solver"
  [format]="core scheme matrix format" [train]="core scheme matrix backend quantize train"
  [llama]="core scheme matrix backend quantize solver format train llama")
bad=0
for folder in "${!allowed[@]}"; do
  for dir in include/nibble/$folder src/$folder; do
    [ -d "$dir" ] || continue
    while IFS=: read -r file line include; do
      target=$(sed -E 's/.*"nibble\/([a-z_]+)\/.*/\1/' <<<"$include")
      # The CPU backends run LLM.int8's activation quantizer inside matmul: the one arrow that points up.
      [ "$dir $target" = "src/backend quantize" ] && continue
      if [[ " ${allowed[$folder]} " != *" $target "* ]]; then
        echo "$file:$line: $folder may not include $target"
        bad=1
      fi
    done < <(grep -rnE '#include "nibble/[a-z_]+/' "$dir" || true)
  done
done
if grep -rnE '#include "(kernels|src)/' include; then
  echo "public headers may not see kernels/ or src/"
  bad=1
fi
# The tests' emulation is found by the include path alone, and their seeded defects are patches.
if grep -rnE '#include "(tests|cuda_emulation)/|NIBBLE_MUTANT' include src kernels; then
  echo "kernels/, src/ and public headers may not see the tests"
  bad=1
fi
# The iterators of <filesystem> end the process when memory ends (src/core/files.h has what does not).
if grep -rnE 'directory_iterator|(fs|filesystem)::remove_all' include src; then
  echo "list_folder of src/core/files.h lists folders, and remove_quietly of src/core/pending.h removes them"
  bad=1
fi
exit $bad
