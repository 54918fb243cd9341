#!/usr/bin/env bash
# Who may include whom (the arrows of the design): fails on the first folder that reaches further than it may.
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
exit $bad
